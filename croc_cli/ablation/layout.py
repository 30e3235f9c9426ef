"""A table's result in the paper's layout: on a terminal, as Markdown, CSV or JSON, and on a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from croc_cli.ablation.results import MEAN, RowResult, TableResult, claim_sentences, mean_of, notes, unmatched
from croc_cli.ablation.statistics import Mean
from croc_cli.ablation.tables import DATA_ONLY
from croc_cli.benchmarks.registry import benchmarks
from croc_cli.names import STAGES
from croc_cli.place import check_place, put_text
from croc_cli.report.charts import Bars, Line, bar_chart, line_chart
from croc_cli.report.metrics_reader import Curve
from croc_cli.report.page import Page, PageSection, PageTable, write_page
from croc_cli.report.svg import Figure

Table = list[list[str]]
NONE, PAPER = "–", "paper, 7B"


def title(result: TableResult) -> str:
    """Return a table's title."""
    return f"{result.table.number}: {result.table.title}"


def caption(result: TableResult, *, ours: str = "Left", theirs: str = "Right: the paper's own numbers,") -> str:
    """Return what the numbers are; ours, theirs: where the reader finds each."""
    seeds = ", ".join(map(str, result.seeds))
    interval = ", ± half of the 95 % interval over seeds" if len(result.seeds) > 1 else "; one seed, no interval"
    amounts = "Steps and samples: stages 1 / 1.5 / 2."
    if not unmatched(result):
        one = result.rows[0]
        amounts = (
            f"Every row has {_by_stage(one.steps)} steps and {_by_stage(one.samples)} samples in stages 1 / 1.5 / 2."
        )
    return (
        f"{ours}: {result.base}, percent, mean over seed{'s' if len(result.seeds) > 1 else ''} {seeds}{interval}."
        f" {theirs} of its 7B model on other benchmarks. {amounts}"
    )


def our_rows(result: TableResult) -> Table:
    """Return our half of the table; where rows differ in them, with the steps and samples of each."""
    differ = bool(unmatched(result))
    rows = [[result.table.title, *result.columns, *(["steps", "samples"] if differ else [])]]
    for one in result.rows:
        scores = [format_mean(mean_of(one.scores.get(kind, {}))) for kind in result.columns]
        rows.append([one.label, *scores, *([_by_stage(one.steps), _by_stage(one.samples)] if differ else [])])
    return rows


def paper_rows(result: TableResult) -> Table:
    """Return the paper's half of the table, with the mean of its benchmarks."""
    titles = {name: one.title for name, one in benchmarks().items()}
    rows = [[f"{PAPER}: {result.table.title}", *(titles[name] for name in result.table.benchmarks), MEAN]]
    for one in result.rows:
        numbers = [one.row.paper.get(name) for name in result.table.benchmarks]
        rows.append([one.row.label, *map(_number, [*numbers, one.row.paper_mean])])
    return rows


def page_table(result: TableResult) -> PageTable:
    """Return ours and the paper's beside each other, then what differs in steps and samples."""
    scores = 1 + len(result.columns)
    rows = [
        [*ours[:scores], *theirs[1:], *ours[scores:]]
        for ours, theirs in zip(our_rows(result), paper_rows(result), strict=True)
    ]
    amounts = len(our_rows(result)[0]) - scores
    rows[0][0] = "row"
    names = [one.row.recipe for one in result.rows]
    return PageTable(
        result.table.name,
        title(result),
        rows,
        caption(result),
        rule_before=names.index(DATA_ONLY.recipe) if DATA_ONLY.recipe in names else None,
        groups=[
            ("", 1),
            (result.base, len(result.columns)),
            (PAPER, len(result.table.benchmarks) + 1),
            *([("stages 1 / 1.5 / 2", amounts)] if amounts else []),
        ],
    )


def format_mean(mean: Mean | None) -> str:
    """Return a share in percent, such as `91.6 ± 1.2`."""
    if mean is None:
        return NONE
    return f"{100 * mean.value:.1f}" + ("" if mean.half is None else f" ± {100 * mean.half:.1f}")


def _by_stage(numbers: dict[str, int]) -> str:
    return " / ".join(f"{numbers[stage]:,}" if stage in numbers else NONE for stage in STAGES)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def text(result: TableResult) -> str:
    """Return a table for a terminal: ours, the paper's, the claims."""
    from croc_cli.benchmarks.compare import format_rows

    parts = [
        title(result),
        format_rows(our_rows(result), "text"),
        format_rows(paper_rows(result), "text"),
        "\n".join([*claim_sentences(result), *notes(result)]),
        caption(result, ours="First", theirs="Second: the paper's own numbers,"),
    ]
    return "\n\n".join(parts)


