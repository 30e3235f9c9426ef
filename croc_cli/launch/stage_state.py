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
from croc_cli.names import STAGES, StageName
from croc_cli.recipe.schema import Recipe
from croc_cli.recipe.yaml_file import read_yaml
from croc_cli.run_dir import RunDir, StageDir, read_json

State = Literal["new", "unfinished", "finished"]

BESIDE_THE_POINT = frozenset(
    {
        "enabled",
        "save_every",
        "keep_checkpoints",
        "gradient_checkpointing",
        "log_gradient_shares_every",
        "batch.micro_size",
    }
)
"""Keys of a stage that change how it runs, not what it comes to."""
CHECKPOINT_METADATA = "croc.json"


def stage_facts(recipe: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return the part of a recipe that decides what a stage comes to, as dotted key → value.

    Args:
        recipe: A resolved recipe, as plain JSON values.
        stage: A training stage, or `eval`.
    """
    if stage == "eval":
        return _flat(recipe.get("eval", {}), "eval")
    section = _flat(recipe.get(stage, {}), stage)
    own = {key: value for key, value in section.items() if key.removeprefix(f"{stage}.") not in BESIDE_THE_POINT}
    data = recipe.get("data", {}).get(stage) or {}
    return _flat(recipe.get("model", {}), "model") | _flat(data, f"data.{stage}") | own


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
        old = Recipe.model_validate(old).model_dump(mode="json")
    before = stage_facts(old, stage_dir.name)
    now = stage_facts(recipe.model_dump(mode="json"), stage_dir.name)
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def stage_state(recipe: Recipe, stage_dir: StageDir, start: Path | None) -> State:
    """Tell whether a stage is new, to be gone on with, or finished.

    Args:
        recipe: The recipe of this command.
        stage_dir: The stage's folder.
        start: The checkpoint that the stage would start from now.

    Raises:
        UsageError: The folder was made with other settings or from other weights.
    """
    if not stage_dir.exists():
        return "new"
    begun = stage_dir.finished() or stage_dir.latest_checkpoint() is not None
    differing = differing_keys(recipe, stage_dir)
    if differing and begun:
        shown = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        raise UsageError(
            f"{stage_dir.root} was made with other settings: {shown}",
            hint="--fresh starts over (the old folder is renamed), --run-dir DIR keeps both",
        )
    if begun and started_elsewhere(stage_dir, start):
        raise UsageError(
            f"{stage_dir.root} started from other weights than {start} holds now",
            hint="--fresh starts over (the old folder is renamed), --run-dir DIR keeps both",
        )
    if stage_dir.finished():
        return "finished"
    return "unfinished" if begun else "new"


def started_elsewhere(stage_dir: StageDir, start: Path | None) -> bool:
    """Tell whether the recorded hash of a stage's start is another than that of `start`; unknown counts as the same."""
    if stage_dir.name == "eval":
        recorded = read_json(stage_dir.results_file).get("checkpoint_sha256")
    else:
        latest = stage_dir.latest_checkpoint()
        begun = read_json(latest / CHECKPOINT_METADATA).get("start") if latest else None
        recorded = begun.get("weights_sha256") if isinstance(begun, dict) else None
    now = read_json(start / CHECKPOINT_METADATA).get("weights_sha256") if start else None
    return recorded is not None and now is not None and recorded != now


def predecessor(recipe: Recipe, stage: str) -> StageName | None:
    """Return the stage whose last checkpoint a stage starts from; None = the model assembled from tower and LLM."""
    order = [name for name in STAGES if getattr(recipe, name).enabled]
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
