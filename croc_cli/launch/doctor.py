"""What `croc doctor` finds: versions, devices, compiler, disk, hub, and what follows for a run."""

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from croc_cli import __version__
from croc_cli.files import free_disk
from croc_cli.launch.devices import Machine, inspect_machine
from croc_cli.launch.ops import CompiledOp, compiled_ops

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "safetensors",
    "numpy",
    "scipy",
    "pillow",
    "pydantic",
    "pydantic-settings",
    "typer",
    "rich",
    "prompt-toolkit",
    "ninja",
    "img2dataset",
)
OPTIONAL_PACKAGES = ("torchvision", "tensorboard", "trackio", "wandb", "gguf")
MIN_FREE_DISK = 2e9
MIN_SHARED_MEMORY = 1e9
"""What PyTorch's loader processes may need in /dev/shm; containers often give 64 MB."""


@dataclass(frozen=True)
class Findings:
    """What was found.

    Args:
        python: Version and path of the interpreter.
        packages: Version of each package that croc needs; None where it is missing.
        optional: The same for packages that only some recipes need.
        machine: Devices, cores, memory.
        free_disk_bytes: On the disk of the current folder.
        shared_memory_bytes: Free in /dev/shm; None where there is none.
        compiler: Path of g++ or what CXX names; None where it is missing.
        ninja: Path of ninja; None where it is missing.
        operators: DeepSpeed's operators: which are compiled for this environment and processor, and where.
        hub_cache: Where huggingface_hub keeps models.
        hub: "reachable", "offline" or why it cannot be reached.
        warnings: What will be slow or missing, one sentence each.
    """

    python: str
    packages: Mapping[str, str | None]
    optional: Mapping[str, str | None]
    machine: Machine
    free_disk_bytes: int
    shared_memory_bytes: int | None
    compiler: str | None
    ninja: str | None
    operators: tuple[CompiledOp, ...]
    hub_cache: str
    hub: str
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it all as plain values."""
        return {"croc": __version__, **asdict(self)}


def examine() -> Findings:
    """Look at this machine and this installation; imports none of what it looks at."""
    machine = inspect_machine()
    packages = {name: installed_version(name) for name in PACKAGES}
    optional = {name: installed_version(name) for name in OPTIONAL_PACKAGES}
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    ninja = find_ninja()
    shared = Path("/dev/shm")
    shared_bytes = shutil.disk_usage(shared).free if shared.is_dir() else None
    disk = free_disk(Path.cwd())
    cache, hub = hub_state()
    warnings = [
        *package_warnings(packages, machine),
        *machine_warnings(machine, disk=disk, shared=shared_bytes),
        *compiler_warnings(compiler, ninja),
    ]
    if hub not in ("reachable",):
        warnings.append(
            f"the model hub cannot be used ({hub}): recipes need local folders for model.vision_tower and model.llm"
        )
    return Findings(
        python=f"{platform.python_version()} ({sys.executable})",
        packages=packages,
        optional=optional,
        machine=machine,
        free_disk_bytes=disk,
        shared_memory_bytes=shared_bytes,
        compiler=compiler,
        ninja=ninja,
        operators=tuple(compiled_ops()),
        hub_cache=cache,
        hub=hub,
        warnings=tuple(warnings),
    )


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def find_ninja() -> str | None:
    """Return ninja's path: on PATH, or beside this interpreter, where the ninja package puts it."""
    return shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))


def hub_state() -> tuple[str, str]:
    """Return the hub's cache folder, and whether the hub answers within seconds."""
    from croc_cli.launch.model_sources import hub_endpoint

    return hub_endpoint()


def package_warnings(packages: Mapping[str, str | None], machine: Machine) -> list[str]:
    """Return what is missing among the packages, or does not fit the machine."""
    warnings = [
        f"the package {name} is missing: `pip install croc-cli` again" for name, found in packages.items() if not found
    ]
    if machine.cuda and "+cpu" in (packages.get("torch") or ""):
        warnings.append(
            f"torch {packages['torch']} is a CPU build, so the {len(machine.cuda)} CUDA devices stay unused"
        )
    return warnings


def machine_warnings(machine: Machine, *, disk: int, shared: int | None) -> list[str]:
    """Return what will be slow or too small."""
    warnings = []
    if not machine.cuda:
        warnings.append(
            "no CUDA device: nano and smol recipes run, 7B and 13B recipes print their plan only (--dry-run)"
        )
    if disk < MIN_FREE_DISK:
        warnings.append(f"{disk / 1e9:.1f} GB of disk are free here: checkpoints of the demo alone take about 1 GB")
    if shared is not None and shared < MIN_SHARED_MEMORY:
        warnings.append(
            f"/dev/shm has {shared / 1e6:.0f} MB: loader processes may die; --set data.num_workers=0 avoids them"
        )
    return warnings


def compiler_warnings(compiler: str | None, ninja: str | None) -> list[str]:
    """Return what DeepSpeed will not be able to compile: its CPU communication operator, and optimizers for offload."""
    missing = [name for name, found in (("a C++ compiler (g++)", compiler), ("ninja", ninja)) if not found]
    if not missing:
        return []
    return [f"{' and '.join(missing)} not found: DeepSpeed compiles operators for CPU ranks and for offload with them"]


def _operator_text(op: CompiledOp) -> str:
    if op.state == "compiled":
        took = f" in {op.seconds:.0f} s" if op.seconds is not None else ""
        return f"compiled{took} for this environment and processor, in {op.folder}"
    if op.state == "not for this machine":
        return "not for this machine; DeepSpeed does without"
    return f"{op.state}; the first stage that needs it compiles it in {op.folder}"


def format_findings(findings: Findings) -> str:
    """Return the findings as lines of text."""
    lines = [f"{'croc':<20}{__version__}", f"{'python':<20}{findings.python}"]
    lines += [f"{name:<20}{found or 'missing'}" for name, found in findings.packages.items()]
    lines += [f"{name:<20}{found or 'not installed (optional)'}" for name, found in findings.optional.items()]
    lines += [
        "",
        f"{'machine':<20}{findings.machine.describe()}",
        *(f"{'  GPU ' + gpu.id:<20}{gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB" for gpu in findings.machine.cuda),
        f"{'free disk':<20}{findings.free_disk_bytes / 1e9:.0f} GB",
        f"{'compiler':<20}{findings.compiler or 'missing'}",
        f"{'ninja':<20}{findings.ninja or 'missing'}",
        *(f"{op.name:<20}{_operator_text(op)}" for op in findings.operators),
        f"{'model hub':<20}{findings.hub}",
        f"{'model cache':<20}{findings.hub_cache}",
        f"{'flash-attn':<20}not needed: sdpa, eager and flex_attention come with torch",
        "",
    ]
    lines += [f"warning: {warning}" for warning in findings.warnings] or ["nothing is missing"]
    return "\n".join(lines)
