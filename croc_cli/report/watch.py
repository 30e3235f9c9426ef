"""What `croc watch` shows of runs, made from their files alone; the frames fit a terminal of any width."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croc_cli.files import free_disk
from croc_cli.launch.live import format_metrics, format_seconds
from croc_cli.report.metrics_reader import last_rows, mean_of
from croc_cli.report.run_list import (
    RunState,
    age,
    benchmark_scores,
    current_stage,
    held_out_losses,
    run_state,
    size,
)
from croc_cli.report.terminal import best_of, best_words
from croc_cli.run_dir import RunDir, StageDir, read_jsonl
from croc_cli.words import counted, shown

_LEVELS = "▁▂▃▄▅▆▇█"
SPARK_ROWS = 600
"""Steps that a sparkline shows at most."""
_CURVES = (
    ("caption_loss", "caption loss", ".3f"),
    ("reconstruction_loss", "reconstruction", ".3f"),
    ("gradient_norm", "gradient norm", ".2f"),
    ("tokens_per_second", "tokens/s", ",.0f"),
)
_NAME_WIDTH = 16
_SOURCES = 6
"""Sources of a mix that a frame shows."""


def frame(folders: Sequence[Path], *, width: int) -> str:
    """Return the state of runs, a few lines each, none wider than the terminal."""
    return "\n\n".join(run_frame(folder, width=width) for folder in folders)


def run_frame(folder: Path, *, width: int) -> str:
    """Return one run: what it does, its curves, its figures, its newest warning."""
    state = run_state(folder, measure=False)
    stage = current_stage(RunDir(folder))
    lines = [_head(state)]
    if stage is not None:
        rows = last_rows(stage.metrics_file, SPARK_ROWS)
        lines += curve_lines(rows, held_out=held_out_losses(stage), width=width)
        lines += source_lines(rows, width=width)
        lines += score_lines(benchmark_scores(stage), best=best_words(best_of(stage)), width=width)
        lines.append("  " + " · ".join(_figures(folder, stage, rows)))
        if (warning := newest_warning(stage)) is not None:
            lines.append(f"  {warning}")
    if state.command is not None and state.state != "never started":
        lines.append(f"  resume: {state.command}")
    lines = [shown(" ".join(line.splitlines())) for line in lines]
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)


def _head(state: RunState) -> str:
    parts = [state.folder]
    if state.stage is not None:
        parts.append(state.stage)
    if state.step is not None:
        parts.append(f"step {state.step:,}" + (f"/{state.total_steps:,}" if state.total_steps else ""))
    parts.append(state.state + (f" {state.where}" if state.where and state.state == "running" else ""))
    if state.seconds_left and state.state == "running":
        parts.append(f"{format_seconds(state.seconds_left)} left")
    elif state.age_seconds is not None:
        parts.append(f"{age(state.age_seconds)} ago")
    return " · ".join(parts)


def curve_lines(rows: Sequence[Mapping[str, Any]], *, held_out: Sequence[float] = (), width: int) -> list[str]:
    """Return a line for each curve: its name, a sparkline over the steps, its newest mean.

    Args:
        rows: Of metrics.jsonl.
        held_out: Losses of held-out samples; the newest is shown, not a mean, as all are of the same samples.
        width: Columns of the terminal.
    """
    lines = []
    for key, name, form in _CURVES:
        values = [float(row[key]) for row in rows if isinstance(row.get(key), float | int)]
        if values:
            lines.append(_curve_line(name, values, format(_newest(values), form), width=width))
        if key == "caption_loss" and held_out:
            lines.append(_curve_line("held-out loss", held_out, f"{held_out[-1]:.3f}", width=width))
    return lines


def score_lines(scores: Mapping[str, Sequence[float]], *, best: str, width: int) -> list[str]:
    """Return a line for each benchmark that is answered on the way, and one for the best step."""
    lines = [_curve_line(name, found, f"{found[-1]:.1f}", width=width) for name, found in scores.items()]
    return [*lines, f"  best: {best}"] if best else lines


def source_lines(rows: Sequence[Mapping[str, Any]], *, width: int) -> list[str]:
    """Return a line for each source of a mix, those with the most trained tokens first; none where there is one."""
    losses: dict[str, list[float]] = {}
    tokens: dict[str, float] = {}
    for row in rows:
        groups = row.get("source")
        for name, group in (groups if isinstance(groups, Mapping) else {}).items():
            loss, count = (group.get(key) if isinstance(group, Mapping) else None for key in ("loss", "tokens"))
            if isinstance(loss, float | int) and isinstance(count, float | int):
                losses.setdefault(name, []).append(float(loss))
                tokens[name] = tokens.get(name, 0.0) + count
    if len(losses) < 2:
        return []
    names = sorted(losses, key=lambda name: (-tokens[name], name))
    lines = [_curve_line(name, losses[name], f"{_newest(losses[name]):.3f}", width=width) for name in names[:_SOURCES]]
    left = len(names) - _SOURCES
    return [*lines, f"  and {counted(left, 'more source')}"] if left > 0 else lines


def _curve_line(name: str, values: Sequence[float], number: str, *, width: int) -> str:
    label = name if len(name) < _NAME_WIDTH else f"{name[: _NAME_WIDTH - 2]}…"
    room = max(4, width - 2 - _NAME_WIDTH - len(number) - 2)
    return f"  {label:<{_NAME_WIDTH}}{sparkline(values, width=room)} {number}"


def _newest(values: Sequence[float]) -> float:
    return sum(values[-20:]) / len(values[-20:])


def sparkline(values: Sequence[float], *, width: int) -> str:
    """Return values as a row of bars, low to high; more values than columns are averaged."""
    if len(values) > width:
        edges = [len(values) * place // width for place in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(values), max(values)
    if high == low:
        return _LEVELS[0] * len(values)
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[round((value - low) / (high - low) * top)] for value in values)


def _figures(folder: Path, stage: StageDir, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    last: Mapping[str, Any] = rows[-1] if rows else {}
    rates = {rate for rate in (last.get("learning_rate") or {}).values() if isinstance(rate, float) and rate}
    found = []
    if rates:
        found.append("rate " + "/".join(f"{rate:.1e}" for rate in sorted(rates)))
    if isinstance(pool := last.get("pool_window_share"), float | int):
        found.append(f"pool {pool:.0%}")
    if (padding := mean_of(rows[-20:], "padding_share")) is not None:
        found.append(f"padding {padding:.0%}")
    if ranks := len(list(stage.ranks.glob("rank-*.json"))):
        found.append(counted(ranks, "rank"))
    return [*found, f"{size(free_disk(folder))} free"]


def newest_warning(stage: StageDir) -> str | None:
    """Return the newest warning that the ranks wrote, None where there is none."""
    found = [event for event in read_jsonl(stage.events_file) if event.get("level") in ("warning", "error")]
    return f"{found[-1]['level']}: {found[-1].get('message', '')}" if found else None


def plain_line(folder: Path) -> str:
    """Return a run in one line, for a pipe or a log."""
    state = run_state(folder, measure=False)
    stage = current_stage(RunDir(folder))
    rows = last_rows(stage.metrics_file, 1) if stage is not None else []
    parts = [state.folder, state.stage or "", state.state, format_metrics(rows[-1]) if rows else ""]
    return " · ".join(part for part in parts if part)
