"""The samples that a stage found hardest: their losses from the run folder, their text and images from the data."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from heapq import nlargest
from pathlib import Path
from typing import Any

from croc_cli.errors import CrocError, UsageError
from croc_cli.files import open_file
from croc_cli.launch.data_record import data_changes
from croc_cli.names import STAGES, StageName, stage_name
from croc_cli.recipe.load import load_resolved
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe
from croc_cli.run_dir import RunDir, StageDir, parse_object
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.read.index import MixFolder
from croc_cli.sources.verify.checked_rows import CheckedData, CheckedRow

_MOST_DIGITS = 19
"""Numbers of so many digits are no row's, and fit into no array."""
LEAST_STEPS = 50
"""Steps of the window, where a fifth of the steps would be fewer."""


@dataclass(frozen=True)
class TrainedSample:
    """One sample as the last step that took it found it.

    Args:
        id: As the run names it: source, or the row's own id, and the row's number.
        step: That step.
        loss: Caption loss before that step changed the weights, in nats a token.
        tokens: Trained tokens.
        images: Paths of its images; empty for text alone, or where its row was not found.
        turns: (from, value) of its conversation; empty where its row was not found.
    """

    id: str
    step: int
    loss: float
    tokens: int
    images: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class WorstSamples:
    """What `croc report samples` shows.

    Args:
        stage: The stage.
        first_step, last_step: The window.
        num_samples: Samples of the window.
        samples: The worst of them, the worst first.
        note: Why rows are missing or may be others; None where they are not.
    """

    stage: StageName
    first_step: int
    last_step: int
    num_samples: int
    samples: list[TrainedSample]
    note: str | None


def worst_samples(
    run_dir: Path, *, count: int, stage: StageName | None = None, steps: int | None = None
) -> WorstSamples:
    """Return the samples with the highest loss in the last steps of a stage.

    Args:
        run_dir: The run folder.
        count: How many.
        stage: Which stage; None for the last that wrote losses.
        steps: The window; None for the last fifth of the steps, `LEAST_STEPS` at least. The first steps of a stage have
            high losses because nothing was learned yet, whatever their samples are.

    Raises:
        UsageError: The folder has no losses of samples.
    """
    stage_dir = _stage_dir(run_dir, stage)
    name = stage_name(stage_dir.name)
    last = max((record["step"] for record in _records(stage_dir)), default=0)
    window = steps or max(LEAST_STEPS, last // 5)
    first = max(1, last - window + 1)
    found: dict[str, TrainedSample] = {}
    for record in _records(stage_dir):
        if record["step"] < first:
            continue
        for sample_id, tokens, loss in zip(record["ids"], record["tokens"], record["losses"], strict=True):
            known = found.get(sample_id)
            if loss is not None and (known is None or known.step <= record["step"]):
                found[sample_id] = TrainedSample(sample_id, record["step"], loss, tokens)
    worst = nlargest(count, found.values(), key=lambda sample: (sample.loss, sample.id))
    rows, note = _rows(stage_dir, name, [sample.id for sample in worst])
    return WorstSamples(name, first, last, len(found), [_with_row(one, rows.get(one.id)) for one in worst], note)


def format_worst(found: WorstSamples, *, width: int) -> str:
    """Return the samples as text.

    Args:
        found: The samples.
        width: Columns of the terminal; longer texts are cut.
    """
    steps = f"steps {found.first_step:,} to {found.last_step:,}"
    lines = [f"{found.stage}, {steps}: the worst {len(found.samples):,} of {found.num_samples:,} samples", ""]
    lines.append("  loss  tokens    step  sample")
    for sample in found.samples:
        lines.append(f"{sample.loss:6.3f}  {sample.tokens:6,}  {sample.step:6,}  {sample.id}")
        lines += [_cut(f"          image  {name}", width) for name in sample.images]
        lines += [_cut(f"{speaker:>15}  {' '.join(text.split())}", width) for speaker, text in sample.turns]
    return "\n".join(lines)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(1, width - 1)] + "…"


