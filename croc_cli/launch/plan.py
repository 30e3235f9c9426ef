"""From a recipe to everything that a launch needs: argv, environment, DeepSpeed's JSON and the figures of a dry run."""

import base64
import json
import math
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from croc_cli.files import open_file
from croc_cli.launch import node_environment
from croc_cli.launch.deepspeed_config import deepspeed_config
from croc_cli.launch.layout import Layout
from croc_cli.names import STAGES, StageName
from croc_cli.recipe.parameters import trained_counts
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.schema import STALL_SECONDS, MixData, Recipe, ScenesData, StageRecipe
from croc_cli.run_dir import StageDir
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.read.manifest import mix_rows
from croc_cli.sources.verify.held_out import num_held_out
from croc_cli.words import counted

WORKER = "croc_cli.worker"
SPIN_TURNS = "5000"
"""Turns that a waiting thread spins before it sleeps, some microseconds; libgomp's own default is sixty times that."""
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class LaunchPlan:
    """One launch, decided.

    Args:
        stage: A training stage, or another job such as `benchmarks`.
        stage_dir: Its folder.
        start: Checkpoint that it starts from; None = assembled from tower and LLM.
        layout: Where the ranks go.
        command: What is started.
        environment: What is added to this process's environment.
        deepspeed: DeepSpeed's config; None where the worker does without.
        num_samples: Samples of an epoch; None where the data is not at hand.
        num_steps: Optimizer steps; None where they follow from data that is not at hand.
        batch: The samples of an optimizer step and how they are dealt, in words.
        tokens_per_step: Tokens of an optimizer step at most, text and visual, padding left out.
        trained: Parameters of each group that trains.
        frozen: Parameters of each group that does not.
        stall_timeout: Seconds without any change after which a rank hangs.
        master_port: Port over which the ranks find each other; None where there is none to find.
        port_is_chosen: croc chose it, so another may take its place.
        is_rehearsal: Nothing of it is kept.
    """

    stage: str
    stage_dir: StageDir
    start: Path | None
    layout: Layout
    command: tuple[str, ...]
    environment: dict[str, str]
    deepspeed: dict[str, Any] | None = None
    num_samples: int | None = None
    num_steps: int | None = None
    batch: str = ""
    tokens_per_step: int | None = None
    trained: dict[str, int] | None = None
    frozen: dict[str, int] | None = None
    stall_timeout: float = STALL_SECONDS
    master_port: int | None = None
    port_is_chosen: bool = False
    is_rehearsal: bool = False

    def with_port(self, port: int) -> "LaunchPlan":
        """Return the plan over another port."""
        old, new = f"--master_port={self.master_port}", f"--master_port={port}"
        environment = self.environment | ({"MASTER_PORT": str(port)} if "MASTER_PORT" in self.environment else {})
        command = tuple(new if argument == old else argument for argument in self.command)
        return replace(self, command=command, environment=environment, master_port=port)


def plan_stage(
    recipe: Recipe,
    stage: StageName,
    stage_dir: StageDir,
    *,
    start: Path | None,
    layout: Layout,
    master_port: int,
    counts: dict[str, int],
    worker: str = WORKER,
    through_launcher: bool = True,
) -> LaunchPlan:
    """Return the plan of a training stage.

    Args:
        recipe: The resolved recipe.
        stage: The stage.
        stage_dir: Its folder.
        start: Checkpoint that it starts from; None = assembled from tower and LLM.
        layout: Where the ranks go.
        master_port: Port over which the ranks find each other.
        counts: Parameters of each group, as far as they are known.
        worker: Python module that is one rank.
        through_launcher: Start ranks with DeepSpeed's launcher; False = run the module as the one rank.

    Raises:
        RecipeError: Batch and ranks, or offload and ZeRO stage, do not fit together.
    """
    section = recipe.stage(stage)
    arguments = worker_arguments(stage_dir, stage, start)
    if through_launcher:
        command = launcher_command(recipe, layout, stage_dir, worker, arguments, master_port=master_port)
    else:
        command = worker_command(arguments, worker=worker)
    samples = count_samples(recipe, stage)
    trained = trained_counts(recipe, stage, counts)
    frozen = {group: count - trained.get(group, 0) for group, count in counts.items()}
    return LaunchPlan(
        stage=stage,
        stage_dir=stage_dir,
        start=start,
        layout=layout,
        command=command,
        environment=launch_environment(layout, master_port=master_port),
        deepspeed=deepspeed_config(
            recipe,
            stage,
            num_ranks=layout.num_ranks,
            stage_folder=str(stage_dir.root),
            on_gpu=layout.device == "cuda",
        ),
        num_samples=samples,
        num_steps=count_steps(section, samples),
        batch=_batch(section, layout),
        tokens_per_step=section.batch.global_size * section.max_length,
        trained=trained,
        frozen={group: count for group, count in frozen.items() if count},
        stall_timeout=recipe.launch.stall_timeout,
        master_port=master_port,
        port_is_chosen=recipe.launch.master_port is None,
    )


