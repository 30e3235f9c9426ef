"""What each stage was trained on (the paper's Fig. 9): its samples by source, with and without picture."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from croc_cli.errors import CrocError
from croc_cli.names import STAGES, stage_name
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.renamed import renamed
from croc_cli.recipe.schema import Recipe
from croc_cli.report.charts import legend_below
from croc_cli.report.page import PageSection, PageTable
from croc_cli.report.run_data import RunData, StageData
from croc_cli.report.svg import MARKERS, Figure, new_axes, series, to_svg
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.read.manifest import read_manifest
from croc_cli.words import counted

_WHOLE_BYTES = 128 << 20
"""Files up to this size are counted from end to end; of larger ones, blocks at equal distances."""
_BLOCKS, _BLOCK_BYTES = 64, 1 << 20
_ROW = re.compile(rb'"conversations"\s*:')
_IMAGE = re.compile(rb'"image"\s*:\s*"((?:[^"\\]|\\.){1,400})"')
_MAX_SOURCES = 9
TEXT_ONLY = "text alone"


def stage_composition(recipe: Mapping[str, Any], stage: str) -> tuple[dict[str, float], str]:
    """Return the samples of one epoch by source, and a note where they are an estimate.

    Args:
        recipe: A resolved recipe as plain values.
        stage: A training stage.
    """
    data = recipe.get("data")
    source = data.get(stage) if isinstance(data, Mapping) else None
    if not isinstance(source, Mapping):
        return {}, ""
    if source.get("kind") == "scenes":
        total = float(source.get("num_samples") or 0)
        text = total * float(source.get("text_only_share") or 0.0)
        task = str(source.get("task", "scenes")).replace("_", " ")
        if source.get("brief"):
            task = "brief captions of the same pictures"
        return ({task: total - text} | ({TEXT_ONLY: text} if text else {})), ""
    if source.get("kind") == "mix":
        return mix_composition(recipe, stage), ""
    root = str(data.get("root", "data")) if isinstance(data, Mapping) else "data"
    return file_composition(data_path(root, str(source.get("path", ""))), limit=source.get("num_samples"))


def mix_composition(recipe: Mapping[str, Any], stage: str) -> dict[str, float]:
    """Return the rows of a mix by source, as its manifest counts them; none where the mix is not here."""
    try:
        folder = mix_folder(Recipe.model_validate(renamed(recipe)[0]), stage_name(stage))
        sources = read_manifest(folder).sources
    except (CrocError, ValidationError):
        return {}
    rows = Counter[str]()
    for source in sorted(sources, key=lambda source: -source.rows_out):
        text = source.image_root is None
        name = TEXT_ONLY if text else source.name if len(rows) < _MAX_SOURCES else "other pictures"
        rows[name] += source.rows_out
    return {name: float(number) for name, number in rows.items()}


def file_composition(path: Path, *, limit: int | None = None) -> tuple[dict[str, float], str]:
    """Return the rows of a LLaVA file by the folder that their pictures lie in, and a note where they are an estimate.

    Args:
        path: JSON list or JSONL; a missing one has no rows.
        limit: Rows that are drawn from it, if not all.
    """
    try:
        size = path.stat().st_size
        text, share = _read(path, size)
    except OSError:
        return {}, ""
    rows = len(_ROW.findall(text))
    folders = Counter(_folder(match.group(1)) for match in _IMAGE.finditer(text))
    if not rows:
        return {}, ""
    kept = folders.most_common(_MAX_SOURCES - 1 if len(folders) > _MAX_SOURCES else _MAX_SOURCES)
    counts = {name: float(number) for name, number in kept}
    if rest := folders.total() - sum(counts.values()):
        counts["other pictures"] = rest
    if rows > folders.total():
        counts[TEXT_ONLY] = float(rows - folders.total())
    factor = min(1 / share, limit / rows if limit else 1 / share)
    note = "" if share == 1 else f"Estimated from {counted(rows, 'row')} at equal distances."
    return {name: number * factor for name, number in counts.items()}, note


def _read(path: Path, size: int) -> tuple[bytes, float]:
    """Return the file's content and 1, or a sample of it and what share that is."""
    if size <= _WHOLE_BYTES:
        return path.read_bytes(), 1.0
    blocks = []
    with path.open("rb") as stream:
        for number in range(_BLOCKS):
            stream.seek((size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            blocks.append(stream.read(_BLOCK_BYTES))
    return b"\n".join(blocks), _BLOCKS * _BLOCK_BYTES / size


def _folder(image: bytes) -> str:
    """Return the first two folders of a picture's path at most; numbered folders are not sources."""
    parts = image.decode("utf-8", "replace").replace("\\/", "/").split("/")[:-1]
    named = [part for part in parts[:2] if part and not part.isdigit()]
    return "/".join(named) or "pictures"


def trained_samples(stage: StageData, epoch: float) -> float:
    """Return the samples that a stage was trained on, one that came twice counted twice.

    Args:
        stage: With the steps that it took.
        epoch: Samples of one epoch.
    """
    section = stage.recipe.get(stage.name)
    batch = section.get("batch") if isinstance(section, Mapping) else None
    size = batch.get("global_size") if isinstance(batch, Mapping) else None
    if not isinstance(section, Mapping) or not isinstance(size, int) or not stage.metrics.max_step:
        return epoch
    used = float(stage.metrics.max_step * size)
    # without a number of steps, the last batch of the last epoch is as large as what is left
    whole = epoch * float(section.get("epochs") or 1.0)
    return used if section.get("max_steps") else min(used, whole)


def trained_on(run: RunData) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the samples that each stage was trained on, by source, and what is to be known of them."""
    parts: dict[str, dict[str, float]] = {}
    notes = []
    for stage in (found for name in STAGES if (found := run.stages.get(name)) is not None):
        counts, note = stage_composition(stage.recipe, stage.name)
        if epoch := sum(counts.values()):
            factor = trained_samples(stage, epoch) / epoch
            parts[stage.name] = {name: number * factor for name, number in counts.items()}
        if note:
            notes.append(f"{stage.name}: {note[0].lower()}{note[1:]}")
    return parts, notes


def composition_section(runs: Sequence[RunData]) -> PageSection:
    """Return the section of what each stage of the first run was trained on: a bar for each stage, and the numbers."""
    run = runs[0]
    parts, notes = trained_on(run)
    if not parts:
        return PageSection("Data")
    figure, axes = new_axes(height=1.6 + 0.5 * len(parts))
    names = list(dict.fromkeys(name for counts in parts.values() for name in counts))
    for row, counts in enumerate(parts.values()):
        left, total = 0.0, sum(counts.values())
        for name, number in counts.items():
            colour = MARKERS["muted"] if name == TEXT_ONLY else series(names.index(name))
            axes.barh(row, number / total, left=left, color=colour, height=0.62, label=name)
            left += number / total
    axes.set_yticks(range(len(parts)), [f"{stage}\n{sum(counts.values()):,.0f}" for stage, counts in parts.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
    axes.grid(visible=False, axis="y")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    legend_below(figure, list(handles.values()), list(handles), columns=1 if max(map(len, handles)) > 16 else 2)
    rows: list[list[Any]] = [["stage", "source", "samples"]]
    rows += [[stage, name, round(number)] for stage, counts in parts.items() for name, number in counts.items()]
    title = "what each stage was trained on (Fig. 9)"
    svg = to_svg(figure, name="data-composition", description=title)
    note = " ".join([*([f"Of {run.label}."] if len(runs) > 1 else []), *notes])
    table = [["stage", "source", "samples", "share"]]
    for stage, counts in parts.items():
        total = sum(counts.values())
        table += [[stage, name, f"{number:,.0f}", f"{number / total:.1%}"] for name, number in counts.items()]
    return PageSection(
        "Data",
        "Samples that went through each stage's steps; one that came twice counts twice. Sources have the shares that"
        " they have in the data.",
        figures=[Figure("data-composition", title, svg, rows, note)],
        tables=[PageTable("data-sources", "samples trained on", table)],
    )