def markdown(result: TableResult) -> str:
    """Return a table as Markdown: ours with the mean of the paper's numbers as its last column, then the claims."""
    from croc_cli.benchmarks.compare import format_rows

    head, *rows = our_rows(result)
    means = [_number(one.row.paper_mean) for one in result.rows]
    rows = [[*head, PAPER], *([*row, mean] for row, mean in zip(rows, means, strict=True))]
    parts = [
        f"**{title(result)}**",
        format_rows(rows, "md"),
        "\n".join(f"- {line}" for line in [*claim_sentences(result), *notes(result)]),
        caption(result, ours="Scores", theirs="Last column: the mean of the paper's numbers,"),
    ]
    return "\n\n".join(parts) + "\n"


def write_ablation(results: Sequence[TableResult], folder: Path) -> Path:
    """Write the page of tables, and each table as JSON and Markdown beside it; return the page."""
    sections = [section for result in results for section in _sections(result)]
    names = " · ".join(result.table.number for result in results)
    base, seeds = results[0].base, results[0].seeds
    page = Page(
        title=f"{names} on {base}",
        lead="The paper's ablations in small. What holds here need not hold at 7B, nor the reverse.",
        tiles=[(str(len(seeds)), "seeds"), *_tally(results)],
        warnings=[f"{result.table.number}: {note}" for result in results for note in notes(result)],
        sections=sections,
        made_from=[str(folder.parent)],
    )
    texts = {f"{result.table.name}.json": json.dumps(as_json(result), indent=2) for result in results}
    texts |= {f"{result.table.name}.md": markdown(result) for result in results}
    for name in texts:
        check_place(folder / name)
    written = write_page(page, folder)
    for name, content in texts.items():
        put_text(folder / name, content + "\n" * name.endswith(".json"))
    return written


def _tally(results: Sequence[TableResult]) -> list[tuple[str, str]]:
    sentences = [sentence for result in results for sentence in claim_sentences(result)]
    kinds = ("same order as in the paper", "other order than in the paper", "not distinguishable at this size")
    return [(str(sum(kind in sentence for sentence in sentences)), kind) for kind in kinds]


def as_json(result: TableResult) -> dict[str, Any]:
    """Return a table's result as plain values: every seed, so that others can compute with them."""
    return {
        "table": result.table.name,
        "number": result.table.number,
        "base": result.base,
        "seeds": list(result.seeds),
        "rows": [
            {
                "recipe": one.row.recipe,
                "label": one.label,
                "scores": {kind: {str(seed): v for seed, v in by.items()} for kind, by in one.scores.items()},
                "measures": {kind: {str(seed): v for seed, v in by.items()} for kind, by in one.measures.items()},
                "steps": one.steps,
                "samples": one.samples,
                "paper_7b": dict(one.row.paper),
            }
            for one in result.rows
        ],
        "claims": claim_sentences(result),
        "notes": notes(result),
    }


def _sections(result: TableResult) -> list[PageSection]:
    lines, tables = claim_sentences(result), [page_table(result)]
    return [PageSection(title(result), lines=lines, tables=tables, figures=_figures(result))]


def _figures(result: TableResult) -> list[Figure]:
    prefix = result.table.name
    lines = {
        "caption_loss": ("stage 1.5: loss of the captions (Fig. 6)", "nats a token", False),
        "explained_share": ("stage 1.5: explained share", "1 − loss / loss of the mean token", False),
        "pool_window_share": ("stage 1.5: pool tokens in use (Fig. 7)", "share of the pool", True),
    }
    figures = [_scores_chart(result)]
    for key, (heading, unit, share) in lines.items():
        curves = [(index, one, _mean_curve(one, key)) for index, one in enumerate(result.rows)]
        drawn = [Line(one.label, curve, index, smooth=True, band=True) for index, one, curve in curves if curve]
        figures.append(
            line_chart(f"{prefix}-{key}".replace("_", "-"), heading, drawn, unit=unit, percent=share, whole=share)
        )
    return [figure for figure in figures if figure is not None]


def _scores_chart(result: TableResult) -> Figure | None:
    bars = []
    for index, one in enumerate(result.rows):
        means = {kind: mean for kind in result.columns if (mean := mean_of(one.scores.get(kind, {}))) is not None}
        errors = {kind: mean.half for kind, mean in means.items() if mean.half is not None}
        bars.append(Bars(one.label, {kind: mean.value for kind, mean in means.items()}, errors or None, index))
    return bar_chart(
        f"{result.table.name}-scores", "scores by row", bars, categories=result.columns, unit="score", wide=True
    )


def _mean_curve(one: RowResult, key: str) -> Curve | None:
    """Return the mean over seeds of a curve of stage 1.5, with the range of the seeds; None where none has it."""
    curves = [
        curve
        for run in one.runs.values()
        if "reconstruct" in run.stages and (curve := run.stages["reconstruct"].metrics.curves.get(key)) is not None
    ]
    if not curves:
        return None
    shortest = min(curves, key=lambda curve: len(curve.steps))
    columns = list(zip(*(curve.means[: len(shortest.steps)] for curve in curves), strict=True))
    means = [sum(column) / len(column) for column in columns]
    return Curve(shortest.steps, means, [min(column) for column in columns], [max(column) for column in columns])
