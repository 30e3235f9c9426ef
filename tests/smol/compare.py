"""Trains the recipe `smol-long` with and without its reconstruct stage and scores both on pictures never trained on.

`python -m tests.smol.compare --data DIR --parts DIR --out DIR`, with what tests.smol.pictures and tests.smol.parts
wrote. Each seed has one align stage; the finetune stage follows it once with reconstruct between and once at once, on
the same samples. Stopped, the same command goes on. `OUT/results.json` has the scores, `OUT/times.jsonl` what each
command took.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPE = "smol-long"


@dataclass(frozen=True)
class Comparison:
    """Where the comparison finds its parts and puts its runs.

    Args:
        data: Folder that tests.smol.pictures wrote.
        parts: Folder that tests.smol.parts wrote; None takes the recipe's own from the hub.
        out: Folder of the runs, scores and times.
        more: Further `--set` values of every stage, as croc takes them.
    """

    data: Path
    parts: Path | None
    out: Path
    more: tuple[str, ...] = ()

    def settings(self) -> list[str]:
        """Return the flags that put data and parts into the recipe."""
        values = [f"data.cache_features={self.out / 'features'}"]
        for stage in ("align", "reconstruct", "finetune"):
            values += [
                f"data.{stage}.path={self.data / stage}.json",
                f"data.{stage}.image_folder={self.data / 'images'}",
            ]
        if self.parts is not None:
            values += [f"model.vision_tower={self.parts / 'vision_tower'}", f"model.llm={self.parts / 'llm'}"]
        return [argument for value in (*values, *self.more) for argument in ("--set", value)]

    def run_folder(self, seed: int, *, reconstruct: bool) -> Path:
        """Return the run folder of a chain; the one without reconstruct borrows the other's align stage."""
        return self.out / f"seed-{seed}{'' if reconstruct else '-without'}"

    def chain(self, seed: int, *, reconstruct: bool) -> list[list[str]]:
        """Return croc's commands of a chain, in order."""
        whole = self.run_folder(seed, reconstruct=True)
        common = ["--seed", str(seed), *self.settings()]
        align = ["align", RECIPE, "--run-dir", str(whole), *common]
        if reconstruct:
            return [align, *([stage, *align[1:]] for stage in ("reconstruct", "finetune"))]
        start = newest_checkpoint(whole / "align")
        alone = ["finetune", RECIPE, "--run-dir", str(self.run_folder(seed, reconstruct=False)), "--from", str(start)]
        return [align, [*alone, *common]]


def newest_checkpoint(stage_folder: Path) -> Path:
    """Return the last checkpoint of a stage; before there is one, where it will be sought."""
    return max((stage_folder / "checkpoints").glob("step-*"), default=stage_folder / "checkpoints" / "none-yet")


def timed(command: list[str], times: Path, *, stdout: Path | None = None) -> None:
    """Run a command to its end and note its seconds.

    Raises:
        subprocess.CalledProcessError: It failed; its own words are on stderr.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE if stdout else None, text=True).stdout
    if stdout is not None:
        stdout.write_text(output, encoding="utf-8")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = {"command": command[2:6], "seconds": round(time.time() - started, 1), "cpu_seconds": round(cpu, 1)}
    with times.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def compare(comparison: Comparison, seeds: list[int], *, count: int) -> list[dict[str, Any]]:
    """Run what is not finished yet, and return one row of scores for each seed and chain."""
    comparison.out.mkdir(parents=True, exist_ok=True)
    times, rows = comparison.out / "times.jsonl", []
    for seed in seeds:
        for reconstruct in (True, False):
            scores = comparison.out / f"held-out-{comparison.run_folder(seed, reconstruct=reconstruct).name}.json"
            if not scores.is_file():
                for number in range(len(comparison.chain(seed, reconstruct=reconstruct))):
                    arguments = comparison.chain(seed, reconstruct=reconstruct)[number]
                    timed([sys.executable, "-m", "croc_cli", *arguments], times)
                model = newest_checkpoint(comparison.run_folder(seed, reconstruct=reconstruct) / "finetune")
                asked = ["--model", str(model), "--data", str(comparison.data), "--count", str(count)]
                timed([sys.executable, "-m", "tests.smol.held_out", *asked], times, stdout=scores)
            rows.append({"seed": seed, "reconstruct": reconstruct} | json.loads(scores.read_text(encoding="utf-8")))
            (comparison.out / "results.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    return rows


def main() -> int:
    """Run the comparison from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Recipe smol-long with and without its reconstruct stage.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="what tests.smol.pictures wrote")
    parser.add_argument("--parts", type=Path, metavar="DIR", help="what tests.smol.parts wrote (default: the hub's)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for runs, scores and times")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="seeds 0 to N - 1 (default: 2)")
    parser.add_argument("--count", type=int, default=60, metavar="N", help="held-out questions (default: 60)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as croc takes it")
    given = parser.parse_args()
    comparison = Comparison(given.data, given.parts, given.out, tuple(given.set))
    try:
        rows = compare(comparison, list(range(given.seeds)), count=given.count)
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(error.cmd[2:6])} ended with exit code {error.returncode}", file=sys.stderr)
        return 1
    for row in rows:
        name = "with" if row["reconstruct"] else "without"
        print(f"seed {row['seed']} {name}: right {row['right']:.3f}, swapped {row['swapped']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
