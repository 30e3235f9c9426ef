"""A run folder as text: stages with their times, losses and health, and the accuracy by question type."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.earlier import scenes_entry
from croc_cli.benchmarks.registry import SCENES
from croc_cli.launch.live import format_seconds
from croc_cli.names import EARLIER_WAIT_SHARE, STAGES
from croc_cli.recipe.stages import STAGE_TABLE, group_words
from croc_cli.report.metrics_reader import WINDOW, last_rows, mean_of
from croc_cli.run_dir import RunDir, StageDir, read_json
from croc_cli.words import counted

Table = list[list[str]]
NONE = "–"


def summarise(run_dir: Path) -> str:
    """Return the report of a run folder; what is not there yet is left out."""
    run = RunDir(run_dir)
    parts = [stage_table(run)]
    scenes = scenes_entry(run)
    if scores := _mapping(scenes.get("parts")):
        parts.append(accuracy_table(SCENES, scores))
    if example := _mapping(scenes.get("example")):
        parts.append(format_example(example))
    return "\n\n".join(part for part in parts if part)


def stage_table(run: RunDir) -> str:
    """Return the table of stages, the evaluation last and the total under it."""
    rows: Table = [["stage", "steps", "time", "caption loss", "reconstruction", "health"]]
    total = 0.0
    with_pool = [stage for stage, spec in STAGE_TABLE.items() if spec.has_pool]
    for name in (*STAGES, "eval"):
        stage = run.step(name)
        if not stage.exists():
            continue
        seconds = stage_seconds(stage)
        total += seconds or 0.0
        summary = read_json(stage.summary_file)
        losses = recent_losses(stage)
        rows.append(
            [
                name,
                str(summary.get("steps", NONE)) if name != "eval" else "",
                NONE if seconds is None else format_seconds(seconds),
                _number(losses.get("caption_loss")) if name != "eval" else "",
                _number(losses.get("reconstruction_loss")) if name in with_pool else "",
                ("; ".join(health_lines(summary)) if stage.finished() else "not finished"),
            ]
        )
    if len(rows) == 1:
        return f"{run.root} holds no stage yet"
    rows.append(["total", "", format_seconds(total), "", "", ""])
    trained = [f"{name} trains: {words}" for name in STAGES if (words := trained_words(run.stage(name)))]
    return "\n".join([format_table(rows), f"losses are means over the last {WINDOW} steps", *trained])


def trained_words(stage: StageDir) -> str:
    """Return the parameter groups that a stage trains, in words; empty before its first step."""
    rows = last_rows(stage.metrics_file)
    return group_words(_mapping(rows[-1].get("learning_rate"))) if rows else ""


def recent_losses(stage: StageDir) -> dict[str, float]:
    """Return a stage's losses, each the mean over its last steps; those that it has."""
    rows: Sequence[Mapping[str, Any]] = last_rows(stage.metrics_file)
    rows = rows or [_mapping(read_json(stage.summary_file).get("losses"))]
    found = {key: mean_of(rows, key) for key in ("loss", "caption_loss", "reconstruction_loss")}
    return {key: value for key, value in found.items() if value is not None}


def stage_seconds(stage: StageDir) -> float | None:
    """Return the seconds that a stage took, start-up included; without them if only the worker's own time is known."""
    for record, key in (
        (stage.launch_file, "wall_seconds"),
        (stage.summary_file, "seconds"),
        (stage.results_file, "seconds"),
    ):
        value = finite_numbers(read_json(record)).get(key)
        if value is not None:
            return value
    return None


def finite_numbers(value: object) -> dict[str, float]:
    """Return the finite numbers of a mapping; a damaged file may hold anything."""
    found = {}
    for key, one in value.items() if isinstance(value, Mapping) else ():
        with suppress(OverflowError):  # a whole number that no float can hold
            if isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one):
                found[str(key)] = one
    return found


def best_of(stage: StageDir) -> dict[str, Any]:
    """Return benchmark, step and value of a stage's best step; empty where the stage keeps none."""
    return _best(read_json(stage.best_file))


def _best(found: object) -> dict[str, Any]:
    """Return what tells a best step; a damaged file may hold anything."""
    best = _mapping(found)
    numbers = finite_numbers(best)
    if "step" not in numbers or "value" not in numbers:
        return {}
    return {"benchmark": str(best.get("benchmark")), "step": int(numbers["step"]), "value": numbers["value"]}


def best_words(best: Mapping[str, Any]) -> str:
    """Return a best step in words, such as `pope 86.1 after step 500`; empty where there is none."""
    return f"{best['benchmark']} {best['value']:.1f} after step {best['step']:,}" if best else ""


