"""What the rows came to: scores and figures of stage 1.5 by row and seed, and each claim as a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from croc_cli.ablation.estimate import steps_of_stage
from croc_cli.ablation.stages import RowRun, StageStore
from croc_cli.ablation.statistics import Mean, Verdict, mean_over_seeds, paired_difference, verdict
from croc_cli.ablation.tables import OTHER_SCALE, AblationTable, Claim, Measure, Row
from croc_cli.errors import UsageError
from croc_cli.names import STAGES
from croc_cli.report.run_data import RunData, read_run
from croc_cli.words import counted

MEAN = "mean"
CAPTIONS = "captions"
_POOL_SIZE = "pool-size"
_LAST_SHARE = 10
"""The loss at the end of a stage is the mean over the last tenth of its points."""
_VERDICTS: dict[Verdict, str] = {
    "same": "same order as in the paper",
    "other": "other order than in the paper",
    "open": "not distinguishable at this size",
}
_OWN_VERDICTS: dict[Verdict, str] = {"same": "yes", "other": "no, the reverse", "open": _VERDICTS["open"]}
_MEASURES: dict[Measure, tuple[str, str, str, float]] = {
    "score": ("above", "in the mean score", " points", 100.0),
    "caption_loss": ("below", "in the caption loss at the end of stage 1.5", " nats", 1.0),
    "pool_use": ("above", "in the share of the pool in use", " points", 100.0),
}
"""Measure → where the better row stands, what a sentence calls it, its unit, and what values are multiplied by."""


@dataclass
class RowResult:
    """What one row came to.

    Args:
        row: The row.
        label: As the table calls it; where a pool has another size here than in the paper, with that.
        runs: Seed → what was read of its run; seeds that have not run are missing.
        scores: Column → seed → value, as a share.
        measures: Measure → seed → value.
        steps: Optimizer steps of the row, by stage.
        samples: Samples that it has seen, by stage.
    """

    row: Row
    label: str
    runs: dict[int, RunData] = field(default_factory=dict)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    measures: dict[Measure, dict[int, float]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)


@dataclass
class TableResult:
    """What a table came to.

    Args:
        table: The table.
        base: Name of the base recipe.
        seeds: Seeds that were asked for.
        columns: What was scored, the mean last but for the captions.
        rows: In the table's order.
    """

    table: AblationTable
    base: str
    seeds: Sequence[int]
    columns: list[str]
    rows: list[RowResult]

    def result(self, recipe: str) -> RowResult:
        """Return what the row of a recipe came to."""
        return next(one for one in self.rows if one.row.recipe == recipe)


def collect(table: AblationTable, runs: Sequence[RowRun], store: StageStore, *, base: str) -> TableResult:
    """Read what has run of a table's rows.

    Args:
        table: The table.
        runs: Rows and seeds, those of other tables among them.
        store: Where the stages are.
        base: Name of the base recipe.
    """
    results = []
    for row in table.rows:
        own = [run for run in runs if run.row == row.recipe]
        result = RowResult(row, _label(row, own))
        for run in own:
            _read_row(result, run, store)
        if own:
            _count(result, own[0])
        results.append(result)
    kinds = list(dict.fromkeys(kind for result in results for kind in result.scores))
    columns = [kind for kind in kinds if kind not in (MEAN, CAPTIONS)]
    columns += [kind for kind in (MEAN, CAPTIONS) if kind in kinds]
    return TableResult(table, base, sorted({run.seed for run in runs}), columns, results)


def _label(row: Row, runs: Sequence[RowRun]) -> str:
    size = str(runs[0].recipe.reconstruct.pool.size) if runs and row.recipe.startswith(_POOL_SIZE) else row.label
    return row.label if size == row.label else f"{row.label} (here {size})"


def _read_row(result: RowResult, run: RowRun, store: StageStore) -> None:
    try:
        data = read_run(store.link_row(run), label=f"{result.row.label}, seed {run.seed}")
    except UsageError:
        return  # nothing of it has run yet
    result.runs[run.seed] = data
    scores = scores_of(data)
    for kind, share in scores.items():
        result.scores.setdefault(kind, {})[run.seed] = share
    if MEAN in scores:
        result.measures.setdefault("score", {})[run.seed] = scores[MEAN]
    stage = data.stages.get("reconstruct")
    if stage is None or not stage.finished:
        return
    curve = stage.metrics.curves.get("caption_loss")
    if curve is not None and run.recipe.reconstruct.objectives.caption_weight > 0:
        tail = curve.means[-max(1, len(curve.means) // _LAST_SHARE) :]
        result.measures.setdefault("caption_loss", {})[run.seed] = sum(tail) / len(tail)
    use = stage.health.get("pool_window_share")
    if isinstance(use, float | int):
        result.measures.setdefault("pool_use", {})[run.seed] = float(use)


def scores_of(run: RunData) -> dict[str, float]:
    """Return a run's scores as shares: by question type of drawn scenes, else by benchmark of `croc eval`."""
    if run.accuracy:
        found = dict(run.accuracy)
        if run.mean_accuracy is not None:
            found[MEAN] = run.mean_accuracy
        recall = run.scenes.get("caption_recall")
        return found | ({CAPTIONS: float(recall)} if isinstance(recall, float | int) else {})
    values = {name: entry.get("value") for name, entry in run.benchmarks.items()}
    found = {name: value / 100 for name, value in values.items() if isinstance(value, float | int)}
    mean = _benchmark_mean(run)
    return found | ({MEAN: mean} if mean is not None else {})


