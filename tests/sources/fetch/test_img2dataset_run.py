import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from croc_cli.progress import Task
from croc_cli.sources.fetch import img2dataset_run
from croc_cli.sources.known.source import ImageDownload
from croc_cli.sources.read.content import FetchError


def asleep() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)


def test_a_run_that_does_not_end_after_its_last_shard_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(img2dataset_run, "_GRACE", 0.2)
    monkeypatch.setattr(img2dataset_run, "_POLL", 0.05)
    for shard in range(2):
        (tmp_path / f"{shard:05d}").mkdir()
        (tmp_path / f"{shard:05d}_stats.json").write_text('{"count": 5}', encoding="utf-8")
    child = asleep()
    seen: list[int] = []
    task = Task()
    task.update = lambda done, total=None: seen.append(done)  # type: ignore[method-assign, assignment]
    assert img2dataset_run._watch(child, tmp_path, 2, ImageDownload(), task) == "hung at the end"
    img2dataset_run._end(child)
    assert child.returncode == -9
    assert seen[-1] == 10


def test_a_run_without_progress_is_noticed_and_one_with_progress_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(img2dataset_run, "_POLL", 0.01)
    looks: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 0.1 * len(looks))  # a tenth of a second a look, however long one takes
    monkeypatch.setattr(img2dataset_run, "time", clock)
    child = asleep()
    shard = tmp_path / "00000"
    shard.mkdir()

    class Works(Task):
        def update(self, done: int, total: int | None = None) -> None:
            looks.append(time.monotonic())
            if len(looks) < 20:
                (shard / f"{len(looks)}.json").touch()

    assert img2dataset_run._watch(child, tmp_path, 2, ImageDownload(stall_seconds=1), Works()) == "hung"
    monkeypatch.undo()
    img2dataset_run._end(child)
    assert len(looks) >= 29


def test_an_img2dataset_that_does_not_start_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "path" / "img2dataset"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no imghdr here')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    with pytest.raises(FetchError, match="img2dataset failed at its start: ImportError: no imghdr here") as raised:
        img2dataset_run.run_img2dataset([("a.jpg", "http://h/a")], tmp_path / "run", ImageDownload(), shard_size=10)
    assert raised.value.hint == f"its whole output is in {tmp_path / 'run' / 'log.txt'}"
