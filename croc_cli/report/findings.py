"""What is unusual in a run, by simple rules over its metrics; each finding has its figure and the name of its chart."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from croc_cli.errors import UsageError
from croc_cli.names import STAGES
from croc_cli.report.metrics_reader import Curve, Metrics
from croc_cli.report.run_data import RunData
from croc_cli.report.spikes import BEFORE, worst_of_step
from croc_cli.words import counted

_LEAST_POINTS = 20
"""Points of a curve from which on its beginning and its end are compared."""
_LEAST_SECONDS = 60.0
"""Waits of a stage together that are worth a look, whatever their share is: short stages always wait a little."""
_NAMED = 3
"""Samples, or steps, that a finding names."""


@dataclass(frozen=True)
class Limits:
    """From where on a figure is unusual; `croc report --limit NAME=VALUE` changes one. Shares are of 1.

    Args:
        held_out_rise: Rise of the held-out loss above its lowest value, as a share of that.
        explained_share: Explained share in the second half of the stage.
        pool_drop: Fall of the share of used pool tokens below its highest value, as a share of that.
        gradient_spike: Gradient norm as a multiple of the median of the steps before.
        loss_fall: Fall of a loss from the first to the last fifth of its steps, as a share; less is not learning.
        padding: Share of the places of batches that hold padding.
        data_wait: Share of the time that the ranks wait for samples.
        rank_wait: Share of the time that a rank waits for the samples of slower ranks.
        save_wait: Share of the time that the ranks stand still for checkpoints.
    """

    held_out_rise: float = 0.05
    explained_share: float = 0.0
    pool_drop: float = 0.2
    gradient_spike: float = 8.0
    loss_fall: float = 0.02
    padding: float = 0.5
    data_wait: float = 0.1
    rank_wait: float = 0.1
    save_wait: float = 0.1


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Args:
        rule: Name of the rule, which is that of its limit.
        stage: The stage.
        text: What was found, with its figures.
        chart: Name of the figure on the page that shows it.
    """

    rule: str
    stage: str
    text: str
    chart: str


def parse_limits(pairs: Sequence[str]) -> Limits:
    """Return the limits with those of `NAME=VALUE` pairs changed.

    Raises:
        UsageError: A name that no rule has, or a value that is not a finite number.
    """
    names = [field.name for field in fields(Limits)]
    changes = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        key = name.strip().replace("-", "_")
        if key not in names:
            raise UsageError(f"--limit {pair}: unknown rule {name!r}", hint=f"one of: {', '.join(names)}")
        try:
            changes[key] = float(value)
        except ValueError:
            changes[key] = math.nan
        if not math.isfinite(changes[key]):
            usual = getattr(Limits(), key)
            raise UsageError(f"--limit {pair}: {value!r} is not a number", hint=f"such as `--limit {key}={usual}`")
    return replace(Limits(), **changes)


def run_findings(run: RunData, limits: Limits | None = None) -> list[Finding]:
    """Return what is unusual in a run, stage by stage; a spike of the gradient norm names its worst samples."""
    found = []
    for name in STAGES:
        if name not in run.stages:
            continue
        stage = run.stages[name]
        for finding in stage_findings(name, stage.metrics, limits):
            if finding.rule == "gradient_spike":
                worst = worst_of_step(stage.dir, stage.metrics.spikes[0].step, count=_NAMED)
                samples = f"; the samples with the highest loss: {', '.join(worst)}" if worst else ""
                finding = replace(finding, text=finding.text + samples)
            found.append(finding)
    return found


def stage_findings(stage: str, metrics: Metrics, limits: Limits | None = None) -> list[Finding]:
    """Return what is unusual in one stage's metrics, in the order of the limits.

    Args:
        stage: Its name.
        metrics: Its metrics.
        limits: From where on a figure is unusual; None for the usual ones.
    """
    limits = limits or Limits()
    rules = (_held_out_rises, _explains_nothing, _pool_use_falls, _norm_spikes, _learns_nothing, _pads, _waits)
    found = [each for rule in rules for each in rule(stage, metrics, limits)]
    return [Finding(rule, stage, f"{stage}: {text}", chart) for rule, text, chart in found]


_Found = Iterator[tuple[str, str, str]]


def _held_out_rises(stage: str, metrics: Metrics, limits: Limits) -> _Found:
    """Fire where the held-out loss has left its lowest value, twice in a row, while the training loss fell."""
    held, trained = metrics.curves.get("held_out/caption_loss"), metrics.curves.get("caption_loss")
    if held is None or trained is None or len(held.means) < 3:
        return
    lowest = min(range(len(held.means)), key=held.means.__getitem__)
    if lowest > len(held.means) - 3:
        return
    low, now = held.means[lowest], min(held.means[-2:])
    before, after = _mean_around(trained, held.steps[lowest]), _mean(trained.means[-_fifth(trained) :])
    if now > low * (1 + limits.held_out_rise) and after < before:
        text = (
            f"the held-out loss rose from {low:.3f} (step {held.steps[lowest]:,.0f}) to {held.means[-1]:.3f} while the "
            f"training loss fell from {before:.3f} to {after:.3f}: the model learns its training samples by heart"
        )
        yield "held_out_rise", text, f"{stage}-held-out-loss"


