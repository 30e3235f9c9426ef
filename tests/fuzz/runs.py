"""Damaged run folders: metrics, summaries, results and launches of other types, cut, doubled, in other encodings."""

import functools
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.case import Case

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, 10**400, float("nan"), float("inf"), "", "x", "\x1b[31m", "\ud800", "=1+1", [], {},
    [[]], [1, "2"], {"a": {"b": 1}}, "9" * 400, ["x"] * 50, "</script><script>alert(1)</script>",
)  # fmt: skip


@functools.cache
def _whole_run() -> dict[str, bytes]:
    """Return the files of a run that is whole."""
    from tests.report.runs import make_run

    folder = make_run(Path(tempfile.mkdtemp(prefix="croc-fuzz-run-")) / "run")
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def cases(seed: int) -> Iterator[Case]:
    """Yield run folders with one to three files damaged."""
    rng = random.Random(seed)
    for _ in range(3):
        files = dict(_whole_run())
        damaged = rng.sample(sorted(files), min(len(files), rng.randint(1, 3)))
        for name in damaged:
            files[name] = _damaged(rng, name, files[name])
        commands: list[tuple[str, ...]] = [
            ("report", "out", "--no-model"),
            ("report", "out", "out", "--no-model", "--out", "out/side"),
            ("align", "nano", "--run-dir", "out", "--dry-run"),
            ("finetune", "nano", "--run-dir", "out", "--dry-run"),
            ("run", "nano", "--run-dir", "out", "--dry-run"),
            ("plan", "nano", "--gpus", "8"),
            ("eval", "compare", "out"),
            ("push", "out", "me/it", "--dry-run"),
            ("runs", "out"),
            ("runs", "prune", "out", "--dry-run"),
            ("watch", "out", "--once"),
            ("report", "samples", "out"),
            ("ablate", "pool", "--run-dir", "out", "--reuse", "out", "--dry-run"),
        ]
        yield Case(
            tuple(rng.sample(commands, 3)),
            {f"out/{name}": content for name, content in files.items()},
            note=f"damaged {', '.join(damaged)}",
        )


def _damaged(rng: random.Random, name: str, content: bytes) -> bytes:
    kind = rng.randrange(9)
    if kind < 5 and name.endswith(".json"):
        return _dumped(_changed(rng, json.loads(content)))
    if kind < 5 and name.endswith(".jsonl"):
        lines = content.splitlines()
        for place in rng.sample(range(len(lines)), min(len(lines), rng.randint(1, 5))):
            lines[place] = _dumped(_changed(rng, json.loads(lines[place]))) if rng.random() < 0.8 else b"[1"
        return b"\n".join(lines) + b"\n"
    return rng.choice(
        [
            b"",
            content[: rng.randrange(len(content) + 1)],
            content + content,
            content.decode("utf-8", "replace").encode("utf-16"),
            b"\xff\xfe" + content,
            b"[" * 100_000,
            b"7",
            b"null",
            rng.randbytes(300),
            content.replace(b":", b": \xe9", 3),
            b'{"a": ' + b"9" * 5000 + b"}",
        ]
    )


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def _changed(rng: random.Random, value: Any) -> Any:
    """Return a value with one part of it replaced, taken away or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        change = rng.randrange(6)
        if change == 0:
            return {other: inner for other, inner in value.items() if other != key}
        return {**value, key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], _changed(rng, value[place]), *value[place + 1 :]]
    return rng.choice(VALUES)
