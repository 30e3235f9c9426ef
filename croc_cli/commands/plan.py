"""`croc plan`."""

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from croc_cli.commands.options import RecipeArgument, SetOption
from croc_cli.files import free_disk, own_path
from croc_cli.names import DEFAULT_RECIPE
from croc_cli.words import counted

if TYPE_CHECKING:
    from croc_cli.estimate.resources import Hardware, StageResources
    from croc_cli.recipe.schema import Recipe

EPILOG = "Example: croc plan croc-7b --gpus 8 --gpu-memory 80GB"
_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
_PLANNED_GPUS = 8
_RECOMPUTED = {"none": "", "alternate": ", every second layer computed again", "full": ", layers computed again"}


def plan(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", min=1, max=10**6, metavar="N", help="Total number of GPUs; default: as the recipe would run here"
        ),
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option("--gpu-memory", metavar="SIZE", help="Memory of one GPU, such as 80GB")
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            "--utilisation",
            min=0.01,
            max=1.0,
            metavar="SHARE",
            help="Plan with this share of the peak; default: measured on this machine, or 0.4 for other machines",
        ),
    ] = None,
    measure_again: Annotated[
        bool, typer.Option("--measure", help="Measure this machine again, instead of using the saved measurement")
    ] = False,
    assignments: SetOption = None,
    form: Annotated[str, typer.Option("--format", metavar="FORM", help="text or json")] = "text",
) -> None:
    """Estimate a recipe's memory, disk and time, and suggest changes where it does not fit."""
    from json import dumps

    from croc_cli.console import result, say_next, with_warnings
    from croc_cli.errors import UsageError
    from croc_cli.estimate.resources import UTILISATION, recipe_resources
    from croc_cli.estimate.settle import settled
    from croc_cli.recipe.load import load_recipe, with_overrides

    if form not in ("text", "json"):
        raise UsageError(f"--format {form}: unknown format", hint="text or json")
    loaded = with_warnings(load_recipe(recipe, overrides=with_overrides({}, assignments or ()))).recipe
    hardware = planned_hardware(loaded, gpus=gpus, gpu_memory=gpu_memory, utilisation=utilisation or UTILISATION)
    if utilisation is None and gpus is None and gpu_memory is None:
        hardware = with_speeds(settled(loaded, hardware), hardware, again=measure_again)
    stages = recipe_resources(settled(loaded, hardware), hardware)
    if form == "json":
        result(dumps(as_json(stages, hardware), indent=2))
        return
    result("\n\n".join([describe_hardware(hardware), *(describe_stage(stage, hardware) for stage in stages)]))
    result("\n" + describe_all(loaded, stages))
    if gpus is None and gpu_memory is None:
        say_next(shlex.join(["croc", "run", recipe]))


def planned_hardware(recipe: "Recipe", *, gpus: int | None, gpu_memory: str | None, utilisation: float) -> "Hardware":
    """Return what is planned for: what was asked for, else what the recipe would run on here, else eight GPUs."""
    from croc_cli.estimate.resources import PLANNED_MEMORY, Hardware, parse_memory
    from croc_cli.launch.devices import inspect_machine
    from croc_cli.launch.layout import resolve_layout
    from croc_cli.launch.requirements import fits_cpu
    from croc_cli.recipe.parameters import parameter_counts

    machine = inspect_machine()
    if gpus is not None or gpu_memory is not None:
        here = machine.cuda[0].memory_bytes if machine.cuda else 0
        memory = parse_memory(gpu_memory) if gpu_memory is not None else here or PLANNED_MEMORY
        return Hardware(gpus or len(machine.cuda) or _PLANNED_GPUS, True, memory, 1, utilisation)
    layout = resolve_layout(
        recipe.launch, machine, fits_cpu=fits_cpu(parameter_counts(recipe, "finetune")), planning=True
    )
    if layout.device == "cuda":
        memory = machine.cuda[0].memory_bytes if machine.cuda else 0
        return Hardware(layout.num_ranks, True, memory or PLANNED_MEMORY, 1, utilisation)
    memory = machine.memory_bytes // layout.ranks_per_node[0]
    return Hardware(layout.num_ranks, False, memory, layout.threads_per_rank, utilisation)


def with_speeds(recipe: "Recipe", hardware: "Hardware", *, again: bool) -> "Hardware":
    """Return the hardware with what is measured on it; unchanged where the ranks would run elsewhere."""
    from dataclasses import replace

    from croc_cli.console import say
    from croc_cli.estimate.resources import speed_cases
    from croc_cli.estimate.speed import measured_speeds
    from croc_cli.launch.devices import inspect_machine

    is_elsewhere = recipe.launch.slurm is not None or recipe.launch.hostfile is not None
    if is_elsewhere or (hardware.on_gpu and not inspect_machine().cuda):
        return hardware
    cases = speed_cases(recipe, device="cuda" if hardware.on_gpu else "cpu")
    speeds = measured_speeds(cases, num_ranks=hardware.num_ranks, threads=hardware.threads, again=again, say=say)
    return replace(hardware, speeds=speeds or None)


