"""Images by a list of URLs: fetches what is missing through img2dataset, keeps failures with their reason."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croc_cli.place import growing_file, is_there
from croc_cli.progress import Task
from croc_cli.run_dir import read_jsonl
from croc_cli.sources.fetch.img2dataset_run import read_results, run_img2dataset
from croc_cli.sources.fetch.url_table import UrlRow, json_rows, read_url_table
from croc_cli.sources.known.source import UrlList

_SHARD_SIZES = (100, 8)
"""Shards of the runs after a hang: the smaller they are, the fewer URLs wait with the one that hangs."""


@dataclass(frozen=True)
class UrlReport:
    """What is there of a URL list, and what is not.

    Args:
        num_urls: Images that the list names.
        num_present: Those that are there.
        num_new: Those that this call brought.
        reasons: Of the others, by reason, the most frequent first.
        num_waiting: Of the others, those that the next call tries again.
        num_hangs: Runs that made no more progress and were ended.
        num_repeated: Images of which another key has the very same bytes: a "removed" picture, or a site's logo.
        failures_file: One line for each image that is missing.
    """

    num_urls: int
    num_present: int
    num_new: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    num_waiting: int = 0
    num_hangs: int = 0
    num_repeated: int = 0
    failures_file: Path | None = None

    @property
    def num_missing(self) -> int:
        """Images that are not there."""
        return self.num_urls - self.num_present


def fetch_url_list(
    entry: UrlList, root: Path, work: Path, *, retry_all: bool = False, task: Task | None = None
) -> UrlReport:
    """Fetch the images of a list that are not there yet.

    Args:
        entry: Of the catalogue.
        root: The data root.
        work: Folder for what is under way, and for the notes of what failed; kept from call to call.
        retry_all: Try failed URLs again however often they were tried.
        task: Told how many are there.

    Raises:
        UsageError: The list cannot be read.
        FetchError: img2dataset does not start.
    """
    task = task or Task()
    folder = root / entry.to
    folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, UrlRow] = {}
    keeps_rows = entry.rows_to is not None and entry.rows_from is None
    for row in read_url_table(root / entry.path, url_column=entry.url_column, key_column=entry.key_column):
        wanted.setdefault(row.key, row if keeps_rows else UrlRow(row.key, row.url, {}))
    notes = _Notes(work)
    _collect_runs(work, folder, notes, wanted)  # what a killed call left
    present = _present(folder, wanted)
    before = len(present)
    notes.begin(wanted)
    num_hangs = 0
    attempted: set[str] = set()
    for attempt in range(1 + len(_SHARD_SIZES)):
        todo = [key for key in wanted if key not in present and notes.may_try(key, entry.download.max_tries, retry_all)]
        if not todo:
            break
        attempted.update(todo)
        size = _shard_size(entry, len(todo)) if attempt == 0 else min(_SHARD_SIZES[attempt - 1], len(todo))
        run = work / f"run-{os.getpid()}-{attempt}"
        counted = _Offset(task, len(present), len(wanted))
        pairs = [(key, wanted[key].url) for key in todo]
        ending = run_img2dataset(pairs, run, entry.download, shard_size=size, task=counted)
        _collect_runs(work, folder, notes, wanted)
        present = _present(folder, wanted)
        if ending in ("hung", "hung at the end"):
            num_hangs += 1
            task.note("img2dataset made no more progress: ended, its images kept, the rest retried")
        elif ending == "failed":
            task.note("img2dataset ended with an error: its images are kept, the rest is retried")
    for key in attempted - present:
        if not notes.was_tried(key):
            reason = f"img2dataset came to no end with it within {entry.download.stall_seconds} s"
            notes.fail(key, wanted[key].url, reason)
    notes.save(present)
    if entry.rows_to is not None:
        _write_rows(entry, root, wanted, present)
    task.update(len(present), len(wanted))
    missing = [key for key in wanted if key not in present]
    reasons = Counter(notes.reason(key) for key in missing)
    return UrlReport(
        num_urls=len(wanted),
        num_present=len(present),
        num_new=len(present) - before,
        reasons=dict(reasons.most_common()),
        num_waiting=sum(notes.may_try_later(key, entry.download.max_tries) for key in missing),
        num_hangs=num_hangs,
        num_repeated=notes.num_repeated(present),
        failures_file=notes.failures_file if missing else None,
    )


class _Notes:
    """What is known of each image beside its being there: failures with reason and tries, and the images' sha256."""

    def __init__(self, work: Path) -> None:
        self.failures_file = work / "failures.jsonl"
        self._images_file = work / "images.jsonl"
        self._failures = {str(row["key"]): row for row in read_jsonl(self.failures_file)}
        self._tried: set[str] = set()

    def begin(self, wanted: Mapping[str, UrlRow]) -> None:
        """Forget failures of images that the list names no longer, or at another URL."""
        self._failures = {
            key: row for key, row in self._failures.items() if key in wanted and wanted[key].url == row.get("url")
        }
        self._tried.clear()

    def fail(self, key: str, url: str, reason: str) -> None:
        """Note a failure of this call."""
        tries = int(self._failures.get(key, {}).get("tries", 0)) + 1
        self._failures[key] = {"key": key, "url": url, "reason": reason, "tries": tries}
        self._tried.add(key)

    def add_images(self, images: Iterable[Mapping[str, Any]]) -> None:
        """Note images that came."""
        with self._images_file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(dict(image), ensure_ascii=False) + "\n" for image in images)

    def was_tried(self, key: str) -> bool:
        """Tell whether this call knows what became of an image."""
        return key in self._tried

    def may_try(self, key: str, max_tries: int, retry_all: bool) -> bool:
        """Tell whether an image is still to be tried in this call."""
        return key not in self._tried and (retry_all or self.may_try_later(key, max_tries))

    def may_try_later(self, key: str, max_tries: int) -> bool:
        """Tell whether a call after this one tries an image again."""
        return int(self._failures.get(key, {}).get("tries", 0)) < max_tries

    def reason(self, key: str) -> str:
        """Return why an image is missing."""
        return str(self._failures.get(key, {}).get("reason", "not tried yet"))

    def num_repeated(self, present: set[str]) -> int:
        """Return how many images have bytes that another key's image has as well."""
        hashes = {str(row.get("key")): row.get("sha256") for row in read_jsonl(self._images_file)}
        counts = Counter(sha256 for key, sha256 in hashes.items() if sha256 and key in present)
        return sum(count for count in counts.values() if count > 1)

    def save(self, present: set[str]) -> None:
        """Write the failures that still are."""
        unfinished = self.failures_file.with_suffix(".unfinished")
        rows = (row for key, row in self._failures.items() if key not in present)
        unfinished.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        unfinished.replace(self.failures_file)


