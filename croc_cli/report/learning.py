"""What a run learns: the loss of held-out samples, of each source, of images and text alone, and benchmarks' scores."""

from croc_cli.benchmarks.registry import benchmarks
from croc_cli.names import STAGES
from croc_cli.report.charts import Line, line_chart
from croc_cli.report.metrics_reader import Curve, Metrics
from croc_cli.report.run_data import RunData
from croc_cli.report.svg import Figure
from croc_cli.report.terminal import best_of, best_words

MAX_GROUPS = 8
"""Lines that a figure can tell apart by colour."""
_KINDS = (("source", "source"), ("modality", "modality"), ("num_images", "number of images"))


def learning_figures(run: RunData) -> list[Figure]:
    """Return a run's figures of held-out samples, and of groups; a stage whose samples are one group has no group's."""
    figures = []
    for stage in STAGES:
        metrics = run.stages[stage].metrics if stage in run.stages else Metrics()
        figures += _held_out_figures(stage, metrics)
        figures += _benchmark_figures(stage, run)
        for kind, words in _KINDS:
            groups = _groups(metrics, kind)
            if len(groups) < 2 or (kind == "num_images" and set(groups) <= {"0", "1"}):
                continue  # one group is the stage's own loss, and 0 and 1 images are the two modalities
            names = list(groups)[:MAX_GROUPS]
            lines = [Line(name, groups[name], number, smooth=True) for number, name in enumerate(names)]
            left = f" The {MAX_GROUPS} with the most tokens of {len(groups)}." if len(groups) > MAX_GROUPS else ""
            figure = line_chart(
                f"{stage}-loss-by-{kind.replace('_', '-')}",
                f"{stage}: loss by {words}",
                lines,
                unit="nats a token",
                note=f"Over trained tokens.{left}",
            )
            figures += [figure] if figure is not None else []
    return figures


def _held_out_figures(stage: str, metrics: Metrics) -> list[Figure]:
    curves = metrics.curves
    if "held_out/caption_loss" not in curves:
        return []
    charts = (
        (
            "held-out-loss",
            "held-out samples",
            "nats a token",
            "Other picture: the same samples with one another's pictures; a model that looks has a higher loss there.",
            (
                ("trained on", "caption_loss"),
                ("held out", "held_out/caption_loss"),
                ("other picture", "held_out/other_picture_caption_loss"),
            ),
        ),
        (
            "held-out-explained-share",
            "explained share of held-out images",
            "1 − loss / loss of the mean token",
            "",
            (("trained on", "explained_share"), ("held out", "held_out/explained_share")),
        ),
    )
    figures = []
    for name, title, unit, note, keys in charts:
        if keys[1][1] not in curves:
            continue
        lines = [
            Line(label, curves[key], number, smooth=not number)
            for number, (label, key) in enumerate(keys)
            if key in curves
        ]
        figures.append(line_chart(f"{stage}-{name}", f"{stage}: {title}", lines, unit=unit, note=note))
    return [figure for figure in figures if figure is not None]


def _benchmark_figures(stage: str, run: RunData) -> list[Figure]:
    """Return a figure for each benchmark that a stage answers on the way, each in units of its own."""
    if stage not in run.stages:
        return []
    curves, best = run.stages[stage].metrics.curves, best_of(run.stages[stage].dir)
    figures = []
    for name in [key.split("/")[1] for key in curves if key.startswith("benchmark/") and key.endswith("/score")]:
        note = f"Best: {best_words(best)}; its checkpoint is kept." if best.get("benchmark") == name else ""
        known = benchmarks().get(name)
        line = Line(name, curves[f"benchmark/{name}/score"], 0)
        title = f"{stage}: {known.title if known is not None else name} on the way"
        unit = known.metric if known is not None else "score"
        figures.append(line_chart(f"{stage}-benchmark-{name}", title, [line], unit=unit, note=note))
    return [figure for figure in figures if figure is not None]


def _groups(metrics: Metrics, kind: str) -> dict[str, Curve]:
    """Return the loss of each group by name, the one with the most tokens first."""
    curves = metrics.curves
    found = [key.removesuffix("/loss") for key in curves if key.startswith(f"{kind}/") and key.endswith("/loss")]
    found.sort(key=lambda key: (-sum(curves[f"{key}/tokens"].means) if f"{key}/tokens" in curves else 0.0, key))
    return {key.removeprefix(f"{kind}/"): curves[f"{key}/loss"] for key in found}
