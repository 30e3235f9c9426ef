"""What must hold before anything is launched: the machine is large enough, the data is there."""

import importlib.util
import json

from croc_cli.errors import CrocError, UsageError
from croc_cli.launch.devices import Machine
from croc_cli.launch.plan import count_samples
from croc_cli.launch.row_lengths import check_row_tokens
from croc_cli.names import FLASH_PACKAGES, LIGER_PACKAGE, MASKING_KERNELS, StageName
from croc_cli.recipe.facts import model_facts
from croc_cli.recipe.find import recipe_names
from croc_cli.recipe.load import argument_of, load_recipe
from croc_cli.recipe.parameters import parameter_counts, trained_counts
from croc_cli.recipe.paths import PATHS_START, data_path
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe
from croc_cli.sources.mix.recipe_mix import mix_folder, mix_spec
from croc_cli.sources.read.manifest import read_manifest
from croc_cli.sources.verify.held_out import check_held_out
from croc_cli.words import counted

CPU_PARAMETERS = 1_000_000_000
"""Parameters up to which training on a CPU is allowed: a step of 7B takes a CPU many minutes."""
GPU_BYTES = 60e9
"""What a GPU of 80 GB leaves for parameters, gradients and optimizer state once activations have theirs; a guess."""


def fits_cpu(counts: dict[str, int]) -> bool:
    """Tell whether a model of so many parameters may train on a CPU; one of unknown size may."""
    return sum(counts.values()) <= CPU_PARAMETERS


def state_bytes(recipe: Recipe, stage: StageName, counts: dict[str, int]) -> int:
    """Return the bytes of parameters, gradients and AdamW's state of one stage, over all ranks.

    In bf16 a trained parameter takes 18 bytes (bf16 weight, float32 gradient, master weight and two moments) and a
    frozen one 2; in fp32 it is 16 and 4.
    """
    trained = sum(trained_counts(recipe, stage, counts).values())
    frozen = sum(counts.values()) - trained
    return trained * 18 + frozen * 2 if recipe.stage(stage).precision == "bf16" else trained * 16 + frozen * 4


def check_attention(recipe: Recipe, stage: StageName, *, here: bool) -> None:
    """Raise UsageError where the named attention kernel is not installed, or cannot do what the stage asks for.

    Args:
        recipe: The recipe.
        stage: The stage about to run.
        here: The ranks run on this machine, so a package that is missing here is missing for them.
    """
    kernel = recipe.model.attention
    package = FLASH_PACKAGES.get(kernel)
    if package is None:
        return
    pool_stage = recipe.pool_stage(stage)
    kind = "causal" if pool_stage is None else pool_stage.attention
    others = ", ".join(MASKING_KERNELS)
    if kind != "causal":
        raise UsageError(
            f"model.attention: {kernel} cannot do {kind} attention, which {stage} needs; {others} can",
            hint="--set model.attention=auto",
        )
    if recipe.stage(stage).precision != "bf16":
        raise UsageError(
            f"model.attention: {kernel} computes in bf16, and {stage}.precision is {recipe.stage(stage).precision}; "
            f"{others} can do both",
            hint="--set model.attention=auto",
        )
    if here and importlib.util.find_spec(package) is None:
        raise UsageError(
            f"model.attention: {kernel} is not installed (no module {package}); {others} come with torch",
            hint="--set model.attention=auto",
        )


def check_kernels(recipe: Recipe, *, on_gpu: bool, here: bool) -> None:
    """Raise UsageError where the fused kernels that the recipe names are not installed, or the ranks have no GPU.

    Args:
        recipe: The recipe.
        on_gpu: The ranks compute on GPUs.
        here: The ranks run on this machine, so a package that is missing here is missing for them.
    """
    if recipe.launch.kernels != "liger":
        return
    if not on_gpu:
        raise UsageError(
            "launch.kernels: liger needs a CUDA GPU, and this run is on a CPU", hint="--set launch.kernels=auto"
        )
    if here and importlib.util.find_spec(LIGER_PACKAGE) is None:
        raise UsageError(
            f"launch.kernels: liger is not installed (no module {LIGER_PACKAGE})",
            hint="`pip install 'croc-cli[liger]'`, or `--set launch.kernels=auto` goes without",
        )


