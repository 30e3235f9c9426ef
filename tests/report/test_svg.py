import re

import pytest

from croc_cli.report.charts import Bars, Line, bar_chart, coinciding, line_chart, running_mean
from croc_cli.report.metrics_reader import Curve
from croc_cli.report.svg import MARKERS, standalone, to_csv

CURVE = Curve([1.0, 2.0, 3.0], [0.0001, 0.0002, 0.0003], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])


def test_colours_are_the_pages_variables_and_ids_are_the_figures_own() -> None:
    figure = line_chart("a-name", "a title", [Line("one", CURVE), Line("two", CURVE, 1)], unit="loss")
    assert figure is not None
    assert "var(--s0)" in figure.svg
    assert "var(--s1)" in figure.svg
    assert not any(marker in figure.svg for marker in MARKERS.values())
    assert set(re.findall(r'\bid="([^".]+)\.', figure.svg)) == {"a-name"}
    assert all(name.startswith("a-name.") for name in re.findall(r"url\(#([^)]+)\)", figure.svg))
    assert "<title>a title</title>" in figure.svg


def test_tick_labels_keep_all_their_digits() -> None:
    figure = line_chart("rates", "rates", [Line("", CURVE)], unit="rate")
    assert figure is not None
    assert re.search(r">0\.0001\d*<", figure.svg)


@pytest.mark.parametrize(("low", "high", "log"), [(0.9525, 0.97, False), (1e-9, 1e-2, True), (0.0, 3.0, False)])
def test_the_axis_name_is_whole_however_long_its_numbers_are(low: float, high: float, log: bool) -> None:
    ends = [low, high]
    figure = line_chart("one", "one", [Line("", Curve([0.0, 1.0], ends, ends, ends))], unit="name", log=log)
    assert figure is not None
    [place] = re.findall(r"rotate\(-90 ([\d.-]+) ", figure.svg)
    assert float(place) >= 9  # the baseline of letters of nine points


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.2, 2.2, {"1.4", "1.6", "1.8", "2", "2.2"}),
        (1.5, 9, {"2", "3", "5"}),
        (2, 40, {"5", "10", "20"}),
        (0, 0, set()),
    ],
)
def test_a_logarithmic_axis_has_numbers_between_powers_of_ten(low: float, high: float, expected: set[str]) -> None:
    ends = [float(low), float(high)]
    figure = line_chart("one", "one", [Line("", Curve([0.25, 0.75], ends, ends, ends))], unit="name", log=True)
    assert figure is not None
    vertical = figure.svg[figure.svg.index('id="one.matplotlib.axis_2"') :]
    assert expected <= set(re.findall(r">([\d.e-]+)</text>", vertical))


@pytest.mark.parametrize(("ends", "log"), [([9.0, 0.1], False), ([0.1, 9.0], True)])
def test_a_long_legend_lies_above_the_lines(ends: list[float], log: bool) -> None:
    curve = Curve([0.0, 1.0], ends, ends, ends)
    lines = [Line(f"run {index}", curve, index) for index in range(6)]
    figure = line_chart("many", "many", lines, unit="norm", log=log)
    assert figure is not None
    lowest_word = max(float(y) for y in re.findall(r' y="([\d.]+)"[^>]*>run \d', figure.svg))
    drawn = re.findall(r'd="M [\d.]+ ([\d.]+) \nL [\d.]+ ([\d.]+) \n" clip[^>]*var\(--s\d\)', figure.svg)
    assert len(drawn) == 6
    assert lowest_word < min(min(map(float, line)) for line in drawn)


def test_a_file_of_its_own_has_both_themes() -> None:
    figure = line_chart("rates", "rates", [Line("", CURVE)], unit="rate")
    assert figure is not None
    text = standalone(figure.svg)
    assert "--s0:#2166ac" in text
    assert "prefers-color-scheme:dark" in text


def test_the_data_of_a_figure_stands_in_its_rows() -> None:
    figure = line_chart("rates", "rates", [Line("llm", CURVE)], unit="rate")
    assert figure is not None
    assert to_csv(figure.rows).splitlines()[:2] == ["step,series,mean,lowest,highest", "1,llm,0.0001,0,1"]
    bars = bar_chart("b", "b", [Bars("x", {"k": 0.5}, {"k": 0.1})], categories=["k"], unit="share")
    assert bars is not None
    assert to_csv(bars.rows).splitlines()[1] == "x,k,0.5,0.1"


def test_figures_without_data_are_none() -> None:
    assert line_chart("a", "a", [Line("", Curve([], [], [], []))], unit="") is None
    assert bar_chart("a", "a", [Bars("x", {})], categories=[], unit="") is None


def test_a_running_mean_narrows_at_both_ends() -> None:
    assert running_mean([0.0, 3.0, 6.0, 9.0]) == [1.5, 3.0, 6.0, 7.5]


def test_lines_that_coincide_lie_on_one_another_in_different_dashes() -> None:
    rise, other = [float(step) for step in range(10)], [float(9 - step) for step in range(10)]
    steps = [float(step) for step in range(1, 11)]

    def line(name: str, values: list[float], number: int) -> Line:
        return Line(name, Curve(steps, values, values, values), number)

    lines = [line("projector", rise, 0), line("llm", rise, 1), line("pool", other, 2), line("head", rise, 3)]
    assert coinciding(lines) == [0, 1, 0, 2]
    chart = line_chart("rates", "rates", lines, unit="rate")
    assert chart is not None
    assert len(set(re.findall(r"stroke-dasharray: ([\d. ,]+)", chart.svg))) >= 2


@pytest.mark.parametrize("last", [1, 2, 3, 7, 400])
def test_steps_are_whole_numbers(last: int) -> None:
    steps = [float(step) for step in range(1, last + 1)]
    chart = line_chart("x", "x", [Line("", Curve(steps, steps, steps, steps))], unit="y")
    assert chart is not None
    bottom = chart.svg[chart.svg.index("matplotlib.axis_1") : chart.svg.index("matplotlib.axis_2")]
    ticks = re.findall(r">([\d.,−-]+)</text>", bottom)
    assert ticks
    assert all(re.fullmatch(r"[\d,]+", tick) for tick in ticks)


def test_the_only_curve_of_several_runs_is_named() -> None:
    curve = Curve([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0])
    named = line_chart("x", "x", [Line("run-a", curve)], unit="y", named=True)
    assert named is not None
    assert ">run-a<" in named.svg
