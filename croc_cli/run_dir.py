"""The map of a run folder: every path that processes hand to one another, each named once."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croc_cli.files import read_bytes
from croc_cli.names import BENCHMARKS
from croc_cli.reading import is_unicode, unique_keys
from croc_cli.redact import redact

PREFLIGHT_NAME = "preflight.json"
EARLIER_BENCHMARKS = "eval"
"""Where earlier versions kept the scores of drawn scenes."""
STEP_DIGITS = 8
"""Digits of a step in a checkpoint's name, so that names sort as steps do."""


@dataclass(frozen=True)
class StageDir:
    """The folder of one stage of a run.

    Args:
        root: The folder, such as `runs/nano/align`; it need not exist yet.
    """

    root: Path

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.root.name

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe that the stage was started with."""
        return self.root / "recipe.yaml"

    @property
    def launch_file(self) -> Path:
        """Command, environment, start and number of ranks of the last launch."""
        return self.root / "launch.json"

    @property
    def deepspeed_file(self) -> Path:
        """DeepSpeed's config."""
        return self.root / "deepspeed.json"

    @property
    def data_file(self) -> Path:
        """What the data of the stage was when it started."""
        return self.root / "data.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a step."""
        return self.root / "metrics.jsonl"

    def samples_file(self, rank: int) -> Path:
        """Return the file in which a rank says what losses its samples had, one JSON object a step."""
        return self.root / "samples" / f"rank-{rank}.jsonl"

    def samples_files(self) -> list[Path]:
        """Return `samples_file` of every rank that wrote one."""
        return sorted((self.root / "samples").glob("rank-*.jsonl"))

    @property
    def events_file(self) -> Path:
        """One JSON object for each thing a user should hear of while the stage runs."""
        return self.root / "events.jsonl"

    @property
    def summary_file(self) -> Path:
        """Health figures, written when the stage ends; `finished` tells whether it reached its last step."""
        return self.root / "summary.json"

    @property
    def preflight_file(self) -> Path:
        """How far a rehearsal of the stage got; of a preflight's folder only."""
        return self.root / PREFLIGHT_NAME

    @property
    def results_file(self) -> Path:
        """Scores; of the benchmarks folder only."""
        return self.root / "results.json"

    @property
    def predictions(self) -> Path:
        """Answers of the model, one JSONL file a benchmark; of the benchmarks folder only."""
        return self.root / "predictions"

    def during(self, step: int) -> "StageDir":
        """Return the folder of what the benchmarks said after `step`, with answers, items and results as in `eval`."""
        return StageDir(self.root / "during" / f"step-{step:0{STEP_DIGITS}d}")

    def evaluated_steps(self) -> list[int]:
        """Return the steps that have a folder of `during`, in order."""
        found = [step_of(path) for path in (self.root / "during").glob("step-*") if path.is_dir()]
        return sorted(step for step in found if step is not None)

    @property
    def best_file(self) -> Path:
        """Which step has the best figure of `eval.during.keep_best`, and what it is."""
        return self.root / "best.json"

    def best_step(self) -> int | None:
        """Return the step with the best figure, whose checkpoint is kept; None without any."""
        step = read_json(self.best_file).get("step")
        return step if isinstance(step, int) and not isinstance(step, bool) else None

    def best_checkpoint(self) -> Path | None:
        """Return the folder of the best step's checkpoint; None where no step is the best."""
        step = self.best_step()
        return None if step is None else self.checkpoint(step)

    @property
    def logs(self) -> Path:
        """What the launcher and the ranks printed."""
        return self.root / "logs"

    @property
    def launcher_log(self) -> Path:
        """What the launcher printed."""
        return self.logs / "launcher.log"

    @property
    def failures(self) -> Path:
        """One JSON file for each rank that died of an exception."""
        return self.root / "failures"

    def failure_file(self, rank: int) -> Path:
        """Return the file in which a dying rank says why."""
        return self.failures / f"rank-{rank}.json"

    @property
    def ranks(self) -> Path:
        """Where each rank is: `rank-N.json`, and `rank-N.stack.txt` once one has hung."""
        return self.root / "ranks"

    def rank_file(self, rank: int) -> Path:
        """Return the file in which a running rank says where it is."""
        return self.ranks / f"rank-{rank}.json"

    def stack_file(self, rank: int) -> Path:
        """Return the file that gets a rank's stack when it hangs."""
        return self.ranks / f"rank-{rank}.stack.txt"

    @property
    def stop_file(self) -> Path:
        """Asks the ranks to save and stop, by being there."""
        return self.root / "stop"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint that is saved after `step`."""
        return self.checkpoints / f"step-{step:0{STEP_DIGITS}d}"

    def complete_checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first; a name that starts with a dot is not complete."""
        if not self.checkpoints.is_dir():
            return []
        found = [path for path in self.checkpoints.iterdir() if path.is_dir() and step_of(path) is not None]
        return sorted(found, key=lambda path: step_of(path) or 0)

    def latest_checkpoint(self) -> Path | None:
        """Return the complete checkpoint of the highest step, or None."""
        found = self.complete_checkpoints()
        return found[-1] if found else None

    def is_scored(self) -> bool:
        """Tell whether the folder holds scores."""
        return bool(read_json(self.results_file).get("benchmarks"))

    def exists(self) -> bool:
        """Tell whether this stage was started before."""
        return self.recipe_file.is_file()

    def finished(self) -> bool:
        """Tell whether the stage reached its last step, or every question its answer."""
        return bool(read_json(self.summary_file).get("finished", False))