def check_machine(recipe: Recipe, stage: StageName, machine: Machine, *, command: str) -> None:
    """Raise UsageError where the recipe needs GPUs that this machine does not have, or more memory than it has.

    Args:
        recipe: The recipe.
        stage: The stage about to run.
        machine: This machine.
        command: The croc command that was typed, such as `reconstruct`, for the hint.
    """
    check_monitors(recipe)
    launch = recipe.launch
    here = launch.slurm is None and launch.hostfile is None
    check_attention(recipe, stage, here=here)
    check_kernels(recipe, on_gpu=launch.device != "cpu" and (not here or bool(machine.cuda)), here=here)
    if launch.slurm is not None or launch.hostfile is not None or (machine.cuda and launch.device != "cpu"):
        return
    if recipe.model.attention in FLASH_PACKAGES:
        raise UsageError(
            f"model.attention: {recipe.model.attention} needs a CUDA GPU, and this run is on a CPU",
            hint="--set model.attention=auto takes a kernel that the device can run",
        )
    if recipe.model.attention in ("flex", "flex_attention"):
        raise UsageError(
            "model.attention: flex_attention has no backward pass on a CPU (torch 2.13)",
            hint="--set model.attention=sdpa, which gives the same numbers",
        )
    counts = parameter_counts(recipe, stage)
    total = sum(counts.values())
    needed = state_bytes(recipe, stage, counts)
    model = f"a model of {total / 1e9:.1f}B parameters" if total >= 1e8 else f"a model of {total / 1e6:.1f}M parameters"
    hint = nearest_recipe_hint(stage, machine, total=total, command=command, but=recipe.name)
    if launch.device == "cuda" or (launch.device == "auto" and total > CPU_PARAMETERS):
        gpus = max(1, -(-needed // int(GPU_BYTES)))
        state = f" and about {needed / 1e9:.0f} GB for weights, gradients and optimizer state" if total else ""
        size = f" ({gpus} or more of 80 GB)" if total else ""
        raise UsageError(
            f"recipe {recipe.name} needs CUDA GPUs{size}: {stage} trains {model}{state}."
            f" This machine has {machine.describe()}",
            hint=hint,
        )
    if machine.memory_bytes and needed > machine.memory_bytes:
        raise UsageError(
            f"recipe {recipe.name} needs about {needed / 1e9:.0f} GB of memory for {stage}, {model}."
            f" This machine has {machine.describe()}",
            hint=hint,
        )


def features_note(recipe: Recipe, stage: StageName) -> str | None:
    """Return what disk `data.cache_features` needs at most for a stage; None where it is off or sizes are unknown."""
    tower, samples = model_facts(recipe.model).tower, count_samples(recipe, stage)
    if recipe.data.cache_features is None or tower is None or samples is None:
        return None
    size = 2 if recipe.stage(stage).precision == "bf16" else 4
    picture = tower.num_visual_tokens * tower.hidden_size * size
    return (
        f"features of up to {counted(samples, 'picture')}, {picture / 2**10:,.0f} KiB each, are kept in "
        f"{recipe.data.cache_features}: {picture * samples / 2**30:,.2f} GiB, less what already exists"
    )


def nearest_recipe_hint(stage: StageName, machine: Machine, *, total: int, command: str, but: str) -> str:
    """Return the hint that names the largest shipped recipe that this machine can run, and how to look at the plan."""
    fitting: list[tuple[int, str]] = []
    for name in recipe_names():
        if "/" in name or name == but:
            continue
        try:
            recipe = load_recipe(name, environ={}).recipe
        except CrocError:
            continue
        counts = parameter_counts(recipe, stage)
        size = sum(counts.values())
        enabled = recipe.stage(stage).enabled
        runs_here = recipe.launch.device != "cuda" and fits_cpu(counts)
        enough = not machine.memory_bytes or state_bytes(recipe, stage, counts) <= machine.memory_bytes
        if size and enabled and runs_here and enough and (not total or size < total):
            fitting.append((size, name))
    plan = "--dry-run prints the plan all the same"
    if not fitting:
        return plan
    size, nearest = max(fitting)
    text = f"the nearest recipe that fits is {nearest} ({size / 1e6:.0f}M parameters): `croc {command} {nearest}`"
    if nearest != "nano" and any(name == "nano" for _, name in fitting):
        text += "; `croc demo` runs nano, which needs no data"
    return f"{text}; {plan}"


def check_monitors(recipe: Recipe) -> None:
    """Raise UsageError where a monitor of the recipe is not installed here, where ranks start."""
    missing = [name for name in recipe.monitor if importlib.util.find_spec(name) is None]
    if missing:
        others = [name for name in recipe.monitor if name not in missing]
        raise UsageError(
            f"monitor: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            hint=f"`pip install {' '.join(missing)}`, or `--set 'monitor={json.dumps(others)}'` goes without",
        )


def check_data(recipe: Recipe, stage: StageName) -> None:
    """Raise UsageError where a stage's data is not there."""
    source = recipe.data.source(stage)
    if source is None:
        raise UsageError(
            f"recipe {recipe.name} has no data.{stage}", hint=f"--set data.{stage}.kind=… or a recipe with it"
        )
    if isinstance(source, MixData):
        check_mix(recipe, stage)
        check_row_tokens(recipe, stage)
    elif isinstance(source, LlavaJsonData):
        _check_file(recipe, stage, source)
    check_held_out(recipe, stage)


def _check_file(recipe: Recipe, stage: StageName, source: LlavaJsonData) -> None:
    file, images = data_path(recipe.data.root, source.path), data_path(recipe.data.root, source.image_folder)
    if not file.is_file():
        says = "is not a file" if file.exists() else "does not exist"
        raise UsageError(
            f"data.{stage}.path: {file.absolute()} {says}",
            hint=f"--set data.{stage}.path=FILE names a LLaVA JSON or JSONL; {PATHS_START}",
        )
    if not images.is_dir():
        says = "is not a folder" if images.exists() else "does not exist"
        raise UsageError(
            f"data.{stage}.image_folder: {images.absolute()} {says}",
            hint=f"--set data.{stage}.image_folder=DIR names the folder; {PATHS_START}",
        )


def check_mix(recipe: Recipe, stage: StageName) -> None:
    """Raise UsageError where a stage's mix is not there, or is not the one that the recipe describes."""
    folder = mix_folder(recipe, stage)
    command = f"`croc data mix {argument_of(recipe)} --stage {stage}`"
    if not folder.exists():
        raise UsageError(
            f"data.{stage}: there is no mix {folder} yet",
            hint=f"`croc data prepare {argument_of(recipe)}` fetches, mixes and checks; {command} mixes what is here",
        )
    manifest = read_manifest(folder)
    if manifest.fingerprint != mix_spec(recipe, stage).fingerprint():
        raise UsageError(
            f"data.{stage}: mix {folder} was made of other sources, counts or seeds than the recipe says now",
            hint=f"{command} makes it again",
        )
