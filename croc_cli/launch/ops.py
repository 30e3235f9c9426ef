"""Which of DeepSpeed's operators a stage needs, and whether they are compiled for this environment."""

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
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
    facts = [sys.prefix, platform.python_version(), platform.machine(), *map(_version, _PACKAGES), *_processor()]
    return cache / "croc" / "ops" / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def missing_ops(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those operators that are not compiled for this environment."""
    folder = ops_folder()
    return tuple(name for name in names if not read_json(folder / name / STAMP))


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
