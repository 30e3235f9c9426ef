"""Runs img2dataset as a child process and watches it: a run that hangs is noticed and ended, its results are kept."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import croc_cli
from croc_cli.errors import UsageError
from croc_cli.progress import Task
from croc_cli.sources.fetch.img2dataset_child import ALLOW_PRIVATE, URL_SECONDS
from croc_cli.sources.known.source import ImageDownload
from croc_cli.sources.read.content import FetchError

KEY = "croc_key"
"""Our own key of an image, a column of the list: img2dataset's keys look alike from list to list."""

_POLL = 1.0
_GRACE = 20.0
"""Seconds that a run may take to end once every shard is written."""
_START = 300.0
"""Seconds that its start may take: it imports for long on a machine that is busy."""
_QUIET = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "disabled",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Update checks and telemetry of img2dataset's libraries, switched off."""

Ending = Literal["finished", "hung", "hung at the end", "failed"]


@dataclass(frozen=True)
class ImageResult:
    """What became of one URL.

    Args:
        key: Our own.
        path: The image, where it came.
        reason: Why not, where it did not.
        facts: Size in pixels and sha256 of what the server sent, where it came.
    """

    key: str
    path: Path | None
    reason: str | None
    facts: Mapping[str, Any]


def run_img2dataset(
    rows: Sequence[tuple[str, str]],
    folder: Path,
    settings: ImageDownload,
    *,
    shard_size: int,
    task: Task | None = None,
) -> Ending:
    """Fetch images; the results are for `read_results`, whatever the ending.

    Args:
        rows: (our key, URL) each.
        folder: Of this run alone; list, log and output are put into it.
        settings: How.
        shard_size: URLs of a shard.
        task: Told the number of URLs that are done.

    Raises:
        FetchError: img2dataset ended with an error before it fetched anything; the log's last line is in the message.
        UsageError: Its distributor is not installed.
    """
    _check_distributor(settings.distributor)
    folder.mkdir(parents=True, exist_ok=True)
    url_list = folder / "list.parquet"
    _write_list(rows, url_list)
    num_shards = -(-len(rows) // shard_size)
    settings_file = folder / "settings.json"
    settings_file.write_text(json.dumps(_arguments(settings, url_list, folder / "out", shard_size)), encoding="utf-8")
    environment = {**os.environ, **_QUIET, URL_SECONDS: str(settings.url_seconds)}
    environment[ALLOW_PRIVATE] = "1" if settings.allow_private else ""
    package_parent = str(Path(croc_cli.__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    log_file = folder / "log.txt"
    with log_file.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "croc_cli.sources.fetch.img2dataset_child", str(settings_file)],
            stdin=subprocess.PIPE,  # its closing tells the child that we are gone
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        try:
            ending = _watch(child, folder / "out", num_shards, settings, task or Task())
        finally:
            _end(child)
    if ending == "failed" and next(read_results(folder), None) is None:
        raise FetchError(
            f"img2dataset failed at its start: {_last_line(log_file)}", hint=f"its whole output is in {log_file}"
        )
    return ending


def read_results(folder: Path) -> Iterator[ImageResult]:
    """Yield what a run brought, a killed one's too: whole shards by their table, others by the images that are there.

    A URL of an unfinished shard that has no image yet is not among them.
    """
    from pyarrow import parquet

    out = folder / "out"
    for shard in sorted(path for path in out.glob("*") if path.is_dir() and path.name.isdigit()):
        table = out / f"{shard.name}.parquet"
        if (out / f"{shard.name}_stats.json").is_file() and table.is_file():
            for row in parquet.read_table(table).to_pylist():
                yield _of_row(row, shard)
        else:
            for note in sorted(shard.glob("*.json")):
                try:
                    row = json.loads(note.read_text(encoding="utf-8"))
                except ValueError:
                    continue  # killed while it was written
                yield _of_row(row, shard)


def _of_row(row: Mapping[str, Any], shard: Path) -> ImageResult:
    key = str(row[KEY])
    facts = {name: row.get(name) for name in ("url", "width", "height", "sha256")}
    if row.get("status") != "success":
        reason = str(row.get("error_message") or row.get("status") or "unknown")
        return ImageResult(key, None, reason.splitlines()[0], facts)
    path = shard / f"{row['key']}.jpg"
    if not path.is_file() or path.stat().st_size == 0:
        return ImageResult(key, None, "img2dataset wrote no image", facts)
    return ImageResult(key, path, None, facts)


def _arguments(settings: ImageDownload, url_list: Path, out: Path, shard_size: int) -> dict[str, Any]:
    """Return img2dataset's arguments."""
    return {
        "url_list": str(url_list),
        "output_folder": str(out),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": None,
        "save_additional_columns": [KEY],
        "output_format": "files",
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "image_size": settings.image_size,
        "min_image_size": settings.min_image_size,
        "encode_format": "jpg",
        "encode_quality": settings.encode_quality,
        "extract_exif": False,
        "compute_hash": "sha256",
        "number_sample_per_shard": shard_size,
        "processes_count": settings.processes_count or os.cpu_count() or 1,
        "thread_count": settings.thread_count,
        "timeout": settings.timeout,
        "retries": settings.retries,
        "distributor": settings.distributor,
        "enable_wandb": False,
        "user_agent_token": settings.user_agent_token,
        "disallowed_header_directives": (
            None if settings.disallowed_header_directives is None else list(settings.disallowed_header_directives)
        ),
    }


def _write_list(rows: Sequence[tuple[str, str]], file: Path) -> None:
    """Write the list as Parquet: JSON would turn zero-padded keys into numbers."""
    import pyarrow
    from pyarrow import parquet

    keys, urls = [key for key, _ in rows], [url for _, url in rows]
    table = pyarrow.table({KEY: pyarrow.array(keys, pyarrow.string()), "url": pyarrow.array(urls, pyarrow.string())})
    parquet.write_table(table, file)


def _watch(child: "subprocess.Popen[bytes]", out: Path, num_shards: int, settings: ImageDownload, task: Task) -> Ending:
    """Wait for the end, or for a stall."""
    state, changed = _state(out), time.monotonic()
    while True:
        try:
            child.wait(_POLL)
        except subprocess.TimeoutExpired:
            pass
        else:
            return "finished" if child.returncode == 0 else "failed"
        now_state, now = _state(out), time.monotonic()
        task.update(_num_finished(out))
        if now_state != state:
            state, changed = now_state, now
            continue
        all_there = sum(1 for _ in out.glob("*_stats.json")) >= num_shards
        if all_there and now - changed > _GRACE:
            return "hung at the end"
        has_begun = any(name.isdigit() for name, _, _ in now_state)
        if now - changed > (settings.stall_seconds if has_begun else max(settings.stall_seconds, _START)):
            return "hung"


def _state(out: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes with every image, failure and shard: the folder's entries with their times and sizes."""
    try:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(out)]
    except OSError:
        return ()
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in entries))


def _num_finished(out: Path) -> int:
    """Return how many URLs are done: of whole shards all, of others those whose image is there."""
    try:
        shards = [entry.name for entry in os.scandir(out) if entry.is_dir() and entry.name.isdigit()]
    except OSError:
        return 0
    num_finished = 0
    for shard in shards:
        try:
            num_finished += int(json.loads((out / f"{shard}_stats.json").read_text(encoding="utf-8"))["count"])
        except (OSError, ValueError, KeyError):
            num_finished += sum(entry.name.endswith(".json") for entry in os.scandir(out / shard))
    return num_finished


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the child with all its processes; img2dataset's pool would outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _check_distributor(name: str) -> None:
    from importlib.util import find_spec

    if name != "multiprocessing" and find_spec(name) is None:
        raise UsageError(
            f"download.distributor is {name}, and {name} is not installed", hint=f"pip install {name}, or leave it out"
        )


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no word"
