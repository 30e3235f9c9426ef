from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import RunError
from croc_cli.launch.ops import CPU_ADAM, SHARED_MEMORY, STAMP
from croc_cli.run_dir import read_json
from croc_cli.train.position import POSITION
from croc_cli.worker import ops


class Builder:
    """One of DeepSpeed's builders, as far as it is used."""

    def __init__(self, folder: Path, *, compatible: bool = True, error: str = "") -> None:
        self.folder, self.compatible, self.error = folder, compatible, error
        self.built = 0

    def is_compatible(self, *, verbose: bool) -> bool:
        return self.compatible

    def load(self, *, verbose: bool) -> None:
        assert not (self.folder / "lock").exists()
        if self.error:
            raise RuntimeError(self.error)
        self.built += 1
        (self.folder / f"{self.folder.name}.so").touch()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin")
    return tmp_path


def use(monkeypatch: pytest.MonkeyPatch, builder: Builder) -> list[Any]:
    loaded: list[Any] = []
    monkeypatch.setattr(ops, "_builder", lambda _name: builder)
    monkeypatch.setattr(ops, "_load", lambda *given: loaded.append(given))
    return loaded


def test_an_operator_is_compiled_once_and_said_and_a_lock_of_a_killed_compiler_is_no_obstacle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / CPU_ADAM).mkdir()
    (folder / CPU_ADAM / "lock").touch()
    builder = Builder(folder / CPU_ADAM)
    loaded = use(monkeypatch, builder)
    ops.prepare_ops([CPU_ADAM])
    assert POSITION.works[-1]["did"] == "compiled DeepSpeed's cpu_adam"
    ops.prepare_ops([CPU_ADAM])
    assert builder.built == 1
    assert loaded == [(CPU_ADAM, folder / CPU_ADAM / "cpu_adam.so")]


def test_shared_memory_is_done_without_where_nothing_compiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Builder(folder / SHARED_MEMORY, compatible=False))
    ops.prepare_ops([SHARED_MEMORY])
    assert read_json(folder / SHARED_MEMORY / STAMP) == {"compatible": False}


def test_a_compiler_that_fails_is_said_with_the_operator_and_the_next_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Builder(folder / CPU_ADAM, error="Error building extension\nmore"))
    with pytest.raises(RunError, match="operator cpu_adam could not be compiled in .*Error building") as caught:
        ops.prepare_ops([CPU_ADAM])
    assert "croc doctor" in (caught.value.hint or "")
    assert not read_json(folder / CPU_ADAM / STAMP)
