"""Compiles DeepSpeed's operators once for this environment, and loads them without asking a compiler again."""

import fcntl
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from croc_cli.errors import RunError, first_line
from croc_cli.launch.ops import (
    CPU_ADAM,
    FOLDER_VARIABLE,
    SHARED_MEMORY,
    STAMP,
    environment_key,
    is_compiled,
    ops_folder,
)
from croc_cli.run_dir import write_json
from croc_cli.train.position import POSITION

_BUILDERS = {SHARED_MEMORY: "ShareMemCommBuilder", CPU_ADAM: "CPUAdamBuilder"}
_LOCK_SECONDS = 0.2


def prepare_ops(names: Sequence[str]) -> None:
    """Have operators at hand in this process: compiled now, unless they are compiled already.

    One process compiles, others of the same folder wait for it. A lock file that PyTorch left there when a process was
    killed is removed: whoever compiles holds a lock of ours, which the system gives back.

    Raises:
        RunError: One cannot be compiled.
    """
    folder = ops_folder()
    os.environ[FOLDER_VARIABLE] = str(folder)  # PyTorch compiles here
    try:
        for name in names:
            with _locked(folder / name):
                if is_compiled(folder / name):
                    _load(name, folder / name / f"{name}.so")
                else:
                    _compile(name, folder / name)
    except OSError as error:
        raise RunError(
            f"DeepSpeed's operators cannot be compiled in {folder}: {error.strerror or error}",
            hint=f"{FOLDER_VARIABLE}=DIR names another folder",
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an operator's folder; a file system without locks is used without."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "croc.lock").open("a") as file:
        with suppress(OSError):
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    POSITION.at(f"waiting for another process to compile {folder.name}")
                    time.sleep(_LOCK_SECONDS)
        yield


def _load(name: str, library: Path) -> None:
    """Hand a compiled operator to DeepSpeed, as its own loader would after it asked ninja."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    if name in OpBuilder._loaded_ops:
        return
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    OpBuilder._loaded_ops[name] = module


def _compile(name: str, folder: Path) -> None:
    """Compile an operator where this machine can, and note that it is done."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # ninja lies there
    builder = _builder(name)
    is_compatible = builder is not None and builder.is_compatible(verbose=False)
    if not is_compatible and name == SHARED_MEMORY:  # DeepSpeed does without
        write_json(folder / STAMP, {"compatible": False})
        return
    (folder / "lock").unlink(missing_ok=True)
    started = time.monotonic()
    try:
        with POSITION.working(f"compiling DeepSpeed's {name}", f"compiled DeepSpeed's {name}", opaque=True):
            builder.load(verbose=False)
    except Exception as error:  # compilers, linkers and loaders have no error class in common
        raise RunError(
            f"DeepSpeed's operator {name} could not be compiled in {folder}: {first_line(error)}",
            hint="`croc doctor` shows whether g++ and ninja are there",
        ) from error
    seconds = round(time.monotonic() - started, 1)
    write_json(folder / STAMP, {"compatible": True, "seconds": seconds, "environment": environment_key()})


def _builder(name: str) -> Any:
    from deepspeed.accelerator import get_accelerator

    return get_accelerator().create_op_builder(_BUILDERS[name])