def _explains_nothing(stage: str, metrics: Metrics, limits: Limits) -> _Found:
    """Fire where the reconstruction is no better than the mean visual token; early steps never are."""
    total = metrics.last.get("total_steps")
    if not isinstance(total, int) or metrics.max_step < total / 2:
        return
    for key, of, chart in (
        ("explained_share", "explained share", "explained-share"),
        ("held_out/explained_share", "explained share of held-out images", f"{stage}-held-out-explained-share"),
    ):
        curve = metrics.curves.get(key)
        if curve is not None and curve.means[-1] <= limits.explained_share:
            value = curve.means[-1]
            than = "no better than" if value <= 0 else "little better than"
            text = f"{of} {value:.2f} at step {metrics.max_step:,}: {than} predicting the mean visual token"
            yield "explained_share", text, chart


def _pool_use_falls(_stage: str, metrics: Metrics, limits: Limits) -> _Found:
    curve = metrics.curves.get("pool_window_share")
    if curve is None or len(curve.means) < _LEAST_POINTS:
        return
    size = max(1, len(curve.means) // 10)
    means = [_mean(curve.means[end - size : end]) for end in range(size, len(curve.means) + 1)]
    highest, now = max(means), means[-1]
    if now < highest * (1 - limits.pool_drop):
        yield "pool_drop", f"pool use fell from {highest:.0%} to {now:.0%} of the tokens", "pool-use"


def _norm_spikes(stage: str, metrics: Metrics, limits: Limits) -> _Found:
    spikes = [spike for spike in metrics.spikes if spike.ratio > limits.gradient_spike]
    if not spikes:
        return
    worst = spikes[0]
    others = sorted(spike.step for spike in spikes[1 : 1 + _NAMED])
    also = f"; also at {'steps' if len(others) > 1 else 'step'} {', '.join(f'{step:,}' for step in others)}"
    text = (
        f"gradient norm {worst.norm:,.3g} at step {worst.step:,}, {worst.ratio:,.0f} times the median of the "
        f"{BEFORE} steps before{also if others else ''}"
    )
    yield "gradient_spike", text, f"{stage}-gradient-norm"


def _learns_nothing(stage: str, metrics: Metrics, limits: Limits) -> _Found:
    """Fire for a loss that does not fall, of the stage or of a source.

    A source fires where its loss falls clearly less than half as far as the stage's; one whose few samples leave that
    open does not.
    """
    curve = metrics.curves.get("caption_loss")
    if curve is None or len(curve.means) < _LEAST_POINTS:
        return
    fall, error = _fall(curve)
    if fall < limits.loss_fall and 2 * error < 0.05:
        yield "loss_fall", f"the caption loss {_from_to(curve)}: the stage does not learn", f"{stage}-caption-loss"
        return
    for key, one in metrics.curves.items():
        if not (key.startswith("source/") and key.endswith("/loss")) or len(one.means) < _LEAST_POINTS:
            continue
        of_source, error = _fall(one)
        if of_source < limits.loss_fall and of_source + 2 * error < fall / 2:
            name = key.removeprefix("source/").removesuffix("/loss")
            text = f"source {name} does not learn: its loss {_from_to(one)}, the stage's {_from_to(curve)}"
            yield "loss_fall", text, f"{stage}-loss-by-source"


def _pads(_stage: str, metrics: Metrics, limits: Limits) -> _Found:
    curve = metrics.curves.get("padding_share")
    if curve is not None and (share := _mean(curve.means[-_fifth(curve) :])) > limits.padding:
        text = f"{share:.0%} of the places of the last batches are padding; batch.packing: true has hardly any"
        yield "padding", text, "padding"


def _waits(stage: str, metrics: Metrics, limits: Limits) -> _Found:
    for rule, key, what in (
        ("data_wait", "data_seconds", "the ranks wait for samples; more `data.num_workers` may help"),
        ("rank_wait", "rank_wait_seconds", "a rank waits for the samples of slower ranks"),
        ("save_wait", "save_seconds", "the ranks stand still for checkpoints; a higher save_every saves less often"),
    ):
        wait, step = (metrics.curves.get(name) for name in (key, "step_seconds"))
        if wait is None or step is None:
            continue
        seconds = _mean(wait.means) * metrics.num_rows
        total = _mean(step.means) * metrics.num_rows + (seconds if rule == "save_wait" else 0.0)
        if seconds >= _LEAST_SECONDS and seconds > total * getattr(limits, rule):
            share = f"{seconds / total:.0%} of the time ({counted(round(seconds), 'second')})"
            yield rule, f"{share} {what}", f"{stage}-waits"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _fifth(curve: Curve) -> int:
    return max(1, len(curve.means) // 5)


def _mean_around(curve: Curve, step: float) -> float:
    """Return the mean of a fifth of a curve around a step."""
    nearest = min(range(len(curve.steps)), key=lambda index: abs(curve.steps[index] - step))
    half = _fifth(curve) // 2
    return _mean(curve.means[max(0, nearest - half) : nearest + half + 1])


def _variance(values: Sequence[float]) -> float:
    """Return the variance; infinite where the squares of damaged values are too large for a float."""
    try:
        return statistics.variance(values)
    except OverflowError:
        return math.inf


def _fall(curve: Curve) -> tuple[float, float]:
    """Return by what share a curve fell from its first fifth to its last, and the standard error of that."""
    size = _fifth(curve)
    first, last = curve.means[:size], curve.means[-size:]
    start = _mean(first) or 1.0
    spread = _variance(first) + _variance(last) if size > 1 else math.inf
    return 1 - _mean(last) / start, math.sqrt(spread / size) / abs(start)


def _from_to(curve: Curve) -> str:
    size = _fifth(curve)
    first, last = _mean(curve.means[:size]), _mean(curve.means[-size:])
    return f"went from {first:.3f} to {last:.3f}"
