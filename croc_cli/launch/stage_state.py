"""What a stage folder already holds, and what the stage starts from: decides between start, resume, skip and refuse."""

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from croc_cli.errors import UsageError
from croc_cli.launch.data_record import data_changes
from croc_cli.launch.plan import count_samples, count_steps
from croc_cli.launch.weights import weights_sha256
from croc_cli.names import METADATA_FILE, RESUME_FOLDER, STAGES, StageName, stage_name
from croc_cli.recipe.renamed import renamed
from croc_cli.recipe.schema import Recipe
from croc_cli.recipe.yaml_file import read_yaml
from croc_cli.run_dir import RunDir, StageDir, read_json, step_of

State = Literal["new", "unfinished", "finished"]

BESIDE_THE_POINT = frozenset(
    {
        "enabled",
        "save_every",
        "keep_checkpoints",
        "gradient_checkpointing",
        "log_gradient_shares_every",
        "validate_every",
        "batch.micro_size",
        "batch.packing",
        "batch.row_tokens",
    }
)
"""Keys of a stage that change how it runs, not what it comes to."""
_FRESH = "--fresh starts over (the old folder is renamed), --run-dir DIR keeps both"


def stage_facts(recipe: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return the part of a recipe that decides what a stage comes to, as dotted key → value.

    Args:
        recipe: A resolved recipe, as plain JSON values.
        stage: A training stage, or `eval`.
    """
    if stage == "eval":
        asked = {key: value for key, value in _section(recipe, "eval").items() if key != "during"}
        return _flat(asked, "eval")
    section = _flat(_section(recipe, stage), stage)
    own = {key: value for key, value in section.items() if key.removeprefix(f"{stage}.") not in BESIDE_THE_POINT}
    data = _section(_section(recipe, "data"), stage)
    if data.get("kind") == "scenes" or _section(data, "held_out").get("path"):
        data = {key: value for key, value in data.items() if key != "held_out"}  # what is trained on stays the same
    return _flat(_section(recipe, "model"), "model") | _flat(data, f"data.{stage}") | own


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a recipe; empty where a damaged file holds something else."""
    section = recipe.get(name)
    return section if isinstance(section, Mapping) else {}


def fingerprint(recipe: Recipe, stage: str) -> str:
    """Return the hash of what decides a stage's outcome."""
    text = json.dumps(stage_facts(recipe.model_dump(mode="json"), stage), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differing_keys(recipe: Recipe, stage_dir: StageDir) -> list[str]:
    """Return the keys in which a stage folder's recipe differs from this one, where it matters to the stage.

    Keys that the recipe of an older croc does not have count with their defaults, which change nothing.
    """
    old = read_yaml(stage_dir.recipe_file, label=str(stage_dir.recipe_file)).values
    with suppress(ValidationError):  # a key that is no more: then every key counts as it is written
        old = Recipe.model_validate(renamed(old)[0]).model_dump(mode="json")
    before = stage_facts(old, stage_dir.name)
    now = stage_facts(recipe.model_dump(mode="json"), stage_dir.name)
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def stage_state(recipe: Recipe, stage_dir: StageDir, start: Path | None, *, accept_changed_data: bool = False) -> State:
    """Tell whether a stage is new, unfinished or finished.

    A finished stage of which the recipe now wants more steps is unfinished again.

    Args:
        recipe: The recipe of this command.
        stage_dir: The stage's folder.
        start: The checkpoint that the stage would start from now.
        accept_changed_data: Resume also where the data has changed since the stage started.

    Raises:
        UsageError: The folder was made with other settings, from other weights or on other data.
    """
    if not stage_dir.exists():
        return "new"
    checkpoint = stage_dir.latest_checkpoint()
    begun = stage_dir.finished() or checkpoint is not None
    if not begun:
        return "new"
    differing = differing_keys(recipe, stage_dir)
    is_longer = stage_dir.finished() and _wants_more_steps(recipe, stage_dir, checkpoint, differing)
    if differing and not is_longer:
        shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        raise UsageError(f"{stage_dir.root} was made with other settings: {shown}", hint=_FRESH)
    if started_elsewhere(stage_dir, start):
        raise UsageError(f"{stage_dir.root} started from other weights than {start} holds now", hint=_FRESH)
    if stage_dir.finished() and not is_longer:
        return "finished"
    if stage_dir.name in STAGES:
        _check_data(recipe, stage_dir, checkpoint, accept=accept_changed_data)
    return "unfinished"


def _wants_more_steps(recipe: Recipe, stage_dir: StageDir, checkpoint: Path | None, differing: list[str]) -> bool:
    """Tell whether the recipe differs from a finished stage's in nothing but more steps, and it can be resumed."""
    stage = stage_dir.name
    if not differing or stage not in STAGES or set(differing) - {f"{stage}.max_steps", f"{stage}.epochs"}:
        return False
    steps = _num_steps(recipe, stage_name(stage))
    if checkpoint is None or not (checkpoint / RESUME_FOLDER).is_dir():
        return False
    return steps is not None and steps > (step_of(checkpoint) or 0)


def _check_data(recipe: Recipe, stage_dir: StageDir, checkpoint: Path | None, *, accept: bool) -> None:
    """Raise UsageError where the data under a stopped stage has changed, unless that is accepted."""
    stage = stage_name(stage_dir.name)
    changes = data_changes(recipe, stage, stage_dir)
    if changes is None:
        return
    if not accept:
        raise UsageError(
            f"the data under {stage_dir.root} has changed: {changes}",
            hint="--accept-changed-data trains the rest of the schedule on the data as it is now; "
            "--fresh starts over (the old folder is renamed)",
        )
    steps, done = _num_steps(recipe, stage), step_of(checkpoint) or 0 if checkpoint else 0
    if steps is not None and steps <= done:
        raise UsageError(
            f"nothing is left to train: {changes}, which is {steps} steps, and {stage_dir.root} has done {done}",
            hint=f"--set {stage}.max_steps=N trains up to step N; {_FRESH}",
        )


def _num_steps(recipe: Recipe, stage: StageName) -> int | None:
    return count_steps(recipe.stage(stage), count_samples(recipe, stage))


def started_elsewhere(stage_dir: StageDir, start: Path | None) -> bool:
    """Tell whether a stage started from other weights than `start` holds now; unknown counts as the same.

    Raises:
        UsageError: The files in `start` are not those that its croc.json lists.
    """
    if stage_dir.name not in STAGES:
        results = read_json(stage_dir.results_file)
        scored = results.get("model")
        recorded = scored.get("model_sha256") if isinstance(scored, dict) else results.get("checkpoint_sha256")
    else:
        latest = stage_dir.latest_checkpoint()
        begun = read_json(latest / METADATA_FILE).get("start") if latest else None
        recorded = begun.get("weights_sha256") if isinstance(begun, dict) else None
    if recorded is None or start is None:
        return False
    now = weights_sha256(start)
    return now is not None and recorded != now


def predecessor(recipe: Recipe, stage: str) -> StageName | None:
    """Return the stage whose last checkpoint a stage starts from; None = the model assembled from tower and LLM."""
    order = [name for name in STAGES if recipe.stage(name).enabled]
    before = STAGES[: STAGES.index(stage)] if stage in STAGES else STAGES
    earlier = [name for name in order if name in before]
    return earlier[-1] if earlier else None


def find_start(recipe: Recipe, run_dir: RunDir, stage: str, *, given: Path | None, recipe_argument: str) -> Path | None:
    """Return the checkpoint that a stage starts from, or None for the assembled model.

    Args:
        recipe: The recipe.
        run_dir: Its run folder.
        stage: A training stage, or `eval`.
        given: What `--from` names.
        recipe_argument: How the user named the recipe, for the hint.

    Raises:
        UsageError: `--from` names no checkpoint, or the stage before has none.
    """
    if given is not None:
        if (given / "config.json").is_file():
            return given
        reason = "holds no config.json" if given.is_dir() else "does not exist"
        raise UsageError(
            f"--from {given}: {reason}", hint="a checkpoint is a folder such as runs/nano/align/checkpoints/step-…"
        )
    before = predecessor(recipe, stage)
    if before is None:
        return None
    stage_dir = run_dir.stage(before)
    checkpoint = stage_dir.latest_checkpoint() if stage_dir.finished() else None
    if checkpoint is None:
        state = "is not finished" if stage_dir.exists() else "has not run"
        raise UsageError(
            f"{stage} starts from the checkpoint of {before}, which {state} in {run_dir.root}",
            hint=f"`croc {before} {recipe_argument}` makes it; --from DIR starts from another checkpoint",
        )
    return checkpoint


def move_aside(stage_dir: StageDir) -> Path | None:
    """Rename a stage folder to a name with the time in it, and return the new path; None where there was none."""
    if not stage_dir.root.exists():
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = stage_dir.root.with_name(f"{stage_dir.name}-{stamp}")
    number = 2
    while aside.exists():
        aside = stage_dir.root.with_name(f"{stage_dir.name}-{stamp}-{number}")
        number += 1
    return stage_dir.root.rename(aside)


def _flat(value: object, prefix: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}")
    return flat
