"""The two kinds of chart that most figures are: lines over optimizer steps, and bars beside each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from croc_cli.report.metrics_reader import Curve
from croc_cli.report.svg import HEIGHT, MARKERS, WIDE, WIDTH, Figure, new_axes, series, to_svg

LEGEND: dict[str, Any] = {"handlelength": 1.4, "frameon": False, "fontsize": 10, "labelcolor": MARKERS["ink"]}
_SMOOTH_FROM = 60
"""Points from which on a noisy curve gets a running mean over it."""
_SMOOTH_SHARE = 25
"""The running mean takes this many-th part of the points."""
_SMALL_TICKS = {4: tuple("123456789"), 10: tuple("235"), 100: tuple("25")}
"""Which small ticks of a logarithmic axis have a number: ratio of its ends, below which → first digits."""
_COLUMN_CHARACTERS = 18
"""Characters of a legend's longest name up to which two names stand beside each other."""
_LABEL_CHARACTERS = 36
"""Characters of all labels below a narrow figure's bars from which on they are drawn slanted."""
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2.5)), (0, (1.2, 1.8)), (0, (7, 2, 1.2, 2)))
"""Line styles of lines that lie on one another, the lowest first."""
_SAME_SHARE, _SAME_HEIGHT = 0.5, 0.01
"""Lines coincide where this share of their points is nearer than this part of the chart's height."""
_TICK_CHARACTER, _BESIDE_TICKS = 6.1, 25.0
"""Points that a character of a tick's number is wide, and what stands beside it: its mark, the axis' name, paddings."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        label: Its name in the legend; empty for none.
        curve: Its points.
        colour: Number of its colour.
        smooth: Draw a running mean over the points.
        dashed: Draw it dashed.
        band: Fill between the curve's lows and highs.
    """

    label: str
    curve: Curve
    colour: int = 0
    smooth: bool = False
    dashed: bool = False
    band: bool = False


@dataclass(frozen=True)
class Bars:
    """One series of a bar chart.

    Args:
        label: Its name in the legend.
        values: By category.
        errors: Half the length of each error bar, by category; without it, none.
        colour: Number of its colour; None for a muted one.
        tick: Draw a short line at each value instead of a bar, to compare with.
    """

    label: str
    values: Mapping[str, float]
    errors: Mapping[str, float] | None = None
    colour: int | None = 0
    tick: bool = False


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    unit: str,
    log: bool = False,
    percent: bool = False,
    whole: bool = False,
    note: str = "",
    zero_line: bool = False,
    along: str = "optimizer step",
    named: bool = False,
) -> Figure | None:
    """Return lines over steps as a figure; None where no line has a point.

    Args:
        name: Of the files.
        title: Of the figure.
        lines: What is drawn.
        unit: Label of the vertical axis.
        log: Draw it logarithmically.
        percent: Values are shares; show them in percent.
        whole: Show the axis from 0 to 1.
        note: A sentence under it.
        zero_line: Mark zero.
        along: Label of the horizontal axis.
        named: Show the name of a line that is alone, as elsewhere on the page its colour stands for it.
    """
    drawn = [line for line in lines if line.curve.steps]
    if not drawn:
        return None
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes(fixed=True)
    depths = coinciding(drawn, log=log)
    for line, depth in zip(drawn, depths, strict=True):
        _draw_line(axes, line, depth=depth, is_covered=any(other > depth for other in depths))
    axes.set_xlabel(along)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:,.0f}")
    axes.set_ylabel(unit)
    if zero_line:
        axes.axhline(0, color=MARKERS["muted"], linewidth=0.8)
    if log and any(value > 0 for line in drawn for value in line.curve.highs):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        low, high = axes.get_ylim()
        axes.yaxis.set_minor_formatter(lambda value, _position: _between_powers(value, high / low))
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
    if whole:
        axes.set_ylim(0, 1.04)
    axes.margins(x=0.01)
    labels = [line.label for line in drawn if line.label]
    columns = 2 if len(labels) > 4 and max(map(len, labels)) <= _COLUMN_CHARACTERS else 1
    above = columns > 1 and not whole
    if above:
        _make_room_above(axes, lines=math.ceil(len(labels) / columns))
    make_room_for_ticks(figure, axes)
    if len(labels) > 1 or (labels and named):
        axes.legend(loc="upper center" if above else "best", ncols=columns, **LEGEND)
    rows = [[along.split()[-1] if along == "optimizer step" else along, "series", "mean", "lowest", "highest"]]
    for line in drawn:
        curve = line.curve
        points = zip(curve.steps, curve.means, curve.lows, curve.highs, strict=True)
        rows += [[_plain(step), line.label, *map(_plain, values)] for step, *values in points]
    return Figure(name, title, to_svg(figure, name=name, description=title), rows, note)


def _between_powers(value: float, span: float) -> str:
    """Return the number at a small tick of an axis whose ends have this ratio; a long one needs powers of ten alone."""
    text = f"{value:g}"
    digits = next((digits for most, digits in _SMALL_TICKS.items() if span < most), ())
    return text if text.lstrip("0.")[:1] in digits else ""


def _make_room_above(axes: Any, *, lines: int) -> None:
    """Raise the top of the axes, so that a legend of so many lines lies above what is drawn."""
    axes.get_ylim()  # brings the limits up to date, which the transforms do not
    to_share = axes.transScale + axes.transLimits
    top = to_share.inverted().transform((0, 1 + 0.135 * lines))[1]
    axes.set_ylim(top=top)


