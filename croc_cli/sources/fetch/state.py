"""How much of a source's files already exists: by the records of earlier fetches, and by what lies on disk."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from croc_cli.sources.known.record import FOLDER, FetchRecord
from croc_cli.sources.known.source import ByHand, HubFile, Link, SamTars, Source, SourceFile, UrlList, WebFile


@dataclass(frozen=True)
class FileState:
    """How much of one catalogue entry is there.

    Args:
        done: Nothing is left to do.
        bytes_left: Bytes still to download; None where nobody knows.
        note: What a user should know, such as how many images of a list are missing.
    """

    done: bool
    bytes_left: int | None = 0
    note: str = ""


def file_key(file: SourceFile) -> str:
    """Return what a file's record is kept under: where it comes from."""
    if isinstance(file, HubFile):
        return f"hub:{file.repo}/{file.path}@{file.revision}"
    if isinstance(file, WebFile):
        return f"web:{file.url}"
    if isinstance(file, UrlList):
        return f"urls:{file.path}"
    return f"{file.kind}:{file.to}"


def file_name(file: HubFile | WebFile) -> str:
    """Return a download's own name, the last part of its path or URL."""
    path = file.path if isinstance(file, HubFile) else unquote(urlsplit(file.url).path)
    return path.rstrip("/").rsplit("/", 1)[-1] or "download"


def archive_path(root: Path, source: Source, name: str) -> Path:
    """Return where an archive lies until it is unpacked."""
    return root / FOLDER / "archives" / source.name.replace(":", "_") / name


def url_work_folder(root: Path, source: Source) -> Path:
    """Return the folder of a URL list's notes and running downloads."""
    return root / FOLDER / "urls" / source.name.replace(":", "_")


def state_of(file: SourceFile, source: Source, root: Path, record: FetchRecord | None = None) -> FileState:
    """Return how much of a file is there; nothing is opened, and no network is used."""
    facts = (record or FetchRecord(root, source.name)).get(file_key(file))
    if isinstance(file, Link):
        return FileState((root / file.to).exists())
    if isinstance(file, ByHand):
        there = (root / file.to).exists()
        return FileState(there, None, "" if there else f"by hand: {file.how} ({file.page})")
    if isinstance(file, UrlList):
        return _url_list_state(file, facts)
    if isinstance(file, SamTars):
        return _sam_state(file, facts)
    if _is_there(file, facts, root):
        return FileState(True)
    expected = file.expected_bytes
    kept = _kept_bytes(file, source, root)
    return FileState(False, None if expected is None else max(0, expected - kept))


def count_files(folder: Path, *, at_least: int | None = None) -> int:
    """Return how many files lie in a folder and below, hidden ones left out; stops once there are `at_least`."""
    count = 0
    for _, _, names in os.walk(folder):
        count += sum(not name.startswith(".") for name in names)
        if at_least is not None and count >= at_least:
            break
    return count


def _is_there(file: HubFile | WebFile, facts: Mapping[str, Any], root: Path) -> bool:
    if file.unpack is not None:
        folder = root / file.unpack.to
        if not folder.is_dir():
            return False
        if facts.get("done"):
            return any(folder.iterdir())
        wanted = file.unpack.num_files
        # Another program may have unpacked it here; a full count is as good as a record.
        return wanted is not None and wanted > 1 and count_files(folder, at_least=wanted) >= wanted
    assert file.to is not None
    if not facts.get("done"):
        return False
    parts: list[Mapping[str, Any]] = facts.get("files") or [{"to": file.to, "size": facts.get("size")}]
    return all((root / part["to"]).is_file() and (root / part["to"]).stat().st_size == part["size"] for part in parts)


def _kept_bytes(file: HubFile | WebFile, source: Source, root: Path) -> int:
    """Return the bytes of an unfinished download, or of an archive that waits for unpacking."""
    if file.to is not None and file.to.endswith("/"):
        return sum(path.stat().st_size for path in (root / file.to).glob("*") if path.is_file())
    target = root / file.to if file.to is not None else archive_path(root, source, file_name(file))
    for path in (target, target.with_name(f".{target.name}.part")):
        if path.is_file():
            return path.stat().st_size
    return 0


def _url_list_state(file: UrlList, facts: Mapping[str, Any]) -> FileState:
    if not facts:
        return FileState(False, file.about)
    num_urls, present, waiting = int(facts["num_urls"]), int(facts["num_present"]), int(facts["num_waiting"])
    note = "" if present == num_urls else f"{num_urls - present:,} of {num_urls:,} images are missing"
    if note and not waiting:
        note += ", all tried often enough (--retry-failed tries them again)"
    left = None if file.about is None else round(file.about * waiting / max(1, num_urls))
    return FileState(waiting == 0, left, note)


def _sam_state(file: SamTars, facts: Mapping[str, Any]) -> FileState:
    done = facts.get("tars", {})
    left = [name for name in file.names if name not in done]
    if not left:
        return FileState(True)
    share = len(left) / len(file.names)
    note = f"{len(left)} of {len(file.names)} tars are missing" if done else ""
    return FileState(False, None if file.about is None else round(file.about * share), note)
