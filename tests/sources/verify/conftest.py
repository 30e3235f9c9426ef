"""Each test of the checks has a cache of its own; some decode in this process."""

from pathlib import Path
from typing import Any

import pytest

from croc_cli.sources.verify import image_pass


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode without starting processes, which takes a second."""

    class Job:
        def __init__(self, value: Any) -> None:
            self.result = lambda: value

    class Pool:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def submit(self, function: Any, *words: Any, **named: Any) -> Job:
            return Job(function(*words, **named))

        def shutdown(self, **_: Any) -> None: ...

    monkeypatch.setattr(image_pass, "ProcessPoolExecutor", Pool)