def _stage_dir(run_dir: Path, stage: StageName | None) -> StageDir:
    run = RunDir(run_dir)
    written = [name for name in STAGES if run.stage(name).samples_files()]
    if stage in written or (stage is None and written):
        return run.stage(stage or written[-1])
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir} is not a folder", hint="a run folder is one such as runs/nano")
    where = f"{stage} of {run_dir}" if stage else str(run_dir)
    have = f"it has those of {' and '.join(written)}" if written else "stages that this croc trains write them"
    raise UsageError(f"{where} has no losses of samples (samples/rank-0.jsonl)", hint=have)


def _records(stage_dir: StageDir) -> Iterator[dict[str, Any]]:
    """Yield what ranks wrote, step by step; lines that are cut off or no such record are left out."""
    for file in stage_dir.samples_files():
        with suppress(OSError), open_file(file) as lines:  # no file, as in a damaged folder
            for line in lines:
                with suppress(ValueError):
                    record = parse_object(line)
                    if "step" in record and _is_whole(record):
                        yield record


def _is_whole(record: dict[str, Any]) -> bool:
    """Tell whether a record holds what ranks write: names, whole numbers, and finite numbers or null."""
    ids, tokens, losses = (record.get(key) for key in ("ids", "tokens", "losses"))
    if not (isinstance(ids, list) and isinstance(tokens, list) and isinstance(losses, list)):
        return False
    return (
        len(ids) == len(tokens) == len(losses)
        and all(isinstance(name, str) for name in ids)
        and all(type(number) is int for number in (record["step"], *tokens))
        and all(loss is None or (isinstance(loss, float | int) and math.isfinite(loss)) for loss in losses)
    )


def _rows(stage_dir: StageDir, stage: StageName, ids: Sequence[str]) -> tuple[dict[str, CheckedRow], str | None]:
    """Return the rows of samples by id, and why some are missing or may be others."""
    try:
        recipe = load_resolved(stage_dir.recipe_file)
        rows = _find(recipe, stage, ids)
        changed = data_changes(recipe, stage, stage_dir)
    except (CrocError, OSError) as error:
        return {}, f"their text and images are not shown: {error}"
    if changed is not None:
        return rows, f"{changed}, so texts and images may be others than those that were trained on"
    if not rows and ids:
        return rows, "their text and images are not shown: they were drawn while training ran, so no file holds them"
    return rows, None


def _find(recipe: Recipe, stage: StageName, ids: Sequence[str]) -> dict[str, CheckedRow]:
    source = recipe.data.source(stage)
    if isinstance(source, MixData):
        return _find_in_mix(MixFolder(mix_folder(recipe, stage)), ids)
    if not isinstance(source, LlavaJsonData):
        return {}
    root = recipe.data.root
    wanted = {number: name for name in ids if (number := _row_number(name)) is not None}
    rows: dict[str, CheckedRow] = {}
    for row in CheckedData(data_path(root, source.path), data_path(root, source.image_folder)).rows():
        if row.number in wanted:
            rows[wanted[row.number]] = row
            if len(rows) == len(wanted):
                break
    return rows


def _find_in_mix(mix: MixFolder, ids: Sequence[str]) -> dict[str, CheckedRow]:
    numbers = {source.name: number for number, source in enumerate(mix.manifest.sources)}
    rows = {}
    for name in ids:
        source = name.rpartition("#")[0]
        if source not in numbers or (number := _row_number(name)) is None:
            continue
        for position in ((mix.index.source == numbers[source]) & (mix.index.row == number)).nonzero()[0][:1]:
            root = str(mix.image_roots[numbers[source]])
            rows[name] = CheckedRow(int(position), name, mix.row(int(position)), root)
    return rows


def _row_number(name: str) -> int | None:
    """Return the number of a sample's row, which its name ends in; None where it is not a name that croc gives."""
    digits = name.rpartition("#")[2]
    return int(digits) if digits.isdecimal() and len(digits) < _MOST_DIGITS else None


def _with_row(sample: TrainedSample, row: CheckedRow | None) -> TrainedSample:
    if row is None or not isinstance(row.row, dict):
        return sample
    turns = tuple((turn["from"], turn["value"]) for turn in row.row["conversations"])
    return replace(sample, images=tuple(place.name for _, place in row.images()), turns=turns)
