"""nano from its first stage to its scores on the GPU: minutes of each stage, and the mean of its scores."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from croc_cli.run_dir import RunDir
from tests.bench.gpu.card import describe, device, matrix_peak

STAGES = ("align", "reconstruct", "finetune")


def main(*, tiny: bool = False) -> None:
    """Run the recipe, and print its times and scores; tiny: a few steps on the CPU."""
    place = device(tiny=tiny)
    print(describe(place, matrix_peak(place, side=512 if tiny else 8192)))
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--run-dir", folder, "--set", f"launch.device={place.type}"]
        if tiny:
            flags += [word for stage in STAGES for word in ("--set", f"{stage}.max_steps=2")]
            flags += ["--set", "eval.num_scenes=4"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "croc_cli", "run", "nano", *flags], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        for stage in STAGES:
            rows = [json.loads(line) for line in (Path(folder) / stage / "metrics.jsonl").read_text().splitlines()]
            taken = sum(row["step_seconds"] for row in rows)
            print(f"{stage:12} {taken:6.1f} s, {sum(row['tokens'] for row in rows) / taken:9,.0f} tokens/s")
        print(f"{'all':12} {seconds:6.1f} s with start-up and evaluation")
        results = json.loads((RunDir(Path(folder)).evaluation().root / "results.json").read_text())
        print(f"score: {results['benchmarks']['scenes']['score']:.1f}")


if __name__ == "__main__":
    main()