class _Offset(Task):
    """Counts a run's URLs on top of what was there before."""

    def __init__(self, task: Task, start: int, total: int) -> None:
        self._task, self._start, self._total = task, start, total

    def update(self, done: int, total: int | None = None) -> None:
        del total
        self._task.update(min(self._start + done, self._total), self._total)


def _collect_runs(work: Path, folder: Path, notes: _Notes, wanted: Mapping[str, UrlRow]) -> None:
    """Move the images of every run to their places, note what failed, and remove the runs."""
    for run in sorted(path for path in work.glob("run-*") if path.is_dir()):
        came = []
        for result in read_results(run):
            if result.key not in wanted:
                continue
            if result.path is None:
                notes.fail(result.key, wanted[result.key].url, result.reason or "unknown")
                continue
            target = folder / result.key
            target.parent.mkdir(parents=True, exist_ok=True)
            _move(result.path, target)
            came.append({"key": result.key, **result.facts})
        notes.add_images(came)
        notes.save(set())
        shutil.rmtree(run)


def _move(path: Path, target: Path) -> None:
    """Put an image in its place, unless something lies there: croc never replaces what it cannot prove is its own."""
    if is_there(target):
        return
    try:
        path.replace(target)
    except OSError:  # another file system
        with growing_file(target) as growing:
            shutil.copyfile(path, growing)


def _present(folder: Path, wanted: Mapping[str, UrlRow]) -> set[str]:
    """Return the keys whose image is there and not empty."""
    found: set[str] = set()
    for place, _, names in os.walk(folder):
        prefix = os.path.relpath(place, folder)
        found.update(name if prefix == "." else f"{prefix}/{name}" for name in names)
    return {key for key in found & wanted.keys() if (folder / key).stat().st_size > 0}


def _shard_size(entry: UrlList, num_urls: int) -> int:
    """Return a size that gives every process several shards, so that little is open when a run is killed."""
    settings = entry.download
    processes = settings.processes_count or os.cpu_count() or 1
    return min(settings.number_sample_per_shard, max(settings.thread_count, num_urls // (4 * processes)))


def _write_rows(entry: UrlList, root: Path, wanted: Mapping[str, UrlRow], present: set[str]) -> None:
    """Write the rows whose image is there, in their own order."""
    assert entry.rows_to is not None
    target = root / entry.rows_to
    if entry.rows_from is not None:
        rows: Iterable[Mapping[str, Any]] = (
            row for row in json_rows(root / entry.rows_from) if "image" not in row or row["image"] in present
        )
    else:
        prefix = entry.to.rstrip("/")
        rows = ({**row.row, "image": f"{prefix}/{key}"} for key, row in wanted.items() if key in present)
    with growing_file(target) as growing, growing.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
