"""Tokens a second of each stage on the nano recipe, from the metrics of a short real run of one CPU process."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 30
WARM_UP = 10
"""Steps that are left out: caches are cold and allocators grow."""


def main() -> None:
    """Run each stage for a few steps and print the medians of its later ones."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'stage':12} {'tokens/s':>9} {'samples/s':>10} {'step ms':>8} {'waits':>7}")
        for stage in ("align", "reconstruct", "finetune"):
            command = [sys.executable, "-m", "croc_cli", stage, "nano", "--run-dir", folder, "--steps", str(STEPS)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            lines = (Path(folder) / stage / "metrics.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines][WARM_UP:]
            middle = {
                key: statistics.median(row[key] for row in rows)
                for key in ("tokens_per_second", "samples_per_second", "step_seconds")
            }
            share = statistics.median(row.get("assignment_wait_share") or 0.0 for row in rows)
            print(
                f"{stage:12} {middle['tokens_per_second']:9.0f} {middle['samples_per_second']:10.1f} "
                f"{1000 * middle['step_seconds']:8.1f} {share:7.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
