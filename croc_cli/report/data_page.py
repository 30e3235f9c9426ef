"""What a data set is made of, as a page with figures, and as one PNG."""

import io
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from croc_cli.place import check_place, put_bytes
from croc_cli.report.charts import Bars, bar_chart
from croc_cli.report.page import Page, PageSection, PageTable, write_page
from croc_cli.report.svg import ROLES, Figure
from croc_cli.sources.verify.stats import DataStats, quantiles
from croc_cli.words import counted

OVERVIEW_FILE = "overview.png"
_HEADER = ["", "number", "share"]
_MOST = 12
_EDGES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_PIXEL_EDGES = (0, 112, 224, 336, 448, 640, 1024, 2048)


def write_data_page(stats: DataStats, table: list[list[str]], folder: Path) -> Path:
    """Write the page, its figures and an overview as PNG, and return the page's file.

    Args:
        stats: What was counted.
        table: The table that the terminal shows: what, how many, and what part of the rows that is.
        folder: Where; made where it is not there.

    Raises:
        UsageError: The folder cannot be written to.
    """
    counts = figure_counts(stats)
    figures = [figure for name, (title, unit, values) in counts.items() if (figure := _bars(name, title, unit, values))]
    page = Page(
        title=stats.path.name,
        lead=f"What {stats.path} is made of.",
        tiles=[
            (f"{stats.rows:,}", "rows"),
            (f"{stats.rows - stats.bad - stats.folders['']:,}", "with an image"),
            (f"{stats.folders['']:,}", "text alone"),
            (
                f"{quantiles(stats.tokens)[0]:,}",
                "tokens in the middle row" if stats.exact else "tokens, about, mid row",
            ),
        ],
        warnings=[f"left out of the figures: {counted(stats.bad, 'row')} with errors."] if stats.bad else [],
        sections=[
            PageSection(
                "Rows", tables=[PageTable("rows", "What it holds", [["", "number", "share"], *table], words_last=True)]
            ),
            PageSection("Composition and lengths", figures=figures),
        ],
        made_from=[str(stats.path)],
    )
    check_place(folder / OVERVIEW_FILE)
    file = write_page(page, folder)
    _write_overview(counts, folder / OVERVIEW_FILE, title=f"{stats.path.name}: {counted(stats.rows, 'row')}")
    return file


def figure_counts(stats: DataStats) -> dict[str, tuple[str, str, dict[str, int]]]:
    """Return (title, unit, values by category) of each figure, by its name."""
    folders = Counter({name or "text alone": number for name, number in stats.folders.items()})
    lengths = "tokens of a row" if stats.exact else "tokens of a row's text, about"
    return {
        "sources": ("Sources", "rows", _top(stats.sources)),
        "folders": ("Image folders", "rows", _top(folders)),
        "writing": ("Writing of the answers", "rows", _top(stats.writing)),
        "turns": ("Questions of a row", "rows", _binned([*stats.turns.elements()], (1, 2, 3, 4, 5, 6, 9, 17))),
        "tokens": ("Lengths", f"rows, by {lengths}", _binned(stats.tokens, _EDGES)),
        "answers": ("Answers", "rows, by tokens of their answers, about", _binned(stats.answer_tokens, _EDGES)),
        "sizes": (
            "Pictures",
            f"of {len(stats.sizes):,}, by shorter side in pixels",
            _binned([min(size) for size in stats.sizes], _PIXEL_EDGES),
        ),
    }


def _top(counts: "Counter[str]") -> dict[str, int]:
    kept = dict(counts.most_common(_MOST))
    rest = counts.total() - sum(kept.values())
    return {**kept, "others": rest} if rest else kept


def _binned(values: Sequence[int], edges: Sequence[int]) -> dict[str, int]:
    """Return how many values lie from each edge to the next; empty classes at the ends are left out."""
    labels = [f"{low}" if high == low + 1 else f"{low}–{high - 1}" for low, high in itertools.pairwise(edges)]
    labels.append(f"{edges[-1]}+")
    counts = dict.fromkeys(labels, 0)
    for value in values:
        place = max(number for number, edge in enumerate(edges) if number == 0 or value >= edge)
        counts[labels[place]] += 1
    used = [number for number, label in enumerate(labels) if counts[label]]
    return {label: counts[label] for label in labels[used[0] : used[-1] + 1]} if used else {}


def _bars(name: str, title: str, unit: str, values: dict[str, int]) -> Figure | None:
    shown = {label: float(number) for label, number in values.items()}
    bars = [Bars("rows", shown)] if shown else []
    return bar_chart(name, title, bars, categories=list(shown), unit=unit, percent=False)


def _write_overview(counts: dict[str, tuple[str, str, dict[str, int]]], file: Path, *, title: str) -> None:
    """Draw all figures into one PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    drawn = [entry for entry in counts.values() if entry[2]]
    if not drawn:
        return
    rows = -(-len(drawn) // 2)
    figure: Any = Canvas(figsize=(11, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for number, (name, unit, values) in enumerate(drawn):
        axes = figure.add_subplot(rows, 2, number + 1)
        axes.barh(list(values), list(values.values()), color=ROLES["s0"][0])
        axes.invert_yaxis()
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(unit, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    put_bytes(file, content.getvalue())
