"""Hostile benchmark files, answers, results and judge URLs."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.golden_files import load, write_files
from tests.fuzz.case import Case

_NAMES = ("pope", "gqa", "textvqa", "scienceqa", "vizwiz", "vqav2", "mmbench", "seedbench", "mmvet", "docvqa", "mme")
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**400,
    1e308,
    float("nan"),
    "",
    "\x00",
    "\ud83d",
    "\x1b[31m",
    "x" * 5000,
    [],
    [[]],
    {},
    {"a": 1},
    "../../etc/passwd",
    "=1+1",
)
_RAW: tuple[bytes, ...] = (
    b"",
    b"\n",
    b"[",
    b"{}",
    b"null",
    b"[1]",
    b'"',
    b"\xff\xfe",
    b"\x00" * 50,
    "é".encode("latin-1"),
    b"[" * 20_000,
    b'{"a": ' * 5000,
    b"9" * 5000,
    b"NaN",
)


def cases(seed: int) -> Iterator[Case]:
    """Yield runs whose answers, data or results are damaged, and answer files of no known form."""
    rng = random.Random(seed)
    for _ in range(4):
        name = rng.choice(_NAMES)
        yield _damaged_answers(name, rng)
        yield _damaged_data(name, rng)
        yield _foreign_file(name, rng)
    yield _damaged_results(rng)
    yield _judge_url(rng)


def _rows(name: str) -> list[dict[str, Any]]:
    return [dict(row) for row in load(name)["predictions"]]


def _with_damage(rows: list[dict[str, Any]], rng: random.Random) -> bytes:
    """Return rows as JSON lines, one thing about them changed."""
    row = rng.choice(rows)
    what = rng.randrange(6)
    if what == 0:
        row[rng.choice([*row, "text", "question_id", "prompt"])] = rng.choice(_VALUES)
    elif what == 1:
        row.pop(rng.choice(list(row)))
    elif what == 2:
        rows.append(row | {"text": "another"})
    elif what == 3:
        rows[:] = rows[: rng.randrange(len(rows))]
    lines = [json.dumps(one).encode() for one in rows]
    if what == 4:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_RAW))
    content = b"\n".join(lines) + b"\n"
    return _flipped(content, rng) if what == 5 else content


def _flipped(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        if damaged:
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged[: rng.randrange(len(damaged) + 1)] if rng.random() < 0.3 else damaged)


def _writes_data(name: str, then: Callable[[Path], None] | None = None) -> Callable[[Path], None]:
    def setup(folder: Path) -> None:
        root = write_files(name, folder / "data")
        if then is not None:
            then(root)

    return setup


def _damaged_answers(name: str, rng: random.Random) -> Case:
    file = f"run/benchmarks/predictions/{name}.jsonl"
    more = rng.choice([(), ("--partial",), ("--limit", "3"), ("--format", "json")])
    return Case(
        files={file: _with_damage(_rows(name), rng)},
        commands=(("eval", "score", "run", "--data", "data", *more),),
        allowed=frozenset({0, 1, 2}),
        writes=("run/benchmarks/results.json", "run/benchmarks/items", "run/benchmarks/submissions"),
        setup=_writes_data(name),
        note=f"answers to {name}",
    )


def _damaged_data(name: str, rng: random.Random) -> Case:
    how, raw, seed = rng.randrange(3), rng.choice(_RAW), rng.randrange(2**32)

    def damage(root: Path) -> None:
        own = random.Random(seed)
        file = own.choice(sorted(path for path in root.rglob("*") if path.is_file()))
        if how == 0:
            file.write_bytes(raw)
        elif how == 1:
            file.write_bytes(_flipped(file.read_bytes(), own))
        else:
            file.write_text(json.dumps(_mutated(_parsed(file), own)))

    rows = b"".join(json.dumps(row).encode() + b"\n" for row in _rows(name))
    return Case(
        files={"answers.jsonl": rows},
        commands=(("eval", "score", "answers.jsonl", "-b", name, "--data", "data", "--partial"),),
        setup=_writes_data(name, damage),
        note=f"files of {name}",
    )


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8").split("\n", 1)[0])
    except ValueError:
        return {"data": []}


def _mutated(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one place in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        return {**value, key: _mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], _mutated(value[place], rng), *value[place + 1 :]]
    return rng.choice(_VALUES)


def _foreign_file(name: str, rng: random.Random) -> Case:
    rows = _rows(name)
    ids = rng.choice(["question_id", "id", "doc_id", "index", "nothing"])
    texts = rng.choice(["text", "prediction", "answer", "resps", "nothing"])
    turned = [{ids: row.get("question_id"), texts: row.get("text"), "doc": rng.choice(_VALUES)} for row in rows]
    suffix = rng.choice([".jsonl", ".json", ".csv", ".tsv", ""])
    as_list = rng.random() < 0.3
    content = json.dumps(turned).encode() if as_list else _with_damage(turned, rng)
    return Case(
        files={f"a{suffix}": content},
        commands=(("eval", "score", f"a{suffix}", "-b", name, "--data", "data", "--out", "out"),),
        setup=_writes_data(name),
        note=f"an answer file for {name}",
    )


def _damaged_results(rng: random.Random) -> Case:
    whole = {"model": {}, "benchmarks": {"pope": {"value": 86.9, "interval_95": [86.0, 87.0], "num_answered": 3}}}
    content = rng.choice(_RAW) if rng.random() < 0.3 else json.dumps(_mutated(whole, rng)).encode()
    return Case(
        files={"run/benchmarks/results.json": content},
        commands=(("eval", "compare", "run", "--paper"), ("eval", "compare", "run", "run", "--format", "json")),
        note="results.json",
    )


def _judge_url(rng: random.Random) -> Case:
    url = "".join(rng.choice("htp:/[]@?#%.1\n é\x00a") for _ in range(rng.randrange(1, 20))).replace("\x00", "")
    return Case(
        commands=(("eval", "--model", "m", "-b", "mmvet", "--judge-url", url or "x", "--judge-model", "m"),),
        allowed=frozenset({2}),
        note="a judge's URL",
    )
