"""The figures of metrics.jsonl: losses, rates, throughput, pool health, gradient shares; runs side by side."""

from collections.abc import Sequence
from dataclasses import replace

from croc_cli.names import STAGES
from croc_cli.recipe.stages import GROUP_WORDS, STAGE_TABLE
from croc_cli.report.charts import Bars, Line, bar_chart, line_chart
from croc_cli.report.metrics_reader import Curve
from croc_cli.report.run_data import RunData
from croc_cli.report.svg import Figure

_EMPTY = Curve([], [], [], [])
MAX_RUNS = 8
"""Runs that a figure can tell apart by colour."""


def curve_of(run: RunData, stage: str, key: str) -> Curve:
    """Return a run's curve, empty where it has none."""
    found = run.stages.get(stage)
    return found.metrics.curves.get(key, _EMPTY) if found else _EMPTY


def _lines(runs: Sequence[RunData], stage: str, key: str, *, smooth: bool = False) -> list[Line]:
    several = len(runs) > 1
    return [
        Line(run.label if several else "", curve_of(run, stage, key), index, smooth=smooth)
        for index, run in enumerate(runs)
    ]


def _norms_by_group(run: RunData, stage: str) -> list[Line]:
    """Return the gradient norm of each parameter group; none where a stage trains one group alone."""
    found = {group: curve_of(run, stage, f"gradient_norms/{group}") for group in GROUP_WORDS}
    kept = {group: curve for group, curve in found.items() if curve.steps}
    if len(kept) < 2:
        return []
    return [
        Line(GROUP_WORDS[group], curve, number, smooth=True) for number, (group, curve) in enumerate(kept.items(), 1)
    ]


def _present(figures: Sequence[Figure | None]) -> list[Figure]:
    return [figure for figure in figures if figure is not None]


def loss_figures(runs: Sequence[RunData]) -> list[Figure]:
    """Return the loss terms of every stage, and the gradient norm."""
    figures: list[Figure | None] = []
    several = len(runs) > 1
    for stage in STAGES:
        lines = _lines(runs, stage, "caption_loss", smooth=True)
        what = STAGE_TABLE[stage].text
        figures.append(
            line_chart(
                f"{stage}-caption-loss", f"{stage}: loss of the {what}", lines, unit="nats a token", named=several
            )
        )
    figures.append(
        line_chart(
            "reconstruction-loss",
            "reconstruct: loss of the visual tokens",
            _lines(runs, "reconstruct", "reconstruction_loss", smooth=True),
            unit="distance to the target",
            note="Over masked positions, as the recipe measures it.",
            named=several,
        )
    )
    figures.append(
        line_chart(
            "explained-share",
            "reconstruct: explained share",
            _lines(runs, "reconstruct", "explained_share"),
            unit="1 − loss / loss of the mean token",
            zero_line=True,
            note="Zero is as good as predicting the mean visual token; below zero is worse. Over the last 50 steps.",
            named=several,
        )
    )
    return _present(figures)


def optimizer_figures(runs: Sequence[RunData]) -> list[Figure]:
    """Return learning rates, gradient norms, throughput, and what each objective pulls at the LLM."""
    figures: list[Figure | None] = []
    first = runs[0]
    for stage in STAGES:
        curves = first.stages[stage].metrics.curves if stage in first.stages else {}
        rates = [key for key in curves if key.startswith("learning_rate/") and max(curves[key].highs) > 0]
        lines = [Line(key.split("/", 1)[1].replace("_", " "), curves[key], index) for index, key in enumerate(rates)]
        note = f"Of {first.label}." if len(runs) > 1 else ""
        title = f"{stage}: learning rates" if len(rates) > 1 else f"{stage}: learning rate of the {_only(lines)}"
        figures.append(
            line_chart(f"{stage}-learning-rates", title, lines, unit="learning rate", note=note, log=len(lines) > 1)
        )
    figures += _throughput(runs)
    figures += _padding_and_waits(first) if len(runs) == 1 else []
    for stage in STAGES:
        lines = _lines(runs, stage, "gradient_norm", smooth=True)
        if len(runs) == 1 and (parts := _norms_by_group(first, stage)):
            lines = [replace(lines[0], label="all"), *parts]
        title, named = f"{stage}: gradient norm", len(lines) > 1
        figures.append(line_chart(f"{stage}-gradient-norm", title, lines, unit="norm", log=True, named=named))
    shares = [
        Line(
            f"{run.label}: {part}" if len(runs) > 1 else part,
            curve_of(run, "reconstruct", f"gradient_shares/{part}"),
            index if len(runs) > 1 else number,
            dashed=len(runs) > 1 and part == "caption",
        )
        for index, run in enumerate(runs)
        for number, part in enumerate(("caption", "reconstruction"))
    ]
    note = "What each objective alone, with its weight, gives the LLM: the balance that α sets."
    figures.append(
        line_chart("gradient-shares", "reconstruct: pull of each objective", shares, unit="gradient norm", note=note)
    )
    return _present(figures)


