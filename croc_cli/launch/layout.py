"""Where the ranks of a run go: devices and processes of this machine, of a hostfile's, or of a Slurm job."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from croc_cli.errors import RecipeError, UsageError
from croc_cli.files import own_path
from croc_cli.launch.devices import Machine
from croc_cli.recipe.schema import LaunchRecipe

MOST_RANKS = 10**6

PLANNED_GPUS = 8
"""GPUs that a dry run counts on where there is none: the paper trained on one node of eight A100s."""


@dataclass(frozen=True)
class Layout:
    """Ranks of one launch.

    Args:
        device: What a rank computes on.
        ranks_per_node: Ranks of each node, in the hostfile's order; one entry for this machine alone.
        device_ids: What CUDA_VISIBLE_DEVICES gets; of this machine's ranks only, empty on other nodes.
        threads_per_rank: CPU threads of a rank.
        kind: How the ranks are started.
    """

    device: Literal["cuda", "cpu"]
    ranks_per_node: tuple[int, ...]
    device_ids: tuple[str, ...]
    threads_per_rank: int
    kind: Literal["local", "hostfile", "slurm"] = "local"

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole run."""
        return sum(self.ranks_per_node)

    @property
    def num_nodes(self) -> int:
        """Nodes of the run."""
        return len(self.ranks_per_node)

    def describe(self) -> str:
        """Return a line such as `2 ranks on the CPU, 1 thread each`."""
        ranks = f"{self.num_ranks} rank{'s' if self.num_ranks > 1 else ''}"
        where = "the CPU" if self.device == "cpu" else " ".join(("CUDA", ", ".join(self.device_ids) or "devices"))
        nodes = f" of {self.num_nodes} nodes" if self.num_nodes > 1 else ""
        threads = f"{self.threads_per_rank} thread{'s' if self.threads_per_rank > 1 else ''}"
        return f"{ranks} on {where}{nodes}, {threads} each"


def resolve_layout(launch: LaunchRecipe, machine: Machine, *, fits_cpu: bool, planning: bool = False) -> Layout:
    """Return where the ranks go.

    Args:
        launch: The recipe's section.
        machine: This machine.
        fits_cpu: Whether the model is one that a CPU can train; decides what `auto` means without a GPU.
        planning: For a dry run: count on eight GPUs rather than complain that there is none.

    Raises:
        UsageError: More ranks than devices, or no device of the kind that was asked for.
        RecipeError: A hostfile that cannot be read, or a Slurm job without a number of ranks.
    """
    if launch.slurm is not None:
        if launch.num_ranks == "auto":
            raise RecipeError(
                "launch.num_ranks: auto cannot be resolved for a Slurm job, whose nodes are not this one",
                hint="give the ranks per node, such as --gpus 8",
            )
        ranks = (launch.num_ranks,) * launch.slurm.num_nodes
        return Layout(_remote_device(launch), ranks, (), _threads(launch, machine, launch.num_ranks), "slurm")
    if launch.hostfile is not None:
        slots = read_hostfile(own_path(launch.hostfile))
        wanted = None if launch.num_ranks == "auto" else launch.num_ranks
        for host, available in slots.items():
            if wanted is not None and wanted > available:
                raise UsageError(
                    f"launch.num_ranks is {wanted}, but {host} has {available} slots in {launch.hostfile}",
                    hint=f"--gpus {min(slots.values())} fits every host",
                )
        ranks = tuple(wanted or available for available in slots.values())
        return Layout(_remote_device(launch), ranks, (), _threads(launch, machine, max(ranks)), "hostfile")
    return _local_layout(launch, machine, fits_cpu=fits_cpu, planning=planning)


