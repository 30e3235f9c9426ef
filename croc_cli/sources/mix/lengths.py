"""Exact lengths of a mix's rows in tokens: one array for each tokenizer and template, beside the mix's index.

A row's length is that of its text in the template, control tokens included; each image adds its visual tokens. So one
array serves every vision tower.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.errors import UsageError
from croc_cli.recipe.template_options import NO_OPTIONS, TemplateOptions
from croc_cli.run_dir import read_json, write_json
from croc_cli.sources.read.cache import locked
from croc_cli.sources.read.index import LENGTHS_FOLDER, MixFolder
from croc_cli.sources.read.manifest import read_manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from croc_cli.recipe.schema import TemplateName

BLOCK_ROWS = 2000
"""Rows that are counted at a time: what a killed count loses at most, for each process."""
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)
_UNKNOWN = 0


@dataclass(frozen=True)
class Counting:
    """What lengths are counted with.

    Args:
        llm: Folder or hub id of the LLM whose tokenizer counts.
        revision: Of the hub id.
        template: How conversations become text.
        options: What the template leaves open.
    """

    llm: str
    revision: str | None
    template: "TemplateName"
    options: TemplateOptions = NO_OPTIONS


def template_key(template: str, options: TemplateOptions) -> str:
    """Return what names a template and the options that change lengths; the plain name where none is set."""
    own = options._replace(trained_tokens="answers") if template == "plain" else options
    return template if own == NO_OPTIONS else f"{template} {own!r}"


def length_key(tokenizer: Mapping[str, Any], template: str) -> str:
    """Return the name of the array that a tokenizer and a template give.

    Args:
        tokenizer: All of the tokenizer that decides how texts become tokens, as plain values.
        template: How conversations become text.
    """
    described = json.dumps([tokenizer, template], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(described.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]


def files_key(folder: Path, template: str) -> str | None:
    """Return a name for a template and the tokenizer files of a folder as they are now; None where there are none.

    It changes with their sizes and change times, and is found without opening a tokenizer.
    """
    files = sorted({file for pattern in TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()})
    states = [(file.name, (state := file.stat()).st_size, state.st_mtime_ns) for file in files]
    return hashlib.sha256(repr((str(folder.resolve()), states, template)).encode()).hexdigest()[:16] if states else None


def find_lengths(folder: Path, key: str) -> "npt.NDArray[np.uint32] | None":
    """Return [N] tokens of each row's text in the mix's order, mapped; None where they were not counted to the end.

    Args:
        folder: Of the mix.
        key: As `length_key` gives it. An array of other rows, or of another order, is none.
    """
    import numpy as np

    file = folder / LENGTHS_FOLDER / f"{key}.npy"
    with suppress(OSError, ValueError, UsageError):
        found: npt.NDArray[np.uint32] = np.load(file, mmap_mode="r").view(np.ndarray)
        manifest, about = read_manifest(folder), read_json(file.with_suffix(".json"))
        if len(found) == manifest.rows and about.get("order_sha256") == manifest.order_sha256:
            return found
    return None


def known_lengths(folder: Path, files: str | None) -> "npt.NDArray[np.uint32] | None":
    """Return [N] tokens of each row's text by the state of the tokenizer's files, as `files_key` gives it, or None."""
    for about in sorted((folder / LENGTHS_FOLDER).glob("[!.]*.json")) if files is not None else ():
        if read_json(about).get("files") == files:
            return find_lengths(folder, about.stem)
    return None


class LengthsCount:
    """Lengths that are being counted; goes on where an earlier count stopped. A context manager.

    Two processes that count the same wait for each other.

    Args:
        mix: The open mix.
        key: As `length_key` gives it.
        about: What to note of them: tokenizer, template, state of the tokenizer's files.
    """

    def __init__(self, mix: MixFolder, key: str, about: Mapping[str, Any]) -> None:
        import numpy as np

        self.mix = mix
        self.key = key
        self.about = {**about, "rows": len(mix), "order_sha256": mix.manifest.order_sha256}
        self.folder = mix.folder / LENGTHS_FOLDER
        self._lock = locked(self.folder / f".{key}.lock")
        self._order = np.argsort(mix.index.offset, kind="stable")  # rows are read as they lie in their file
        self._lengths: Any = None

    def __enter__(self) -> "LengthsCount":
        import numpy as np

        self._lock.__enter__()
        if (done := find_lengths(self.mix.folder, self.key)) is not None:
            self._lengths = done
            write_json(self.folder / f"{self.key}.json", self.about)
            return self
        begun_with = read_json(self._unfinished.with_suffix(".json"))
        with suppress(OSError, ValueError):
            begun = np.lib.format.open_memmap(self._unfinished, mode="r+")
            same = begun_with.get("order_sha256") == self.about["order_sha256"] and begun.shape == (len(self.mix),)
            self._lengths = begun if same else None
        if self._lengths is None:
            write_json(self._unfinished.with_suffix(".json"), self.about)
            self._lengths = np.lib.format.open_memmap(
                self._unfinished, mode="w+", dtype=np.uint32, shape=(len(self.mix),)
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._lengths = None
        self._lock.__exit__(None, None, None)

    @property
    def num_counted(self) -> int:
        """Rows whose length is known."""
        return int((self._lengths != _UNKNOWN).sum())

    def open_blocks(self) -> Iterator[list[int]]:
        """Yield the places in the mix of rows that are not counted yet, in blocks, each in the order of the file."""
        for start in range(0, len(self.mix), BLOCK_ROWS):
            block = self._order[start : start + BLOCK_ROWS]
            if (self._lengths[block] == _UNKNOWN).any():
                yield block.tolist()

    def store(self, places: list[int], lengths: list[int]) -> None:
        """Take the lengths of a block."""
        self._lengths[places] = lengths
        self._lengths.flush()

    def finish(self) -> "npt.NDArray[np.uint32]":
        """Put the array in place once every row is counted, and return it."""
        if self._unfinished.exists():
            write_json(self.folder / f"{self.key}.json", self.about)
            self._unfinished.replace(self.folder / f"{self.key}.npy")
            self._unfinished.with_suffix(".json").unlink(missing_ok=True)
        found = find_lengths(self.mix.folder, self.key)
        assert found is not None
        return found

    @property
    def _unfinished(self) -> Path:
        return self.folder / f".{self.key}.unfinished.npy"


def keep_lengths(folder: Path, copy: Path, keep: Any) -> None:
    """Give a copy of a mix that has fewer rows their lengths.

    Args:
        folder: Of the mix.
        copy: Of the copy, with its manifest.
        keep: [N] bool, which rows it has.
    """
    import numpy as np

    order = read_manifest(copy).order_sha256
    for about in (folder / LENGTHS_FOLDER).glob("[!.]*.json"):
        if (lengths := find_lengths(folder, about.stem)) is not None:
            (copy / LENGTHS_FOLDER).mkdir(exist_ok=True)
            np.save(copy / LENGTHS_FOLDER / f"{about.stem}.npy", lengths[keep])
            noted = {**read_json(about), "rows": int(keep.sum()), "order_sha256": order}
            write_json(copy / LENGTHS_FOLDER / about.name, noted)
