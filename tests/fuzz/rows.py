"""Hostile rows: JSON lists and JSONL whose rows, files or encodings are broken, and mixes that were damaged."""

import base64
import io
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from tests.fuzz.case import Case

RECIPE = (
    "extends: croc-7b\nname: it\ndata:\n  root: .\n"
    "  finetune: {kind: mix, sources: {s: {path: PATH, image_root: ., max_dropped: MAX}}}\n"
)
_STRANGE: tuple[Callable[[random.Random], Any], ...] = (
    lambda _: None,
    lambda _: "",
    lambda _: " \n",
    lambda _: [],
    lambda _: {},
    lambda _: 0,
    lambda _: -1.5,
    lambda _: True,
    lambda _: float("nan"),
    lambda _: float("inf"),
    lambda _: 10**30,
    lambda _: "red \ud83d",
    lambda _: "p\udce9.png",
    lambda _: "a\0b",
    lambda _: "\x1b[2J\x1b]0;title\x07",
    lambda _: "../../etc/passwd",
    lambda _: "/dev/zero",
    lambda _: "x" * 300 + ".jpg",
    lambda _: "https://a.org/b.jpg",
    lambda _: "data:image/png;base64,",
    lambda _: "data:image/png;base64,@@@@",
    lambda _: "data:," + "%20" * 9,
    lambda _: "<image>" * 3,
    lambda _: "</s> ASSISTANT: <|im_end|>",
    lambda _: ["a", None],
    lambda _: [["a"], "b"],
    lambda _: {"text": "red", "score": 1},
    lambda _: {"bytes": None, "path": None},
    lambda _: {"url": {"url": {"url": 3}}},
    lambda _: [{"type": "text", "text": "a"}],
    lambda _: [{"type": "image"}, {"type": "text", "text": None}],
    lambda _: [{"type": "video", "video": "a.mp4"}],
    lambda _: {"role": ["user", "assistant"], "content": ["a"]},
    lambda rng: _nested(rng.choice((50, 500, 5000))),
    lambda rng: "".join(chr(rng.randrange(0x20, 0x3000)) for _ in range(20)),
    lambda rng: "long " * rng.choice((10, 3000)),
)
_KEYS = (
    *("id", "image", "images", "image_range", "conversations", "messages", "texts", "system", "video", "question"),
    *("answer", "caption", "file_name", "instruction", "input", "output", "from", "value", "role", "content"),
)


def png() -> bytes:
    """Return a small picture."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(stream, "PNG")
    return stream.getvalue()


def good_row(rng: random.Random, number: int) -> dict[str, Any]:
    """Return a row in one of the forms that are read."""
    question, answer = f"What is {number}?", f"A thing {number}."
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    return rng.choice(
        (
            {"id": str(number), "image": "0.png", "conversations": turns},
            {"id": number, "image": ["0.png"], "conversations": turns},
            {"images": ["0.png"], "messages": messages},
            {"image": url, "conversations": turns},
            {"image": "0.png", "question": question, "answer": answer},
            {"file_name": "0.png", "text": answer},
            {"instruction": question, "input": "", "output": answer},
            {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]},
        )
    )


def strange(rng: random.Random) -> Any:
    """Return a value that no row should hold."""
    return rng.choice(_STRANGE)(rng)


def spoil(rng: random.Random, value: Any) -> Any:
    """Return a value with one part of it replaced, removed, or put under another key."""
    if rng.random() < 0.3 or not isinstance(value, dict | list) or not value:
        return strange(rng)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [*value[:place], spoil(rng, value[place]), *value[place + 1 :]]
    key = rng.choice(list(value))
    change = rng.randrange(4)
    if change == 0:
        return {name: one for name, one in value.items() if name != key}
    if change == 1:
        return {**value, rng.choice(_KEYS): strange(rng)}
    if change == 2:
        return {(rng.choice(_KEYS) if name == key else name): one for name, one in value.items()}
    return {**value, key: spoil(rng, value[key])}


def recipe(path: str, rng: random.Random) -> bytes:
    """Return a recipe whose mix is of one source."""
    return RECIPE.replace("PATH", path).replace("MAX", rng.choice(("1.0", "0.0"))).encode()


def commands(rng: random.Random, path: str) -> tuple[tuple[str, ...], ...]:
    """Return commands that read a data file, a few of them; none that imports torch, which takes longer than all."""
    tried = [
        ("data", "verify", path, "--image-folder", "."),
        ("data", "verify", path, "--image-folder", ".", "--fix"),
        ("data", "stats", path),
    ]
    mixed = [
        ("data", "mix", "m.yaml", "--stage", "finetune"),
        ("data", "stats", "mixes/it-finetune"),
        ("data", "export", "mixes/it-finetune", rng.choice(("out.json", "out.jsonl", "out.parquet"))),
    ]
    return (*rng.sample(tried, 2), *mixed)


def writes(path: str) -> tuple[str, ...]:
    """Return what those commands may write."""
    stem = path.rpartition(".")[0] or path
    return (
        *(f"{path}.problems.txt", "mixes", ".croc.json"),
        *(f"{name}.{kind}.jsonl" for name in (stem, path) for kind in ("clean", "dropped")),
        *("out.json", "out.jsonl", "out.parquet", "exports"),
    )


def cases(seed: int) -> Iterator[Case]:
    """Yield JSON files with hostile rows, hostile files around good rows, and damaged mixes."""
    rng = random.Random(seed)
    for _ in range(4):
        rows = [good_row(rng, number) for number in range(4)]
        place = rng.randrange(len(rows))
        rows[place] = spoil(rng, rows[place])
        as_list = rng.random() < 0.5
        content = _as_json(rows, as_list=as_list, ascii_only=rng.random() < 0.7)
        if rng.random() < 0.4:
            content = damage(rng, content)
        name = rng.choice(("a.json", "a.jsonl", "A.JSON", "metadata.jsonl"))
        yield Case(
            commands(rng, name),
            {name: content, "0.png": png(), "m.yaml": recipe(name, rng)},
            writes=writes(name),
            note="hostile rows",
        )


def damage(rng: random.Random, content: bytes) -> bytes:
    """Return bytes cut, doubled, sprinkled with others, or in another encoding."""
    place = rng.randrange(len(content) + 1)
    text = content.decode("utf-8", "replace")
    return rng.choice(
        (
            lambda: content[:place],
            lambda: content + content,
            lambda: content + b",\n" + content[-60:],
            lambda: content + b"\n<<<<<<< HEAD\n",
            lambda: content[:place] + bytes(rng.randrange(256) for _ in range(rng.choice((1, 8)))) + content[place:],
            lambda: content[:place] + b"\0" * 4 + content[place:],
            lambda: b"\xef\xbb\xbf" + content,
            lambda: text.encode("utf-16"),
            lambda: text.replace("thing", "thing \xfc").encode("cp1252", "replace"),
            lambda: content.replace(b"\n", b"\r\n"),
            lambda: content.replace(b'"', b"'", 1),
            lambda: content.replace(b"thing", b"9" * 5000),
            lambda: b"<!doctype html>" + content,
            lambda: b"",
        )
    )()


def _as_json(rows: list[Any], *, as_list: bool, ascii_only: bool) -> bytes:
    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only)

    text = dump(rows) if as_list else "".join(f"{dump(row)}\n" for row in rows)
    return text.encode("utf-8", "surrogatepass")


def _nested(depth: int) -> Any:
    value: Any = "end"
    for _ in range(min(depth, 900)):  # what json.dumps itself can write
        value = [value]
    return value
