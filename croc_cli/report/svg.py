"""Figures as SVG that follows the page's colours, light or dark, and the CSV that lies beside each.

matplotlib draws with marker colours, one for each role; in the SVG they become CSS variables.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from croc_cli.words import table_cell

ROLES = {
    "ink": ("#1d2733", "#e6edf3"),
    "muted": ("#5b6876", "#9aa7b4"),
    "grid": ("#e2e7ec", "#2c3640"),
    "paper": ("#ffffff", "#161c23"),
    "hatch": ("#dde3e9", "#303b46"),
    "s0": ("#2166ac", "#6cb0f0"),
    "s1": ("#d6604d", "#f58d78"),
    "s2": ("#1b7f5c", "#56c79c"),
    "s3": ("#8a4fa3", "#c592e0"),
    "s4": ("#a07000", "#e0b040"),
    "s5": ("#008b9a", "#4fcbd8"),
    "s6": ("#b8336a", "#f07aa6"),
    "s7": ("#60656b", "#b0b6bd"),
}
"""Role → its colour on a light page and on a dark one."""
NUM_SERIES = 8
MARKERS = {role: f"#0{index:x}0b0{index:x}" for index, role in enumerate(ROLES)}
"""The colour that stands for a role while matplotlib draws."""
WIDTH, HEIGHT = 3.9, 2.8
"""Inches of a figure that is a third of a page; narrow, so that its letters have 11 pixels or more on a phone."""
WIDE = 12.7
"""Inches of a figure that takes a page's whole width: with them its letters are as large as those of narrow ones."""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True)
class Figure:
    """One figure of a page.

    Args:
        name: Name of its files, such as `caption-loss`.
        title: What it shows.
        svg: The drawing, an `<svg>` element.
        rows: Its data, a header and rows, written as CSV beside it.
        note: A sentence under it.
        wide: It takes the page's whole width.
    """

    name: str
    title: str
    svg: str
    rows: Sequence[Sequence[Any]]
    note: str = ""
    wide: bool = False


def series(index: int) -> str:
    """Return the marker colour of the n-th series; after eight they begin again."""
    return MARKERS[f"s{index % NUM_SERIES}"]


def new_axes(*, width: float = WIDTH, height: float = HEIGHT, columns: int = 1, fixed: bool = False) -> tuple[Any, Any]:
    """Return a matplotlib figure and its axes (an array of them where there are several columns), in marker colours.

    Args:
        width, height: Inches.
        columns: Axes beside each other.
        fixed: The margins are known, which spares the search for them: two fifths of the time that a figure takes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    ink, muted, grid = MARKERS["ink"], MARKERS["muted"], MARKERS["grid"]
    colours = {
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": muted,
        "axes.titlecolor": ink,
        "xtick.color": muted,
        "ytick.color": muted,
        "grid.color": grid,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "hatch.color": MARKERS["hatch"],
    }
    with rc_context(_STYLE | colours):
        figure = Canvas(figsize=(width, height), layout=None if fixed else "constrained")
        if fixed:
            figure.subplots_adjust(left=0.18, right=0.97, bottom=0.18, top=0.955)
        axes = figure.subplots(1, columns)
    return figure, axes


def to_svg(figure: Any, *, name: str, description: str) -> str:
    """Return a matplotlib figure as an `<svg>` element for a page.

    Args:
        figure: Drawn in marker colours.
        name: Keeps the ids inside apart from those of other figures on the page.
        description: For those who do not see it.
    """
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # A hundredth of a point is finer than any screen; what stands between tags is left as it is.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d{2})\d+", r"\1", tag.group()), text)
    for role, marker in MARKERS.items():
        text = text.replace(marker, f"var(--{role})")
    text = _own_ids(text, name)
    opening, rest = text.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    label = f"<title>{escape(description)}</title>"
    return f'{opening} class="plot" role="img">{label}{rest}'.strip()


def _own_ids(text: str, name: str) -> str:
    """Return the SVG with every id, and what points at it, prefixed by the figure's name."""
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}.\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}.\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}.\1)", text)


def standalone(svg: str) -> str:
    """Return an SVG for a file of its own, with the colours that the page would give it."""
    opening, rest = svg.split(">", 1)
    css = f"svg{{{variables(0)}background:var(--paper);font-family:sans-serif}}"
    dark = f"@media(prefers-color-scheme:dark){{svg{{{variables(1)}}}}}"
    return f'<?xml version="1.0" encoding="utf-8"?>\n{opening}><style>{css}{dark}</style>{rest}\n'


def variables(theme: int) -> str:
    """Return the CSS variables of the roles; theme: 0 light, 1 dark."""
    return "".join(f"--{role}:{colours[theme]};" for role, colours in ROLES.items())


def to_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([table_cell(cell) for cell in row] for row in rows)
    return stream.getvalue()


def escape(text: str) -> str:
    """Return text for the inside of an element."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
