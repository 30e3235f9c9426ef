"""How many runs an ablation still takes, and about how long, before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from croc_cli.ablation.stages import ChainLink, RowRun, StageStore, open_links
from croc_cli.estimate.resources import GPU_PEAK_FLOPS, PAPER_SAMPLES, TEXT_TOKENS
from croc_cli.launch.plan import count_samples, count_steps
from croc_cli.names import STAGES, stage_name
from croc_cli.recipe.facts import model_facts
from croc_cli.recipe.parameters import parameter_counts
from croc_cli.recipe.schema import Recipe
from croc_cli.report.terminal import stage_seconds
from croc_cli.run_dir import read_json

MEASURED = {"align": 111 / 6_400, "reconstruct": 109 / 2_560, "finetune": 171 / 3_840, "eval": 40.0}
"""Seconds a sample of the recipe nano on two cores (an AMD EPYC), start-up included; of the evaluation, in all."""
_BUILTIN = "builtin:nano"
_FLOPS = GPU_PEAK_FLOPS["bf16"] * 0.4
"""What an A100 does in bf16 at best (NVIDIA's data sheet), and the share of it that training of this kind reaches."""
_PLANNED_GPUS = 8


@dataclass(frozen=True)
class Estimate:
    """What is still to be done.

    Args:
        num_rows: Rows times seeds.
        num_stages: Stages to run, shared ones once.
        num_done: Stages that are finished already.
        num_without_sharing: Stages that it would be if every row ran its own.
        seconds: About how long; None where it cannot be told.
        basis: What the time is taken from.
    """

    num_rows: int
    num_stages: int
    num_done: int
    num_without_sharing: int
    seconds: float | None
    basis: str


def estimate(runs: Sequence[RowRun], store: StageStore) -> Estimate:
    """Return what rows still take."""
    todo = open_links(runs, store)
    every = {link.hash for run in runs for link in run.links}
    rates = measured_rates(runs, store)
    times = [_seconds(link, recipe, rates) for link, recipe in todo.values()]
    known = [seconds for seconds, _ in times if seconds is not None]
    bases = sorted({basis for _, basis in times})
    return Estimate(
        num_rows=len(runs),
        num_stages=len(todo),
        num_done=len(every) - len(todo),
        num_without_sharing=sum(len(run.links) for run in runs),
        seconds=sum(known) if len(known) == len(times) else None,
        basis=", ".join(bases),
    )


def measured_rates(runs: Sequence[RowRun], store: StageStore) -> dict[str, float]:
    """Return seconds a step of each stage, from finished stages of these rows; of the evaluation, seconds in all."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for link in run.links:
            stage = store.find(link)
            seconds = stage_seconds(stage) if stage is not None else None
            steps = read_json(stage.summary_file).get("steps") if stage is not None else None
            if link.stage == "eval" and seconds:
                found.setdefault(link.stage, []).append(seconds)
            elif seconds and isinstance(steps, int) and steps > 0:
                found.setdefault(link.stage, []).append(seconds / steps)
    return {stage: sum(rates) / len(rates) for stage, rates in found.items()}


def _seconds(link: ChainLink, recipe: Recipe, rates: Mapping[str, float]) -> tuple[float | None, str]:
    """Return about how long a stage takes, and where that comes from."""
    steps = steps_of_stage(recipe, link.stage)
    if link.stage in rates:
        return (rates[link.stage] * steps if steps else None), "stages that have run here"
    if recipe.model.llm == _BUILTIN:
        samples = steps * recipe.stage(link.stage).batch.global_size if steps and link.stage in STAGES else steps
        return (MEASURED[link.stage] * samples if samples else None), "nano as measured on two cores"
    if link.stage == "eval":
        return None, "nothing like it has run"
    seconds = _guess(recipe, link.stage) * _steps_for_a_guess(recipe, link.stage)
    return seconds or None, f"a guess: {_PLANNED_GPUS} A100s at 40 % of their peak, without evaluation"


def steps_of_stage(recipe: Recipe, stage: str) -> int | None:
    """Return the optimizer steps of a stage, 1 for an evaluation; None where the data is not here."""
    if stage not in STAGES:
        return 1
    training = stage_name(stage)
    return count_steps(recipe.stage(training), count_samples(recipe, training))


def _steps_for_a_guess(recipe: Recipe, stage: str) -> int:
    """Return the steps of a stage, with the paper's number of samples where the data is not here."""
    known = steps_of_stage(recipe, stage)
    return known or count_steps(recipe.stage(stage), PAPER_SAMPLES[stage]) or 0


def _guess(recipe: Recipe, stage: str) -> float:
    """Return seconds a step from the model's size: 6 operations a parameter and token, 4 where the LLM rests."""
    section = recipe.stage(stage)
    counts = parameter_counts(recipe, stage_name(stage))
    tokens = section.batch.global_size * ((model_facts(recipe.model).num_visual_tokens or 0) + TEXT_TOKENS)
    passes = 6 if section.learning_rate.llm > 0 else 4
    return passes * sum(counts.values()) * tokens / (_FLOPS * _PLANNED_GPUS)