def health_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the health figures of a stage as short phrases, and loudly what is wrong (METHOD: health)."""
    health = finite_numbers(summary.get("health"))
    lines = []
    if (used := health.get("pool_used_share")) is not None:
        window = health.get("pool_window_share")
        lines.append(f"pool {used:.0%} used" + ("" if window is None else f", {window:.0%} in the last window"))
    if (entropy := health.get("pool_entropy")) is not None:
        lines.append(f"entropy {entropy:.2f}")
    if (explained := health.get("explained_share")) is not None:
        lines.append(f"explained share {explained:.2f}")
        if explained <= 0:
            lines.append("NO BETTER THAN PREDICTING THE MEAN VISUAL TOKEN")
    if (waited := health.get("assignment_wait_share", health.get(EARLIER_WAIT_SHARE))) is not None:
        lines.append(f"waited for the assignment {waited:.0%} of the time")
    if best := best_words(_best(summary.get("best"))):
        lines.append(f"best: {best}")
    names = {
        "bad_images": ("image that did not open", "images that did not open"),
        "skipped_steps": ("step skipped", "steps skipped"),
        "truncated_samples": ("sample cut", "samples cut"),
        "dropped_samples": ("sample dropped", "samples dropped"),
    }
    counts = finite_numbers(summary.get("counts"))
    lines += [counted(int(counts[key]), *phrases) for key, phrases in names.items() if counts.get(key)]
    return lines


def format_stage_end(stage: StageDir, *, seconds: float) -> str:
    """Return the lines that end a stage command: time, last losses, health, checkpoint."""
    summary = read_json(stage.summary_file)
    losses = recent_losses(stage)
    figures = [
        f"{name.replace('_', ' ')} {value:.3f}"
        for name, value in losses.items()
        if name != "loss" or "reconstruction_loss" in losses
    ]
    steps = f"{counted(summary['steps'], 'step')} in " if summary.get("steps") else ""
    line = f"{stage.name}: {steps}{format_seconds(seconds)}"
    if figures:
        window = len(last_rows(stage.metrics_file))
        line += " · " + " · ".join(figures) + (f" (mean of the last {window} steps)" if window > 1 else "")
    lines = [line]
    if words := trained_words(stage):
        lines.append(f"{stage.name}: trained {words}")
    if health := health_lines(summary):
        lines.append(f"{stage.name}: " + "; ".join(health))
    if (checkpoint := stage.latest_checkpoint()) is not None:
        lines.append(f"{stage.name}: checkpoint {checkpoint}")
    return "\n".join(lines)


def accuracy_table(benchmark: str, scores: Mapping[str, Any]) -> str:
    """Return the accuracy of each question type beside its baselines.

    Args:
        benchmark: Its name.
        scores: What results.json says of it.
    """
    accuracy = _mapping(scores.get("accuracy"))
    baselines = {name: _mapping(values) for name, values in _mapping(scores.get("baselines")).items()}
    blind = _mapping(scores.get("best_blind"))
    columns = {"accuracy": accuracy, **({"best blind": blind} if blind else {}), **baselines}
    rows: Table = [["question type", *(name.replace("_", " ") for name in columns)]]
    for kind in accuracy:
        rows.append([str(kind), *(_percent(values.get(kind)) for values in columns.values())])
    mean = scores.get("mean_accuracy")
    means = [mean if mean is not None else _mean(accuracy), *(_mean(values) for values in list(columns.values())[1:])]
    rows.append(["mean", *(_percent(value) for value in means)])
    number = scores.get("num_questions")
    title = f"accuracy on {benchmark}" + (f", {counted(number, 'question')}" if isinstance(number, int) else "")
    lines = [title, format_table(rows)]
    if (recall := scores.get("caption_recall")) is not None:
        lines.append(f"objects named with their colour in detailed captions: {_percent(recall)}")
    return "\n".join(lines)


def format_example(example: Mapping[str, Any]) -> str:
    """Return the question about a held-out picture, what the model answered, and what is right."""
    labels = (("picture", "image"), ("question", "question"), ("answer", "answer"), ("expected", "expected"))
    lines = [f"{label:<9}{example[key]}" for label, key in labels if example.get(key) not in (None, "")]
    return "\n".join(["one held-out picture", *lines]) if lines else ""


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns under a ruled header; columns without content are left out."""
    kept = [column for column in zip(*rows, strict=True) if any(cell not in ("", NONE) for cell in column[1:])]
    widths = [max(map(len, column)) for column in kept]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*kept, strict=True)
    ]
    return "\n".join([lines[0], "─" * min(110, sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else NONE


def _percent(value: object) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else NONE


def _mean(values: Mapping[str, Any]) -> float | None:
    numbers = [value for value in values.values() if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else None
