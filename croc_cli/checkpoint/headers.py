"""What a safetensors file holds by its header, checked against the file without loading torch."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from croc_cli.errors import UsageError
from croc_cli.reading import unique_keys

_MAX_HEADER_BYTES = 100_000_000  # what safetensors itself allows
_BROKE_OFF = "the copy or download broke off; fetch the file again or use another checkpoint"
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_OTHERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_OTHERS |= {"F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "C64": 8}


@dataclass(frozen=True)
class SavedTensor:
    """A tensor as a header describes it.

    Args:
        file: Where it lies.
        shape: Its sizes.
        dtype: In safetensors' words, such as `BF16`.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        """Tell whether it is of a type that weights are computed with; float8 belongs to quantised models."""
        return self.dtype in _FLOATS


def read_header(file: Path) -> dict[str, SavedTensor]:
    """Return what a safetensors file holds, by name.

    Raises:
        UsageError: It is cut off or no safetensors file, or a tensor does not lie where the header says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0] if size >= 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise UsageError(
                f"{file} is not a complete safetensors file: {size} bytes, its header does not fit", hint=_BROKE_OFF
            )
        try:
            header = json.loads(stream.read(length), object_pairs_hook=unique_keys)
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            ends = [entry["data_offsets"][1] for entry in entries.values()]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{file} is not a safetensors file: its header is not readable", hint=_BROKE_OFF
            ) from error
    if size != expected:
        raise UsageError(f"{file} has {size} bytes, its header says {expected}", hint=_BROKE_OFF)
    found = {name: _saved(file, name, entry) for name, entry in entries.items()}
    _check_places(file, {name: entry["data_offsets"] for name, entry in entries.items()})
    return found


def _check_places(file: Path, places: Mapping[str, Sequence[int]]) -> None:
    """Raise UsageError unless tensors lie one behind another, as safetensors demands: no overlap, no hole."""
    end = 0
    for name, place in sorted(places.items(), key=lambda item: tuple(item[1])):
        if place[0] != end:
            raise UsageError(f"{file}: {name} begins at byte {place[0]}, expected {end}", hint=_BROKE_OFF)
        end = place[1]


def _saved(file: Path, name: str, entry: dict[str, object]) -> SavedTensor:
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    itemsize = (_FLOATS | _OTHERS).get(dtype) if isinstance(dtype, str) else None
    if itemsize is None:
        raise UsageError(f"{file}: {name} is of type {dtype!r}, which safetensors does not have", hint=_BROKE_OFF)
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise UsageError(f"{file}: {name} has the shape {shape} at bytes {offsets} in the header", hint=_BROKE_OFF)
    if offsets[1] - offsets[0] != math.prod(shape) * itemsize:
        raise UsageError(
            f"{file}: {name} is {tuple(shape)} of {dtype}, and {offsets[1] - offsets[0]} bytes are there for it",
            hint=_BROKE_OFF,
        )
    return SavedTensor(file, tuple(shape), str(dtype))


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