def worker_arguments(stage_dir: StageDir, stage: str, start: Path | None) -> tuple[str, ...]:
    """Return what the worker module is given."""
    arguments = ("--stage-dir", str(stage_dir.root), "--stage", stage)
    return arguments if start is None else (*arguments, "--start", str(start))


def worker_command(arguments: tuple[str, ...], *, worker: str = WORKER) -> tuple[str, ...]:
    """Return the argv of a job of one process, without a launcher."""
    return (sys.executable, "-u", "-m", worker, *arguments)


def launcher_command(
    recipe: Recipe,
    layout: Layout,
    stage_dir: StageDir,
    worker: str,
    arguments: tuple[str, ...],
    *,
    master_port: int,
) -> tuple[str, ...]:
    """Return the argv that starts every rank.

    On one node this is the launcher that `deepspeed` itself starts (`deepspeed.launcher.launch`), called without the
    `deepspeed` runner in between: the runner costs one more import of torch and DeepSpeed (2 s on two cores) and drops
    CUDA_VISIBLE_DEVICES when it is given a number of GPUs. Over a hostfile it is the runner; in Slurm it is srun, whose
    ranks the worker numbers from SLURM_PROCID.
    """
    logs = str(stage_dir.logs)
    if layout.kind == "hostfile":  # ssh starts ranks without this process's environment
        arguments = (str(stage_dir.root / node_environment.FILE_NAME), worker, *arguments)
        worker = node_environment.MODULE
    common = (
        "--no_local_rank",
        f"--enable_each_rank_log={logs}",
        "--log_level=warning",
        "--module",
        worker,
        *arguments,
    )
    if layout.kind == "slurm":
        return (*srun_command(recipe, layout, stage_dir), sys.executable, "-u", "-m", worker, *arguments)
    if layout.kind == "hostfile":
        runner = (sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={recipe.launch.hostfile}")
        ranks = recipe.launch.num_ranks
        limit = () if ranks == "auto" else (f"--num_gpus={ranks}",)
        return (*runner, *limit, f"--master_port={master_port}", *common)
    ids: list[int | str] = [int(name) if name.isdigit() else name for name in layout.device_ids]
    world = base64.urlsafe_b64encode(json.dumps({"localhost": ids}).encode()).decode()
    launcher = (sys.executable, "-u", "-m", "deepspeed.launcher.launch", f"--world_info={world}")
    return (*launcher, "--master_addr=127.0.0.1", f"--master_port={master_port}", *common)


def srun_command(recipe: Recipe, layout: Layout, stage_dir: StageDir) -> tuple[str, ...]:
    """Return `srun …` up to the program that it starts on every rank."""
    slurm = recipe.launch.slurm
    assert slurm is not None
    ranks = layout.ranks_per_node[0]
    command = ["srun", f"--nodes={layout.num_nodes}", f"--ntasks={layout.num_ranks}", f"--ntasks-per-node={ranks}"]
    # Inside sbatch, srun takes the job's SLURM_NTASKS and SLURM_EXPORT_ENV for what is not said here.
    command += ["--export=ALL", "--kill-on-bad-exit=1"]
    if layout.device == "cuda":
        command.append(f"--gpus-per-node={ranks}")
    if slurm.partition:
        command.append(f"--partition={slurm.partition}")
    if slurm.time_limit:
        command.append(f"--time={slurm.time_limit}")
    return (*command, f"--output={stage_dir.logs}/slurm_rank%t.log", *slurm.extra_args)


def launch_environment(layout: Layout, *, master_port: int | None) -> dict[str, str]:
    """Return the variables that every rank needs."""
    environment = {
        "DS_ACCELERATOR": layout.device,
        "OMP_NUM_THREADS": str(layout.threads_per_rank),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if layout.device == "cpu":
        # Threads that spin for long on a busy machine take the core from those that they wait for; threads that never
        # spin wake up too late between a small model's short operations. torch's OpenMP is GNU's, which counts turns.
        environment["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", SPIN_TURNS)
    if layout.kind == "slurm" and master_port is not None:
        environment["MASTER_PORT"] = str(master_port)
    return environment


def _batch(section: StageRecipe, layout: Layout) -> str:
    batch, ranks = section.batch, counted(layout.num_ranks, "rank")
    total = f"{counted(batch.global_size, 'sample')} a step"
    if section.row_tokens is not None:
        rows = f"packed into rows of up to {counted(section.row_tokens, 'token')}"
        return f"{total}, {rows}, up to {batch.micro_size} × {ranks} at a time"
    rounds = batch.global_size // (batch.micro_size * layout.num_ranks)
    return f"{total} = {batch.micro_size} × {ranks} × {counted(rounds, 'micro-batch', 'micro-batches')}"


def count_steps(section: StageRecipe, num_samples: int | None) -> int | None:
    """Return the optimizer steps of a stage; an incomplete last batch counts as a step."""
    if section.max_steps is not None:
        return section.max_steps
    if num_samples is None:
        return None
    return max(1, math.ceil(num_samples * section.epochs / section.batch.global_size))


def count_samples(recipe: Recipe, stage: StageName) -> int | None:
    """Return the samples of an epoch, or None where the data is not here; a file is counted, not parsed.

    Held-out samples are taken off; rows that share their pictures, which are left out too, are not known here.
    """
    samples, held = _count_rows_of(recipe, stage), num_held_out(recipe, stage) or 0
    source = recipe.data.source(stage)
    if samples is None or isinstance(source, ScenesData) or getattr(source, "num_samples", None) is not None:
        return samples
    return max(1, samples - held)


def _count_rows_of(recipe: Recipe, stage: StageName) -> int | None:
    source = recipe.data.source(stage)
    if source is None:
        return None
    if isinstance(source, MixData):
        return mix_rows(mix_folder(recipe, stage))
    if isinstance(source, ScenesData):
        return source.num_samples
    rows = count_rows(data_path(recipe.data.root, source.path))
    if rows is None or source.num_samples is None:
        return rows if source.num_samples is None else source.num_samples
    return min(rows, source.num_samples)


def count_rows(file: Path) -> int | None:
    """Return how many `conversations` keys a LLaVA file holds, which is how many rows it has.

    Inside a JSON string the closing quote of such a word would be escaped, so only keys match.
    """
    if not file.is_file():
        return None
    pattern = re.compile(rb'"conversations"\s*:')
    rows, rest = 0, b""
    with open_file(file) as stream:
        while block := stream.read(_READ_BYTES):
            text = rest + block
            end = 0
            for match in pattern.finditer(text):
                rows, end = rows + 1, match.end()
            rest = text[max(end, len(text) - 64) :]
    return rows


def describe_plan(plan: LaunchPlan, *, settings: str = "") -> str:
    """Return what `--dry-run` prints.

    Args:
        plan: The plan.
        settings: The stage's own settings, one a line.
    """
    import shlex

    steps = "as many as the data gives; the data file is not here" if plan.num_steps is None else f"{plan.num_steps:,}"
    samples = "" if plan.num_samples is None else f" ({counted(plan.num_samples, 'sample')} an epoch)"
    lines = [
        f"stage        {plan.stage}",
        f"folder       {plan.stage_dir.root}",
        f"start        {plan.start or _assembled(plan)}",
        f"ranks        {plan.layout.describe()}",
    ]
    if plan.deepspeed is not None:
        lines += [
            f"steps        {steps}{samples}",
            f"batch        {plan.batch}",
            f"tokens       {plan.tokens_per_step:,} a step at most",
            f"trained      {_counts(plan.trained)}",
            f"frozen       {_counts(plan.frozen)}",
        ]
    lines += settings.splitlines()
    lines += ["", "command", "  " + shlex.join(plan.command), "", "environment"]
    lines += [f"  {name}={value}" for name, value in plan.environment.items()]
    if plan.deepspeed is not None:
        lines += ["", "deepspeed.json", *("  " + line for line in json.dumps(plan.deepspeed, indent=2).splitlines())]
    return "\n".join(lines)


def _assembled(plan: LaunchPlan) -> str:
    return "assembled from vision tower and LLM" if plan.stage in STAGES else "the last checkpoint of the last stage"


def _counts(groups: dict[str, int] | None) -> str:
    if not groups:
        return "nothing that is known without the model's files" if groups is None else "none that is known"
    return f"{sum(groups.values()):,} = " + " + ".join(f"{name} {count:,}" for name, count in groups.items())
