"""Hostile checkpoints, pretrained LLMs and vision towers: configs, weights, indexes, croc.json, tokenizers, links."""

import functools
import json
import os
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.golden_files import write_files
from tests.fuzz.case import DONE_OR_REFUSED, Case
from tests.fuzz.rows import png
from tests.fuzz.runs import VALUES

REFUSED = frozenset({2})
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
_WEIGHTS = "model.safetensors"
_SIZES = (0, -1, 1, 3, 2**31, 10**12, 10**30, 1.5, "64", None, True, [64], {"a": 1})
_FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
_DTYPES = ("F32", "F16", "BF16", "I64", "U8", "F8_E4M3", "f32", "", 7, None)
_NOT_NUMBERS = (struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), struct.pack("<f", float("-inf")))
_QUANTISED = (
    {"quant_method": "awq", "bits": 4}, {"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes"},
    {"quant_method": "nope"}, {"load_in_4bit": True}, {"quant_method": ["awq"]}, {}, [], 5, "awq",
    {"quant_method": "fp8", "weight_block_size": "x"}, {"quant_method": "compressed-tensors", "config_groups": 3},
)  # fmt: skip
_BYTES = (b"", b"7", b"null", b"[1]", b"{", b"[" * 100_000, b"\xff\xfe", b'{"a": ' + b"9" * 5000 + b"}", b"\x00" * 64)


@dataclass
class Damaged:
    """Files of a folder with some of them damaged, and what is allowed of the answers.

    Args:
        files: Content by name.
        setup: See `Case`; relative to the folder of the case.
        allowed: Exit codes of commands that open the model.
        note: What was damaged.
    """

    files: dict[str, bytes]
    setup: Callable[[Path], None] | None = None
    allowed: frozenset[int] = field(default_factory=lambda: DONE_OR_REFUSED)
    note: str = ""


def cases(seed: int) -> Iterator[Case]:
    """Yield a checkpoint for commands that only look at it, damaged parts of a recipe, and some that are opened."""
    rng = random.Random(seed)
    light = _damaged(rng, "m")
    looked_at = rng.sample([command for command in _commands("m") if "--dry-run" in command], 3)
    yield _case(light, tuple(looked_at), allowed=DONE_OR_REFUSED)
    yield _parts(rng)
    for name in ("m", "m", "m", "o"):
        damaged = _damaged(rng, name)
        opened = [command for command in _commands(name) if "--dry-run" not in command]
        command = rng.choice(opened)
        # what --allow-partial leaves out or draws is named, and is no error then
        yield _case(damaged, (command,), allowed=DONE_OR_REFUSED if "--allow-partial" in command else damaged.allowed)


def _case(damaged: Damaged, commands: tuple[tuple[str, ...], ...], *, allowed: frozenset[int]) -> Case:
    def setup(folder: Path) -> None:
        if any("pope" in command for command in commands):
            write_files("pope", folder / "d")
        if damaged.setup is not None:
            damaged.setup(folder)

    return Case(
        commands,
        {**damaged.files, "p.png": png()},
        allowed=allowed,
        seconds=90.0,
        environ=_OFFLINE,
        setup=setup,
        note=damaged.note,
    )


def _commands(name: str) -> tuple[tuple[str, ...], ...]:
    return (
        ("push", name, "me/it", "--dry-run"),
        ("eval", "-b", "pope", "--data", "d", "--model", name, "--dry-run"),
        ("finetune", "nano", "--from", name, "--dry-run"),
        ("align", "nano", "--from", name, "--dry-run"),
        ("chat", "p.png", "What is this?", "--max-tokens", "2", "--model", name),
        ("convert", name, "out/stock"),
        ("convert", name, "out/llava", "--to", "llava"),
        ("convert", name, "out/gguf", "--to", "gguf"),
        ("convert", name, "out/partial", "--allow-partial"),
    )


@functools.cache
def _sound(name: str) -> dict[str, bytes]:
    """Return the files of a sound folder: `m` stock, `o` original, `tower` and `llm`."""
    from tests.checkpoint.originals import make_original
    from tests.tiny import make_tiny_llava, make_tiny_parts

    folder = Path(tempfile.mkdtemp(prefix="croc-fuzz-checkpoint-"))
    if name == "m":
        make_tiny_llava(folder / name)
        (folder / name / "croc.json").write_text(json.dumps(_CROC_JSON))
    elif name == "o":
        make_original(folder / name)
    else:
        make_tiny_parts(folder)
    return {str(file.relative_to(folder / name)): file.read_bytes() for file in _walk(folder / name)}


