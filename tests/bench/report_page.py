"""The report of a run of 100,000 steps: time and memory, against only parsing its metrics; size of the page."""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.report.runs import make_run

STEPS = 100_000
PARSE = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"


def measure(command: list[str]) -> tuple[float, float]:
    """Return CPU seconds and MB of memory at most of a command, in a process of its own.

    CPU time, so that other programs on the machine do not count.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_maxrss / 1024  # the largest child so far; the report comes last and is the largest


def main() -> None:
    """Print the figures; the long stage is reconstruct, whose rows are the widest."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "long", stages=("reconstruct",), steps=STEPS)
        metrics = run / "reconstruct" / "metrics.jsonl"
        parse, _ = measure([sys.executable, "-c", PARSE, str(metrics)])
        seconds, memory = measure([sys.executable, "-m", "croc_cli", "report", str(run)])
        page = run / "report" / "index.html"
        print(f"{STEPS:,} steps, {metrics.stat().st_size / 1e6:.0f} MB of metrics")
        print(
            f"parsing alone {parse:.1f} s; report {seconds:.1f} s ({seconds / parse:.1f} ×), {memory:.0f} MB of memory"
        )
        print(f"page {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