def describe_hardware(hardware: "Hardware") -> str:
    """Return what the plan is made for, in a line or two."""
    from croc_cli.estimate.resources import GPU_RESERVE

    ranks = counted(hardware.num_ranks, "rank")
    if hardware.on_gpu:
        reserve = f"{GPU_RESERVE / 2**30:.0f} GiB of it left for CUDA"
        peak = f"bf16 peak {hardware.peak_flops('bf16') / 1e12:.0f} TFLOP/s (A100)"
        where = f"GPUs of {_size(hardware.memory_bytes)}, {reserve}"
    else:
        peak = f"peak {hardware.peak_flops('fp32') / 1e9:.0f} GFLOP/s a rank, an assumption"
        where = f"the CPU, {_size(hardware.memory_bytes)} each"
    if hardware.speeds is not None:
        return f"for {ranks} on {where}; hours follow from a measurement of this machine (--measure repeats it)"
    return f"for {ranks} on {where}; {peak}, of which {hardware.utilisation:.0%} is reached"


def describe_stage(stage: "StageResources", hardware: "Hardware") -> str:
    """Return what a stage takes, as a table of memory by ZeRO stage and lines below it."""
    own = stage.choices
    rows = [["memory a rank", *_PARTS, "total", ""]]
    for zero, parts in stage.memory.items():
        sizes = [_size(getattr(parts, name)) for name in _PARTS]
        note = "too much" if parts.total > hardware.usable_bytes else "fits"
        rows.append([f"ZeRO-{zero}{' *' if zero == own.zero_stage else ''}", *sizes, _size(parts.total), note])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    what = ("packed row" + "s" * (own.micro_size > 1)) if stage.is_packed else "samples"
    known = "" if stage.samples_are_known else " (as listed; the data is not here)"
    lines = [
        f"{stage.stage}: {own.micro_size} {what} of up to {counted(stage.length, 'token')} at a time"
        f"{_RECOMPUTED[own.checkpointing]}"
        f"{f', offload {own.offload}' if own.offload != 'none' else ''}",
        *(line.rstrip() for line in table),
        f"recomputation  {_recomputation(stage)}",
        f"steps {stage.steps:,} · samples {stage.samples:,}{known} · tokens about {stage.tokens:.3g}"
        f" · {stage.flops:.2e} FLOPs · {_hours(stage.hours)}",
        f"disk  {_size(stage.disk_bytes)} for checkpoints of {_size(stage.checkpoint_bytes)}"
        + (f" · {_size(stage.feature_bytes)} for features" if stage.feature_bytes else ""),
    ]
    if not stage.fits:
        if stage.changes is None:
            lines.append("does not fit, and neither smaller batches, ZeRO-3 nor offload make it fit")
        else:
            lines.append("does not fit; this does: " + " ".join(f"--set {change}" for change in stage.changes))
    return "\n".join(lines)


def _recomputation(stage: "StageResources") -> str:
    """Return what each way of `gradient_checkpointing` takes and costs; * is the one that is planned."""
    parts = []
    for name, (size, cost) in stage.recomputation.items():
        more = f", {cost - 1:+.0%} operations" if name != "none" else ""
        parts.append(f"{name}{' *' if name == stage.choices.checkpointing else ''} {_size(size)}{more}")
    return " · ".join(parts)


def describe_all(recipe: "Recipe", stages: "list[StageResources]") -> str:
    """Return hours and disk of all stages, beside the disk that is free."""

    free = free_disk(own_path(recipe.runs_folder))
    disk = sum(stage.disk_bytes for stage in stages) + max((stage.feature_bytes for stage in stages), default=0)
    here = f", {_size(free)} free in {recipe.runs_folder}{'' if free > disk else ': too little'}"
    return (
        f"all   {_hours(sum(stage.hours for stage in stages))}, without data and evaluation · disk {_size(disk)}{here}"
    )


def as_json(stages: "list[StageResources]", hardware: "Hardware") -> dict[str, Any]:
    """Return the plan as plain values; bytes, operations and hours."""
    from dataclasses import asdict

    described = []
    for stage in stages:
        memory = {str(zero): asdict(parts) | {"total": parts.total} for zero, parts in stage.memory.items()}
        described.append(asdict(stage) | {"memory": memory})
    return {"hardware": asdict(hardware), "stages": described}


def _size(number: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number / 1e3:,.0f} kB" if number else "0"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else counted(max(1, round(hours * 60)), "minute")