def _benchmark_mean(run: RunData) -> float | None:
    values = [entry.get("value") for name, entry in run.benchmarks.items() if name not in OTHER_SCALE]
    numbers = [value / 100 for value in values if isinstance(value, float | int)]
    return sum(numbers) / len(numbers) if numbers else None


def _count(result: RowResult, run: RowRun) -> None:
    """Note how many steps and samples the row takes of each stage."""
    for link in run.links:
        if link.stage not in STAGES:
            continue
        steps = steps_of_stage(run.recipe, link.stage)
        if steps is not None:
            result.steps[link.stage] = steps
            result.samples[link.stage] = steps * int(run.recipe.stage(link.stage).batch.global_size)


def notes(result: TableResult) -> list[str]:
    """Return what to know before rows are compared: those that are not matched, and seeds that have no score."""
    missing = [
        f"{one.label} (seed {', '.join(map(str, open_seeds))})"
        for one in result.rows
        if (open_seeds := [seed for seed in result.seeds if seed not in one.scores.get(MEAN, {})])
    ]
    return [*unmatched(result), *([f"not scored yet: {', '.join(missing)}"] if missing else [])]


def unmatched(result: TableResult) -> list[str]:
    """Return the rows that had other numbers of steps or samples than most, each as a sentence."""
    signature = {one.row.label: tuple(sorted({**one.steps, **_prefixed(one.samples)}.items())) for one in result.rows}
    values = list(signature.values())
    usual = max(values, key=values.count)
    return [
        f"{one.row.label} is not matched: {_amounts(one)}, the others {_amounts(_of(result, usual, signature))}"
        for one in result.rows
        if signature[one.row.label] != usual
    ]


def _of(result: TableResult, usual: object, signature: Mapping[str, object]) -> RowResult:
    return next(one for one in result.rows if signature[one.row.label] == usual)


def _prefixed(samples: Mapping[str, int]) -> dict[str, int]:
    return {f"samples of {stage}": number for stage, number in samples.items()}


def _amounts(one: RowResult) -> str:
    return f"{counted(sum(one.steps.values()), 'step')} and {counted(sum(one.samples.values()), 'sample')}"


def claim_sentences(result: TableResult) -> list[str]:
    """Return each claim as a sentence: what the paper has, what came out here, and whether that agrees."""
    return [claim_sentence(result, claim) for claim in result.table.claims]


def claim_sentence(result: TableResult, claim: Claim) -> str:
    """Return one claim as a sentence."""
    above, below = result.result(claim.above), result.result(claim.below)
    where, what, unit, factor = _MEASURES[claim.measure]
    opening = f"{_name(above.row)} {where} {_name(below.row)} {what}"
    papers = _paper_says(claim, above.row, below.row)
    difference = paired_difference(
        *({seed: factor * v for seed, v in one.measures.get(claim.measure, {}).items()} for one in (above, below))
    )
    if difference is None:
        return f"{opening} ({papers}): has not run."
    claimed = replace(difference, value=-difference.value) if where == "below" else difference
    word = (_VERDICTS if claim.of_the_paper else _OWN_VERDICTS)[verdict(claimed)]
    return f"{opening} ({papers}): {word}; here {format_difference(difference, unit)}."


def _name(row: Row) -> str:
    return (
        f"pool of {row.label}"
        if row.recipe.startswith(_POOL_SIZE)
        else (f"mask ratio {row.label}" if row.recipe.startswith("mask-ratio") else row.label)
    )


def _paper_says(claim: Claim, above: Row, below: Row) -> str:
    if not claim.of_the_paper:
        return "the paper has no such row"
    if claim.measure == "score" and above.paper_mean is not None and below.paper_mean is not None:
        return f"the paper at 7B: {above.paper_mean - below.paper_mean:+.1f} points in the mean of its benchmarks"
    return "the paper shows it in a figure at 7B"


def format_difference(difference: Mean, unit: str) -> str:
    """Return a difference such as `+2.1 points [0.3, 3.9] over 3 seeds`."""
    value = _without_rounding_errors(difference.value)
    if difference.half is None:
        return f"{value:+.2g}{unit} with one seed, which has no interval"
    low, high = (_without_rounding_errors(value + sign * difference.half) for sign in (-1, 1))
    return f"{value:+.2g}{unit}, 95 % interval [{low:.2g}, {high:.2g}] over {difference.num_seeds} seeds"


def _without_rounding_errors(value: float) -> float:
    return round(value, 9) + 0.0  # the sum makes 0 of -0


def mean_of(values: Mapping[int, float]) -> Mean | None:
    """Return the mean over seeds, or None without any."""
    return mean_over_seeds(list(values.values())) if values else None
