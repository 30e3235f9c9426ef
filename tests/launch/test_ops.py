import sys
from pathlib import Path

import pytest

from croc_cli.launch import ops
from croc_cli.launch.ops import (
    CPU_ADAM,
    SHARED_MEMORY,
    STAMP,
    CompiledOp,
    compiled_ops,
    environment_key,
    missing_ops,
    needed_ops,
    ops_folder,
)
from croc_cli.run_dir import write_json
from tests.launch.make import recipe


def test_ranks_of_a_cpu_need_shared_memory_and_offload_needs_its_own_adam() -> None:
    assert needed_ops(recipe(), "align", device="cpu") == (SHARED_MEMORY,)
    assert needed_ops(recipe(), "align", device="cuda") == ()
    offloaded = recipe(align__zero_stage=2, align__offload="optimizer")
    assert needed_ops(offloaded, "align", device="cuda") == (CPU_ADAM,)


def test_every_environment_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    first = ops_folder(environment)
    assert first.is_relative_to(tmp_path / "croc" / "ops")
    assert ops_folder(environment) == first
    monkeypatch.setattr(sys, "prefix", "/another/venv")
    second = ops_folder(environment)
    monkeypatch.setattr(ops, "_processor", lambda: ["another processor"])
    assert len({first, second, ops_folder(environment)}) == 3
    assert ops_folder({**environment, "TORCH_EXTENSIONS_DIR": "/given"}) == Path("/given")


def test_what_was_compiled_to_its_end_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / CPU_ADAM).mkdir()
    (tmp_path / CPU_ADAM / f"{CPU_ADAM}.so").touch()  # a linker that was killed leaves one, too
    assert missing_ops((CPU_ADAM,)) == (CPU_ADAM,)
    write_json(tmp_path / CPU_ADAM / STAMP, {"compatible": True})
    assert missing_ops((CPU_ADAM,)) == ()
    write_json(tmp_path / CPU_ADAM / STAMP, {"compatible": True, "environment": "another"})
    assert missing_ops((CPU_ADAM,)) == (CPU_ADAM,)
    write_json(tmp_path / CPU_ADAM / STAMP, {"compatible": False})
    assert missing_ops((CPU_ADAM,)) == ()


def test_doctor_names_operators_with_their_folder_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert {op.state for op in compiled_ops()} == {"not compiled"}
    (tmp_path / CPU_ADAM).mkdir()
    (tmp_path / CPU_ADAM / f"{CPU_ADAM}.so").touch()
    stamp = {"compatible": True, "seconds": 12.3, "environment": environment_key()}
    write_json(tmp_path / CPU_ADAM / STAMP, stamp)
    write_json(tmp_path / SHARED_MEMORY / STAMP, {"compatible": False})
    shared, adam = compiled_ops()
    assert (shared.state, adam) == (
        "not for this machine",
        CompiledOp(CPU_ADAM, "compiled", str(tmp_path / CPU_ADAM), 12.3),
    )
    write_json(tmp_path / CPU_ADAM / STAMP, {**stamp, "environment": "another"})
    assert compiled_ops()[1].state == "compiled for another environment"
