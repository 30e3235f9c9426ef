"""Which of DeepSpeed's operators a stage needs, and whether they are compiled for this environment."""

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from croc_cli.names import StageName
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import read_json

SHARED_MEMORY = "deepspeed_shm_comm"
"""Collectives of CPU ranks of one machine."""
CPU_ADAM = "cpu_adam"
"""AdamW whose state is in host memory."""
FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"
STAMP = "croc-built.json"
_PACKAGES = ("torch", "deepspeed")
_CPU_FLAGS = ("flags", "Features", "model name")
"""Lines of /proc/cpuinfo: operators are compiled for the processor that they are compiled on."""


def needed_ops(recipe: Recipe, stage: StageName, *, device: str) -> tuple[str, ...]:
    """Return the operators that a stage's ranks load."""
    section = recipe.stage(stage)
    names = [SHARED_MEMORY] if device == "cpu" else []
    return (*names, CPU_ADAM) if section.offload != "none" else tuple(names)


def ops_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where operators are compiled: a folder of this environment, unless TORCH_EXTENSIONS_DIR names one.

    Another virtual environment, version or processor has another folder, so none compiles again for the other.
    """
    if given := environment.get(FOLDER_VARIABLE):
        return Path(given)
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "croc" / "ops" / environment_key()


def environment_key() -> str:
    """Return what tells this environment and processor from others, as far as compiled operators depend on them."""
    facts = [sys.prefix, platform.python_version(), platform.machine(), *map(_version, _PACKAGES), *_processor()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class CompiledOp:
    """One of DeepSpeed's operators in this environment's folder.

    Args:
        name: Of the operator.
        state: "compiled", "not compiled", "compiled for another environment" (the first stage that needs it compiles
            it), or "not for this machine".
        folder: Where it lies or will lie.
        seconds: How long it took to compile; None where that is unknown.
    """

    name: str
    state: str
    folder: str
    seconds: float | None = None


def compiled_ops() -> list[CompiledOp]:
    """Return the state of every operator that a stage may need, for this environment and processor."""
    found = []
    for name in (SHARED_MEMORY, CPU_ADAM):
        folder = ops_folder() / name
        stamp, seconds = read_json(folder / STAMP), None
        if is_compiled(folder):
            state, seconds = "compiled", stamp.get("seconds")
        elif stamp.get("compatible") is False:
            state = "not for this machine"
        else:
            state = "compiled for another environment" if stamp.get("compatible") else "not compiled"
        found.append(CompiledOp(name, state, str(folder), seconds if isinstance(seconds, int | float) else None))
    return found


def is_compiled(folder: Path) -> bool:
    """Tell whether a folder holds its operator's library, compiled to its end for this environment and processor.

    Where TORCH_EXTENSIONS_DIR names the folder, another version or processor may have compiled there before.
    """
    stamp = read_json(folder / STAMP)
    is_ours = stamp.get("environment") in (None, environment_key())  # None: by a version that noted none
    return bool(stamp.get("compatible")) and is_ours and (folder / f"{folder.name}.so").is_file()


def missing_ops(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those operators that are not compiled for this environment."""
    folder = ops_folder()
    return tuple(
        name
        for name in names
        if read_json(folder / name / STAMP).get("compatible") is not False and not is_compiled(folder / name)
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.startswith(_CPU_FLAGS)})