_CROC_JSON = {
    "stage": "finetune", "step": 3, "croc_version": "0.2.0", "weights_sha256": None, "files": {}, "start": None,
    "visual_norm": "none", "template": "vicuna_v1", "image_aspect": "pad", "image_reading": "upright",
    "health": {"pool/live": 0.5},
}  # fmt: skip


def _walk(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _damaged(rng: random.Random, name: str) -> Damaged:
    sound = dict(_sound(name))
    kinds = (_json, _json, _config, _quantised, _raw, _header, _header, _values, _index, _cut, _link, _missing, _raw)
    found = rng.choice(kinds)(rng, sound, name)
    found.files = {f"{name}/{file}": content for file, content in found.files.items()}
    return found


def _json(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    """Change one to three values anywhere in a JSON file."""
    file = rng.choice([name for name in files if name.endswith(".json")])
    value = json.loads(files[file])
    for _ in range(rng.randint(1, 3)):
        value = _changed(rng, value)
    files[file] = json.dumps(value).encode()
    return Damaged(files, note=f"values in {file}")


def _config(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    """Give a size in config.json another value or type."""
    values = json.loads(files["config.json"])
    section = rng.choice([values, *(inner for inner in values.values() if isinstance(inner, dict))])
    key = rng.choice(sorted(section))
    section[key] = rng.choice(_SIZES)
    files["config.json"] = json.dumps(values).encode()
    return Damaged(files, note=f"config.json with {key} = {section[key]!r}")


def _quantised(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    values = json.loads(files["config.json"])
    values["quantization_config"] = rng.choice(_QUANTISED)
    files["config.json"] = json.dumps(values).encode()
    return Damaged(files, note=f"quantised by {values['quantization_config']!r}")


def _raw(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    """Put something else in place of a file."""
    file = rng.choice(sorted(files))
    files[file] = rng.choice((*_BYTES, rng.randbytes(200), files[file].decode("utf-8", "replace").encode("utf-16")))
    return Damaged(files, note=f"another {file}", allowed=_allowed(file))


def _cut(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    file = rng.choice(sorted(files))
    content = files[file]
    if rng.random() < 0.5:
        files[file] = content[: rng.randrange(len(content))]
    else:
        files[file] = content + rng.choice((b"x", b"\x00" * 100, content))
    return Damaged(files, note=f"{file} too short or too long", allowed=_allowed(file))


def _missing(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    file = rng.choice(sorted(files))
    del files[file]
    return Damaged(files, note=f"{file} is missing", allowed=_allowed(file))


def _header(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    """Make the header of the weights lie."""
    header, data = _opened(files[_WEIGHTS])
    names = [name for name in header if name != "__metadata__"]
    first, second = rng.sample(names, 2)
    entry = header[first]
    start, end = entry["data_offsets"]
    kind = rng.randrange(13)
    if kind == 0:
        entry["data_offsets"] = header[second]["data_offsets"]
    elif kind == 1:
        entry["data_offsets"] = rng.choice(
            [[-4, end - start - 4], [end, start], [2**64, 2**64 + 4], [start], "x", None]
        )
    elif kind == 2:
        entry["shape"] = rng.choice([[], [-1], [2**40, 2**40], [0], [1.5], ["2"], None, [True], [1] * 1000])
    elif kind == 3:
        entry["dtype"] = rng.choice([dtype for dtype in _DTYPES if dtype != entry["dtype"]])
    elif kind == 4:
        header[first], header[second] = header[second], {**entry, "dtype": "I32"}
    elif kind == 5:
        del header[first]
    elif kind == 6:
        header["x" * rng.choice([1, 10_000])] = dict(entry)
    elif kind == 7:
        header[rng.choice(["", "\x1b[31m", "../x", "\ud800"])] = header.pop(first)
    elif kind == 8:
        header[first] = rng.choice([value for value in VALUES if not isinstance(value, float)])
    elif kind == 9:
        entry["data_offsets"] = [start + 4, end + 4]
    elif kind == 10:
        entry |= {"dtype": "I32"}
    elif kind == 11:
        entry["shape"] = [*entry["shape"], 1]
    else:
        return Damaged(files | {_WEIGHTS: _with_length(rng, files[_WEIGHTS])}, allowed=REFUSED, note="header's length")
    files[_WEIGHTS] = _closed(header, data)
    return Damaged(files, allowed=REFUSED, note=f"header of {first}, kind {kind}")


def _values(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    """Put what is not a number into a weight, or nothing but zeros."""
    header, data = _opened(files[_WEIGHTS])
    matrices = [name for name, entry in header.items() if name != "__metadata__" and len(entry["shape"]) > 1]
    name = rng.choice(matrices)
    start, end = header[name]["data_offsets"]
    content = bytearray(data)
    if rng.random() < 0.4:
        content[start:end] = bytes(end - start)
    else:
        wrong = rng.choice(_NOT_NUMBERS)
        size = _FLOATS[header[name]["dtype"]]
        place = start + size * rng.randrange((end - start) // size)
        content[place : place + size] = wrong[-size:]
    files[_WEIGHTS] = _closed(header, bytes(content))
    dropped = "token_pool" in name or "cross" in name or name.startswith("model.mm_")
    return Damaged(files, allowed=DONE_OR_REFUSED if dropped else REFUSED, note=f"values of {name}")


def _index(rng: random.Random, files: dict[str, bytes], _name: str) -> Damaged:
    """Put an index beside or in place of the weights."""
    header, _ = _opened(files[_WEIGHTS])
    names = [name for name in header if name != "__metadata__"]
    content = files.pop(_WEIGHTS)
    shard = "model-00001-of-00001.safetensors"
    files[shard] = content
    wrong: list[Any] = [
        "../p.png", "/etc/passwd", "/dev/zero", "sub/x.safetensors", "", ".", "..", "a\x00b", 3, None,
        "gone.safetensors", ["x"], "x" * 300, "config.json", "\ud800",
    ]  # fmt: skip
    weight_map: Any = dict.fromkeys(names, shard)
    kind = rng.randrange(5)
    if kind < 3:
        weight_map[rng.choice(names)] = rng.choice(wrong)
    elif kind == 3:
        weight_map["more"] = shard
    else:
        weight_map = rng.choice([[], {}, None, 5, "x", {"": shard}])
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    return Damaged(files, allowed=REFUSED, note=f"an index, kind {kind}")


def _link(rng: random.Random, files: dict[str, bytes], name: str) -> Damaged:
    """Put a link, a FIFO, a folder or a locked file in place of a file."""
    file = rng.choice(sorted(files))
    kind = rng.randrange(6)
    target = rng.choice(["/dev/zero", "/dev/stdin", "/nowhere", "/etc/passwd", file, "/proc/self/mem", "/", ".."])

    def setup(folder: Path) -> None:
        place = folder / name / file
        place.unlink()
        if kind < 3:
            place.symlink_to(target if target != file else place.name)
        elif kind < 5:
            os.mkfifo(place)
        else:
            place.mkdir()

    words = f"a link to {target}" if kind < 3 else "a FIFO" if kind < 5 else "a folder"
    return Damaged(files, setup, _allowed(file), f"{file} is {words}")


def _parts(rng: random.Random) -> Case:
    """Name a damaged LLM or vision tower in a recipe."""
    name = rng.choice(("llm", "tower"))
    damaged = _damaged(rng, name)
    key = "llm" if name == "llm" else "vision_tower"
    recipe = {"name": "r", "model": {key: f"./{name}"}}
    damaged.files["r.yaml"] = json.dumps(recipe).encode()
    commands: list[tuple[str, ...]] = [
        ("align", "r.yaml", "--dry-run"),
        ("recipes", "check", "r.yaml"),
        ("run", "r.yaml", "--dry-run"),
        ("plan", "r.yaml", "--gpus", "8"),
        ("align", "nano", "--set", f"model.{key}={name}", "--dry-run"),
    ]
    return _case(damaged, tuple(rng.sample(commands, 2)), allowed=DONE_OR_REFUSED)


def _allowed(file: str) -> frozenset[int]:
    return REFUSED if file == _WEIGHTS else DONE_OR_REFUSED


def _opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _closed(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _with_length(rng: random.Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    wrong = rng.choice([0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1, 10**8])
    return wrong.to_bytes(8, "little") + content[8:]


def _changed(rng: random.Random, value: Any) -> Any:
    """Return a value with one part of it replaced or taken away."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value))
        if rng.randrange(6) == 0:
            return {other: inner for other, inner in value.items() if other != key}
        return {**value, key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], _changed(rng, value[place]), *value[place + 1 :]]
    return rng.choice((*VALUES, *_SIZES))