def make_room_for_ticks(figure: Any, axes: Any) -> None:
    """Move fixed axes to the right where the numbers beside them are longer than the margin has room for."""
    low, high = axes.get_ylim()
    texts = [
        text
        for axis in (axes.yaxis.major, axes.yaxis.minor)
        for place in [axis.locator()]
        for value, text in zip(place, axis.formatter.format_ticks(place), strict=True)
        if low <= value <= high
    ]
    needed = _BESIDE_TICKS + _TICK_CHARACTER * max(map(len, texts), default=0)
    figure.subplots_adjust(left=max(figure.subplotpars.left, needed / (72 * figure.get_figwidth())))


def coinciding(lines: Sequence[Line], *, log: bool = False) -> list[int]:
    """Return for each line how many earlier ones it lies on, so that all of them can be drawn visibly.

    Args:
        lines: In the order in which they are drawn.
        log: The vertical axis is logarithmic.
    """
    points = [
        {step: math.log(value) if log and value > 0 else value for step, value in zip(c.steps, c.means, strict=True)}
        for c in (line.curve for line in lines)
    ]
    values = [value for one in points for value in one.values()]
    height = (max(values) - min(values)) if values else 0.0
    depths: list[int] = []
    for own in points:
        below = 0
        for depth, other in zip(depths, points, strict=False):
            shared = own.keys() & other.keys()
            near = sum(abs(own[step] - other[step]) <= _SAME_HEIGHT * height for step in shared)
            if shared and near >= _SAME_SHARE * len(shared):
                below = max(below, depth + 1)
        depths.append(below)
    return depths


def _draw_line(axes: Any, line: Line, *, depth: int, is_covered: bool) -> None:
    curve, colour = line.curve, series(line.colour)
    dashes = _DASHES[1] if line.dashed and not depth else _DASHES[depth % len(_DASHES)]
    style: dict[str, Any] = {"color": colour, "linestyle": dashes}
    if is_covered and not depth:
        style["linewidth"] = 3.2  # seen between and beside the dashes of what lies on it
    if line.band:
        axes.fill_between(curve.steps, curve.lows, curve.highs, color=colour, alpha=0.18, linewidth=0)
    marker = {"marker": "o", "markersize": 3} if len(curve.steps) < 12 else {}
    if line.smooth and len(curve.steps) >= _SMOOTH_FROM:
        axes.plot(curve.steps, curve.means, color=colour, alpha=0.28, linewidth=0.8)
        axes.plot(curve.steps, running_mean(curve.means), label=line.label or None, **style)
    else:
        axes.plot(curve.steps, curve.means, label=line.label or None, **style, **marker)


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the mean of the values around each, over a 25th of them; narrower at both ends."""
    half = max(1, len(values) // _SMOOTH_SHARE // 2)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = [(max(0, index - half), min(len(values), index + half + 1)) for index in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def bar_chart(
    name: str,
    title: str,
    bars: Sequence[Bars],
    *,
    categories: Sequence[str],
    unit: str,
    percent: bool = True,
    note: str = "",
    wide: bool = False,
) -> Figure | None:
    """Return bars by category as a figure; None where there is none.

    Args:
        name: Of the files.
        title: Of the figure.
        bars: Series; those with `tick` are lines across the bars of their category.
        categories: In order, one group of bars each.
        unit: Label of the vertical axis.
        percent: Values are shares; show them in percent.
        note: A sentence under it.
        wide: Take the page's whole width.
    """
    solid = [one for one in bars if not one.tick]
    if not categories or not any(one.values for one in bars):
        return None
    figure, axes = new_axes(width=WIDE if wide else WIDTH, height=HEIGHT)
    width = 0.8 / max(len(solid), 1)
    for index, one in enumerate(solid):
        places = [place - 0.4 + width * (index + 0.5) for place, kind in enumerate(categories) if kind in one.values]
        values = [one.values[kind] for kind in categories if kind in one.values]
        errors = [one.errors.get(kind, 0.0) for kind in categories if kind in one.values] if one.errors else None
        colour = MARKERS["muted"] if one.colour is None else series(one.colour)
        ends = {"ecolor": MARKERS["ink"], "capsize": 2, "error_kw": {"linewidth": 0.9}} if errors else {}
        axes.bar(places, values, width=width * 0.9, color=colour, label=one.label, yerr=errors, **ends)
    for index, one in enumerate(each for each in bars if each.tick):
        places = [place for place, kind in enumerate(categories) if kind in one.values]
        values = [one.values[kind] for kind in categories if kind in one.values]
        colour = MARKERS["ink"] if one.colour is None else series(one.colour)
        style = ("-", (0, (3, 1.5)), (0, (1, 1)))[index % 3]
        left, right = [place - 0.45 for place in places], [place + 0.45 for place in places]
        axes.hlines(values, left, right, color=colour, linewidth=1.4, linestyle=style, label=one.label)
    axes.set_xticks(range(len(categories)), [kind.replace("_", " ") for kind in categories])
    if sum(map(len, categories)) > _LABEL_CHARACTERS * (WIDE / WIDTH if wide else 1):
        axes.tick_params(axis="x", rotation=30)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(unit)
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
    if len(bars) > 1:
        axes.margins(y=0.02)
        legend_below(figure, *axes.get_legend_handles_labels(), columns=4 if wide else 2)
    rows = [["series", "category", "value", "half of the 95 % interval"]]
    for one in bars:
        half = one.errors or {}
        rows += [[one.label, kind, _plain(value), _plain(half.get(kind))] for kind, value in one.values.items()]
    return Figure(name, title, to_svg(figure, name=name, description=title), rows, note, wide)


def legend_below(figure: Any, handles: Sequence[Any], labels: Sequence[str], *, columns: int = 2) -> None:
    """Put a legend under the axes, out of the way of what is drawn."""
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles, labels, **place, **LEGEND)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
