"""Looks the pinned versions up among known vulnerabilities with pip-audit, where its service can be reached.

`make check` runs it. A finding fails the check; what could not be looked up is said, and does not.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
SECONDS = 180


def main() -> int:
    """Audit the constraints file and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return say(0, f"audit: no answer within {SECONDS} s; nothing was audited")
    if "No module named pip_audit" in done.stderr:
        return say(0, "audit: pip-audit is not installed; nothing was audited")
    try:
        report = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return say(0, f"audit: the service cannot be reached, nothing was audited ({reason[:160]})")
    return say(*verdict(report))


def say(code: int, text: str) -> int:
    print(text)
    return code


def verdict(report: dict[str, Any]) -> tuple[int, str]:
    """Return the exit code and what to say of pip-audit's JSON report."""
    packages = report["dependencies"]
    found = [(package, flaw) for package in packages for flaw in package.get("vulns", ())]
    skipped = sum("skip_reason" in package for package in packages)
    lines = [f"{package['name']} {package['version']}: {flaw['id']}{fixed_in(flaw)}" for package, flaw in found]
    left_out = f"; {skipped} could not be looked up" if skipped else ""
    lines.append(f"audit: {len(packages) - skipped} packages looked up, {len(found)} known vulnerabilities{left_out}")
    return (1 if found else 0), "\n".join(lines)


def fixed_in(flaw: dict[str, Any]) -> str:
    versions = flaw.get("fix_versions") or []
    return f", fixed in {', '.join(versions)}" if versions else ", no version fixes it yet"


if __name__ == "__main__":
    sys.exit(main())
