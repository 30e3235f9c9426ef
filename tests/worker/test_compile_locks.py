import os
from pathlib import Path

import pytest

from croc_cli.worker.compile_locks import LOOKS, CompileLocks, is_on_network


def test_a_lock_that_nobody_has_open_is_removed_after_a_few_looks(tmp_path: Path) -> None:
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    locks = CompileLocks(tmp_path)
    assert [locks.look() for _ in range(LOOKS)] == [*[[]] * (LOOKS - 1), [lock]]
    assert not lock.exists()


def test_the_lock_of_a_build_that_goes_on_stays(tmp_path: Path) -> None:
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    descriptor = os.open(lock, os.O_CREAT | os.O_EXCL)
    locks = CompileLocks(tmp_path)
    assert [locks.look() for _ in range(LOOKS + 1)] == [[]] * (LOOKS + 1)
    os.close(descriptor)
    for _ in range(LOOKS):
        removed = locks.look()
    assert removed == [lock]


def test_a_young_lock_on_a_network_file_system_may_be_another_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "op").mkdir()
    (tmp_path / "op" / "lock").touch()
    monkeypatch.setattr("croc_cli.worker.compile_locks.is_on_network", lambda _file: True)
    locks = CompileLocks(tmp_path)
    assert [locks.look() for _ in range(LOOKS + 1)] == [[]] * (LOOKS + 1)
    monkeypatch.setattr("croc_cli.worker.compile_locks.SHARED_AGE_SECONDS", 0.0)
    assert [locks.look() for _ in range(LOOKS)][-1] == [tmp_path / "op" / "lock"]


def test_this_machines_own_disk_is_no_network() -> None:
    assert not is_on_network(Path("/proc/mounts"))
