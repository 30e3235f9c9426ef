"""Hostile tables: csv, tsv, parquet and arrow with cells, types and bytes that no table should have."""

import csv
import io
import random
from collections.abc import Iterator
from typing import Any

import pyarrow
from pyarrow import ipc, parquet

from tests.fuzz.case import Case
from tests.fuzz.rows import commands, damage, png, recipe, strange, writes

_COLUMNS = (("image", "question", "answer"), ("file_name", "text"), ("images", "messages"), ("instruction", "output"))
_CELLS = ("0.png", "What?", "A thing.", 'a "quote', '"whole"', "two\nlines", "a, comma", "a\ttab", "", " ", "é\u2028")


def cases(seed: int) -> Iterator[Case]:
    """Yield tables that are hostile in their cells, their types or their bytes."""
    rng = random.Random(seed)
    for make in (_text_table, _text_table, _arrow_table, _arrow_table):
        name, content = make(rng)
        if content is None:
            continue
        if rng.random() < 0.4:
            content = damage(rng, content)
        files = {name: content, "0.png": png(), "m.yaml": recipe(name, rng)}
        yield Case(commands(rng, name), files, writes=writes(name), note="hostile table")


def _text_table(rng: random.Random) -> tuple[str, bytes]:
    columns = rng.choice(_COLUMNS)
    name = rng.choice(("a.csv", "A.CSV", "a.tsv", "metadata.csv"))
    stream = io.StringIO()
    rows = [[rng.choice(_CELLS) for _ in columns] for _ in range(6)]
    if rng.random() < 0.3:
        rows[rng.randrange(6)].append("one more")
    delimiter = "\t" if name.endswith("tsv") else ","
    if rng.random() < 0.5:
        csv.writer(stream, delimiter=delimiter).writerows([columns, *rows])
    else:
        stream.write("".join(delimiter.join(cells) + "\n" for cells in [columns, *rows]))
    return name, stream.getvalue().encode("utf-8")


def _arrow_table(rng: random.Random) -> tuple[str, bytes | None]:
    columns: dict[str, Any] = {
        "image": [{"bytes": png(), "path": None}, {"bytes": None, "path": "0.png"}, None],
        "question": ["What?", None, " "],
        "answer": ["A thing.", "Another.", ""],
    }
    if rng.random() < 0.3:
        parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
        said = [{"role": "user", "content": parts}, {"role": "assistant", "content": parts[1:]}]
        columns = {"images": [[{"bytes": png()}], [], None], "messages": [said, said, None]}
    name = rng.choice(list(columns))
    spoiled = rng.randrange(5)
    try:
        if spoiled == 0:
            columns[name] = pyarrow.array([b"a", b"\xff\xfe", b"c"]).view(pyarrow.string())
        elif spoiled == 1:
            value = strange(rng)
            columns[name] = pyarrow.array([value, value, None])
        elif spoiled == 2:
            columns[name] = pyarrow.array([1 << 62, -(1 << 62), None], pyarrow.timestamp("us"))
        elif spoiled == 3:
            columns[name] = pyarrow.array([[png(), png()], [], [None]])
        return _written(rng, pyarrow.table(columns))
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        return "a.parquet", None  # not even pyarrow writes it


def _written(rng: random.Random, table: pyarrow.Table) -> tuple[str, bytes]:
    stream = io.BytesIO()
    if rng.random() < 0.7:
        parquet.write_table(table, stream)
        return rng.choice(("a.parquet", "A.PARQUET")), stream.getvalue()
    with (ipc.new_file if rng.random() < 0.5 else ipc.new_stream)(stream, table.schema) as writer:
        writer.write_table(table)
    return "a.arrow", stream.getvalue()
