"""What a run learns: the loss of each source, and of images and text alone."""

from croc_cli.names import STAGES
from croc_cli.report.charts import Line, line_chart
from croc_cli.report.metrics_reader import Curve, Metrics
from croc_cli.report.run_data import RunData
from croc_cli.report.svg import Figure

MAX_GROUPS = 8
"""Lines that a figure can tell apart by colour."""
_KINDS = (("source", "source"), ("modality", "modality"), ("num_images", "number of images"))


def learning_figures(run: RunData) -> list[Figure]:
    """Return a run's figures of groups of samples; a stage whose samples are one group has none."""
    figures = []
    for stage in STAGES:
        metrics = run.stages[stage].metrics if stage in run.stages else Metrics()
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


def _groups(metrics: Metrics, kind: str) -> dict[str, Curve]:
    """Return the loss of each group by name, the one with the most tokens first."""
    curves = metrics.curves
    found = [key.removesuffix("/loss") for key in curves if key.startswith(f"{kind}/") and key.endswith("/loss")]
    found.sort(key=lambda key: (-sum(curves[f"{key}/tokens"].means) if f"{key}/tokens" in curves else 0.0, key))
    return {key.removeprefix(f"{kind}/"): curves[f"{key}/loss"] for key in found}