def _throughput(runs: Sequence[RunData]) -> list[Figure | None]:
    """Return tokens a second: stages in one figure for one run, a figure for each stage for several."""
    if len(runs) == 1:
        lines = [
            Line(stage, curve_of(runs[0], stage, "tokens_per_second"), index) for index, stage in enumerate(STAGES)
        ]
        lines = [Line(line.label, line.curve, line.colour, smooth=True) for line in lines]
        return [line_chart("throughput", "throughput", lines, unit="tokens a second", named=True)]
    return [
        line_chart(
            f"{stage}-throughput",
            f"{stage}: throughput",
            _lines(runs, stage, "tokens_per_second", smooth=True),
            unit="tokens a second",
            named=True,
        )
        for stage in STAGES
    ]


def _padding_and_waits(run: RunData) -> list[Figure | None]:
    """Return the share of padding in all stages, and for each stage that waited what for."""
    padding = [Line(stage, curve_of(run, stage, "padding_share"), index) for index, stage in enumerate(STAGES)]
    padding = [Line(line.label, line.curve, line.colour, smooth=True) for line in padding]
    unit = "share of the places"
    figures = [line_chart("padding", "padding of the batches", padding, unit=unit, percent=True, named=True)]
    waits = (("data_seconds", "for samples"), ("rank_wait_seconds", "for slower ranks"), ("save_seconds", "for saves"))
    for stage in STAGES:
        lines = [Line(name, curve_of(run, stage, key), number) for number, (key, name) in enumerate(waits)]
        lines = [line for line in lines if any(line.curve.means)]
        if lines:
            figures.append(line_chart(f"{stage}-waits", f"{stage}: time that ranks wait", lines, unit="seconds a step"))
    return figures


def _only(lines: Sequence[Line]) -> str:
    return lines[0].label if lines else "model"


def pool_figures(runs: Sequence[RunData]) -> list[Figure]:
    """Return the pool's health: how much of it is used, how evenly, at what distance and at what cost (Fig. 7)."""
    figures: list[Figure | None] = []
    several = len(runs) > 1
    use = [
        Line(
            f"{run.label}: {name}" if several and name else run.label if several else name,
            curve_of(run, "reconstruct", key),
            index if several else number,
            dashed=several and number == 0,
        )
        for index, run in enumerate(runs)
        for number, (key, name) in enumerate((("pool_used_share", "since the start"), ("pool_window_share", "")))
    ]
    use = [line if line.label else Line("in the last 50 steps", line.curve, line.colour) for line in use]
    figures.append(
        line_chart(
            "pool-use",
            "pool tokens in use (Fig. 7)",
            use,
            unit="share of the pool",
            percent=True,
            whole=True,
            note="Dashed: since the start. Solid: in the last 50 steps." if several else "",
        )
    )
    if several:
        last = {run.label: float(share) for run in runs if (share := _health(run, "pool_window_share")) is not None}
        figures.append(
            bar_chart(
                "pool-use-by-run",
                "pool tokens in use at the end (Fig. 7)",
                [Bars("in the last 50 steps", last)],
                categories=list(last),
                unit="share of the pool",
            )
        )
    charts = (
        ("pool_entropy", "pool-entropy", "evenness of their use", "entropy, 1 = even", False),
        ("assignment_cost", "assignment-cost", "distance to the pool tokens", "mean distance", False),
        (
            "assignment_wait_share",
            "assignment-wait",
            "time that steps waited for the assignment",
            "share of the step",
            True,
        ),
        ("assignment_solver_share", "assignment-solver", "work of the solver", "share of its threads' time", True),
    )
    for key, name, title, unit, percent in charts:
        lines = _lines(runs, "reconstruct", key, smooth=key == "assignment_cost")
        figures.append(line_chart(name, title, lines, unit=unit, percent=percent, named=several))
    return _present(figures)


def _health(run: RunData, key: str) -> float | None:
    stage = run.stages.get("reconstruct")
    value = stage.health.get(key) if stage else None
    return float(value) if isinstance(value, float | int) else None