def number_of(environment: Mapping[str, str], name: str, *, least: int, most: int = MOST_RANKS) -> int:
    """Return the whole number in a variable, or the least one where it is not set.

    Raises:
        UsageError: It holds something else, or a number out of range.
    """
    text = environment.get(name, str(least))
    if not re.fullmatch(r"\s*\d{1,9}\s*", text) or not least <= int(text) <= most:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise UsageError(
            f"the variable {name} is {shown!r}, and must be a whole number from {least} to {most}",
            hint="torchrun and srun set it; `unset RANK WORLD_SIZE` lets croc start the ranks itself",
        )
    return int(text)


def joined_layout(launch: LaunchRecipe, machine: Machine, environment: Mapping[str, str] = os.environ) -> Layout | None:
    """Return the layout of a launch that was made already, by torchrun or srun; None where there is none."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    ranks = number_of(environment, "WORLD_SIZE", least=1)
    number_of(environment, "RANK", least=0, most=ranks - 1)
    number_of(environment, "LOCAL_RANK", least=0, most=ranks - 1)
    number_of(environment, "MASTER_PORT", least=1, most=65535)
    here = number_of(environment, "LOCAL_WORLD_SIZE", least=1, most=ranks)
    device: Literal["cuda", "cpu"] = "cuda" if machine.cuda and launch.device != "cpu" else "cpu"
    return Layout(device, (ranks,), (), _threads(launch, machine, here))


def _local_layout(launch: LaunchRecipe, machine: Machine, *, fits_cpu: bool, planning: bool) -> Layout:
    wants_cuda = launch.device == "cuda" or (launch.device == "auto" and (bool(machine.cuda) or not fits_cpu))
    if not wants_cuda:
        ranks = 1 if launch.num_ranks == "auto" else launch.num_ranks
        if ranks > machine.num_cores and not planning:
            raise UsageError(
                f"launch.num_ranks is {ranks}, but this machine has {machine.num_cores} CPU cores and no CUDA device"
                if not machine.cuda
                else f"launch.num_ranks is {ranks}, but this machine has {machine.num_cores} CPU cores",
                hint=f"--gpus {machine.num_cores} is the most that makes sense here",
            )
        return Layout("cpu", (ranks,), tuple(map(str, range(ranks))), _threads(launch, machine, ranks))
    ids = tuple(device.id for device in machine.cuda)
    if planning and not ids:
        ids = tuple(map(str, range(PLANNED_GPUS if launch.num_ranks == "auto" else launch.num_ranks)))
    ranks = len(ids) if launch.num_ranks == "auto" else launch.num_ranks
    if ranks > len(ids) and planning:
        ids = tuple(map(str, range(ranks)))
    if ranks > len(ids) or not ids:
        raise UsageError(
            f"this needs {max(ranks, 1)} CUDA device{'s' if ranks > 1 else ''}; this machine has {machine.describe()}",
            hint=f"--gpus {len(ids)} uses what is there" if ids else "`croc doctor` shows what was looked for",
        )
    return Layout("cuda", (ranks,), ids[:ranks], _threads(launch, machine, ranks))


def read_hostfile(file: Path) -> dict[str, int]:
    """Return the slots of each host in a DeepSpeed hostfile: lines of `host slots=N`.

    Raises:
        RecipeError: The file is missing, empty, or has a line of another form.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RecipeError(f"launch.hostfile: {file} cannot be read ({error.strerror})") from error
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=([1-9]\d*)", text)
        if match is None or match[1] in slots:
            reason = "names a host twice" if match else "is not of the form `host slots=8`"
            raise RecipeError(f"launch.hostfile: {file}:{number} {reason}: {text}")
        slots[match[1]] = int(match[2])
    if not slots:
        raise RecipeError(f"launch.hostfile: {file} names no host", hint="one line a node, such as `node-1 slots=8`")
    return slots


def _remote_device(launch: LaunchRecipe) -> Literal["cuda", "cpu"]:
    return "cpu" if launch.device == "cpu" else "cuda"


def _threads(launch: LaunchRecipe, machine: Machine, ranks_per_node: int) -> int:
    return launch.threads_per_rank or max(1, machine.num_cores // ranks_per_node)