@dataclass(frozen=True)
class RunDir:
    """The folder of one run of a recipe.

    Args:
        root: The folder, such as `runs/nano`; it need not exist yet.
    """

    root: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe of the last command."""
        return self.root / "recipe.yaml"

    @property
    def preflight_file(self) -> Path:
        """The rehearsals that stages passed, by stage."""
        return self.root / PREFLIGHT_NAME

    @property
    def lock_file(self) -> Path:
        """Who runs in this folder now."""
        return self.root / "lock.json"

    @property
    def init(self) -> Path:
        """The stock LLaVA checkpoint assembled from tower and LLM."""
        return self.root / "init"

    def stage(self, name: str) -> StageDir:
        """Return the folder of a stage, or of another job."""
        return StageDir(self.root / name)

    def evaluation(self) -> StageDir:
        """Return the folder of answers and scores: `benchmarks`, or else the `eval` of earlier versions."""
        folder, earlier = self.stage(BENCHMARKS), self.stage(EARLIER_BENCHMARKS)
        return earlier if earlier.is_scored() and not folder.is_scored() else folder

    def step(self, name: str) -> StageDir:
        """Return the folder of a step of the pipeline: a stage, or `eval`."""
        return self.evaluation() if name == "eval" else self.stage(name)


def step_of(checkpoint: Path) -> int | None:
    """Return the step in a checkpoint folder's name, or None where it is not a complete checkpoint."""
    prefix, _, digits = checkpoint.name.partition("-")
    return int(digits) if prefix == "step" and digits.isdigit() else None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one where the file is missing or damaged; see `damage_of`."""
    try:
        return parse_object(read_bytes(path))
    except (OSError, ValueError):
        return {}


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file; a missing file has none, and lines that are damaged are left out."""
    try:
        lines = read_bytes(path).split(b"\n")
    except (OSError, ValueError):
        return
    for line in lines:
        with suppress(ValueError):
            yield parse_object(line)


def damage_of(path: Path) -> str | None:
    """Return what is wrong with a JSON or JSONL file of a run, with its line; None where it is whole or missing.

    The last line of a JSONL may be half-written: a run that was killed leaves it so.
    """
    try:
        content = read_bytes(path)
        if path.suffix == ".json":
            parse_object(content)
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}"
    except ValueError as error:
        return f"{path.name} is damaged and left out: {error}"
    wrong = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            parse_object(line)
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    more = f", and {len(wrong) - 1:,} more lines" if len(wrong) > 1 else ""
    return f"{path.name}, {wrong[0]}{more}; left out" if wrong else None


def parse_object(content: bytes) -> dict[str, Any]:
    """Return a JSON object; raises ValueError with the reason in one line."""
    try:
        value = json.loads(content.decode("utf-8"), parse_int=_number, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _number(digits: str) -> int | float:
    """Return a whole number, as a float where it has more digits than arithmetic takes."""
    return int(digits) if len(digits) <= 19 else float(digits)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object so that a reader sees the old file or the new one, never half of it."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    write_whole(path, (text if is_unicode(text) else json.dumps(value, indent=2)) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of it; secrets are hidden."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    with unfinished.open("x", encoding="utf-8") as file:  # a new file, never one that a link leads to
        file.write(redact(text))
    unfinished.replace(path)
