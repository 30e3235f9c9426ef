"""Fetches a source: each of its files by the way its catalogue entry names, noted as soon as it is whole."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from croc_cli.errors import CrocError, UsageError
from croc_cli.files import free_disk
from croc_cli.progress import Progress
from croc_cli.run_dir import sha256_of
from croc_cli.sources.fetch import hub
from croc_cli.sources.fetch.download import Limits, Remote, download
from croc_cli.sources.fetch.sam import FORM, local_tars, missing_links, read_links
from croc_cli.sources.fetch.state import archive_path, count_files, file_key, file_name, state_of, url_work_folder
from croc_cli.sources.fetch.unpack import BrokenArchiveError, Unpacked, unpack
from croc_cli.sources.fetch.url_list import fetch_url_list
from croc_cli.sources.known.record import FetchRecord
from croc_cli.sources.known.source import ByHand, HubFile, Link, SamTars, Source, SourceFile, Unpack, UrlList, WebFile
from croc_cli.sources.read.content import FetchError
from croc_cli.words import counted

_RESERVE = 10**9
"""Bytes of disk that are left alone."""
_SHOWN_REASONS = 5

State = Literal["fetched", "already here", "by hand", "incomplete", "failed"]


@dataclass(frozen=True)
class FetchOptions:
    """What a user may say about a fetch.

    Args:
        sam_links: The links file of SA-1B's form.
        sam_tars: Folder of SA-1B's tars, had otherwise.
        keep_archives: Keep archives after unpacking.
        retry_failed: Try every failed URL again, however often it was tried.
        limits: When a download is given up.
    """

    sam_links: Path | None = None
    sam_tars: Path | None = None
    keep_archives: bool = False
    retry_failed: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Outcome:
    """What came of one file of a source.

    Args:
        source: The source's name.
        file: What it is called.
        state: `incomplete` = some of it is missing for good; `by hand` = a person has to get it.
        message: What a user should know.
        hint: What to do about it.
        is_optional: The source is of use without it.
    """

    source: str
    file: str
    state: State
    message: str = ""
    hint: str | None = None
    is_optional: bool = False

    @property
    def is_missing(self) -> bool:
        """Whether the source lacks something that a further call, or a person, can bring."""
        return self.state in ("failed", "by hand") and not self.is_optional


def fetch_source(
    source: Source, root: Path, *, options: FetchOptions | None = None, progress: Progress | None = None
) -> list[Outcome]:
    """Fetch what is missing of a source; one file's failure does not keep the others away.

    Args:
        source: Of the catalogue.
        root: The data root.
        options: See there.
        progress: Told of every download and archive.

    Returns:
        What came of each file, in their order.
    """
    work = _Fetch(source, root, options or FetchOptions(), progress or Progress())
    outcomes = []
    for file in source.files:
        label = _label(file)
        try:
            outcomes.append(work.file(file, label))
        except CrocError as error:
            outcomes.append(Outcome(source.name, label, "failed", error.message, error.hint))
        except OSError as error:  # such as a full disk: the other files may lie on another
            message = f"{error.filename or root}: {error.strerror or error}"
            outcomes.append(Outcome(source.name, label, "failed", message, "fix it; the same command goes on"))
    return outcomes


class _Fetch:
    """One source's fetch: where to, how, and where progress goes."""

    def __init__(self, source: Source, root: Path, options: FetchOptions, progress: Progress) -> None:
        self.source, self.root, self.options, self.progress = source, root, options, progress
        self.record = FetchRecord(root, source.name)

    def file(self, file: SourceFile, label: str) -> Outcome:
        """Fetch one file."""
        state = state_of(file, self.source, self.root, self.record)
        if isinstance(file, ByHand):
            if state.done:
                return self._outcome(label, "already here")
            message = f"{file.how}; it goes to {self.root / file.to}"
            return Outcome(self.source.name, label, "by hand", message, file.page, is_optional=file.optional)
        if isinstance(file, UrlList):
            return (
                self._url_list(file, label)
                if not state.done or self.options.retry_failed
                else self._kept(label, state.note)
            )
        if state.done:
            return self._outcome(label, "already here")
        if isinstance(file, Link):
            return self._link(file, label)
        if isinstance(file, SamTars):
            return self._sam(file, label)
        return self._hub(file, label) if isinstance(file, HubFile) else self._web(file, label)

    def _outcome(self, label: str, state: State, message: str = "", hint: str | None = None) -> Outcome:
        return Outcome(self.source.name, label, state, message, hint)

    def _kept(self, label: str, note: str) -> Outcome:
        return self._outcome(label, "incomplete", note) if note else self._outcome(label, "already here")

    def _web(self, file: WebFile, label: str) -> Outcome:
        remote = Remote(file.url, size=file.size, sha256=file.sha256)
        facts = self._get(lambda: remote, file_name(file), file.to, file.unpack, size=file.size, sha256=file.sha256)
        self.record.put(file_key(file), done=True, url=file.url, **facts)
        return self._outcome(label, "fetched")

    def _hub(self, file: HubFile, label: str) -> Outcome:
        listing = hub.list_files(file, limits=self.options.limits)
        origin = {"repo": file.repo, "commit": listing.commit}
        if not file.is_pattern:
            entry = listing.entries[0]
            self._check_hub_facts(file, entry)
            locate = self._locate_hub(file, entry, listing.commit)
            facts = self._get(locate, file_name(file), file.to, file.unpack, size=entry.size, sha256=entry.sha256)
            self.record.put(file_key(file), done=True, path=file.path, **origin, **facts)
            return self._outcome(label, "fetched")
        assert file.to is not None  # the catalogue sees to it
        parts = []
        for entry in listing.entries:
            to = f"{file.to}{hub.place_below(file, entry)}"
            locate = self._locate_hub(file, entry, listing.commit)
            parts.append(self._get(locate, to.rsplit("/", 1)[-1], to, None, size=entry.size, sha256=entry.sha256))
            self.record.put(file_key(file), done=False, **origin, files=parts)
        self.record.put(file_key(file), done=True, **origin, files=parts)
        return self._outcome(label, "fetched", f"{counted(len(parts), 'file')}")

    def _locate_hub(self, file: HubFile, entry: hub.HubEntry, commit: str) -> Callable[[], Remote]:
        return lambda: hub.remote_of(file, entry, commit, limits=self.options.limits)

    def _check_hub_facts(self, file: HubFile, entry: hub.HubEntry) -> None:
        if file.size is not None and entry.size != file.size:
            raise FetchError(
                f"{file.repo}/{file.path} has {counted(entry.size, 'byte')}, the catalogue says {file.size:,}",
                hint="it changed at its source; give its new size in a catalogue of your own",
            )
        if file.sha256 is not None and entry.sha256 is not None and entry.sha256 != file.sha256:
            raise FetchError(
                f"{file.repo}/{file.path} has sha256 {entry.sha256[:12]}…, the catalogue says {file.sha256[:12]}…",
                hint="it changed at its source; give its new sha256 in a catalogue of your own",
            )

    def _get(
        self,
        locate: Callable[[], Remote],
        name: str,
        to: str | None,
        unpacking: Unpack | None,
        *,
        size: int | None = None,
        sha256: str | None = None,
    ) -> dict[str, object]:
        """Download a file, unpack it where that is asked for, and return what the record says of it."""
        target = self.root / to if to is not None else archive_path(self.root, self.source, name)
        if target.is_file() and size is not None and target.stat().st_size == size:
            found = sha256_of(target)
            if sha256 is None or found == sha256:
                return self._finish(target, size, found, to, unpacking)
        if target.is_file() and to is None and size is None:  # an archive is there only once it is whole
            return self._finish(target, target.stat().st_size, sha256_of(target), to, unpacking)
        if to is None:
            target.unlink(missing_ok=True)  # an archive in croc's own folder that is not the one that is wanted
        target.parent.mkdir(parents=True, exist_ok=True)
        self._check_disk(name, size, target)
        task = self.progress.task(name, size, "bytes")
        try:
            got = download(locate, target, task=task, limits=self.options.limits)
        finally:
            task.close()
        return self._finish(target, got.size, got.sha256, to, unpacking)

    def _finish(
        self, target: Path, size: int, sha256: str, to: str | None, unpacking: Unpack | None
    ) -> dict[str, object]:
        facts: dict[str, object] = {"to": to, "size": size, "sha256": sha256}
        if unpacking is None:
            return facts
        done = self._unpack(target, unpacking, is_ours=to is None and not self.options.keep_archives)
        return {**facts, "to": unpacking.to, "num_files": done.num_files, "num_bytes": done.num_bytes}

    def _unpack(self, archive: Path, unpacking: Unpack, *, is_ours: bool) -> Unpacked:
        """Unpack an archive; one of ours is removed afterwards, and when it is broken."""
        task = self.progress.task(f"unpacking {archive.name}", unpacking.num_files, "files")
        try:
            done = unpack(archive, self.root / unpacking.to, unpacking, task=task)
        except BrokenArchiveError:
            if is_ours:
                archive.unlink(missing_ok=True)
            raise
        finally:
            task.close()
        if is_ours:
            archive.unlink()
        return done

    def _check_disk(self, name: str, size: int | None, target: Path) -> None:
        kept = target.with_name(f".{target.name}.part")
        left = (size or 0) - (kept.stat().st_size if kept.is_file() else 0)
        free = free_disk(target.parent)
        if left + _RESERVE > free and left > 0:
            raise FetchError(
                f"{name} needs {left / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free at {self.root}",
                hint="make room, or set another data root",
            )

    def _link(self, file: Link, label: str) -> Outcome:
        link, target = self.root / file.to, self.root / file.target
        wanted = os.path.relpath(target, link.parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not link.is_symlink() or os.readlink(link) != wanted:  # a link of the user's makes this fail
                link.symlink_to(wanted)
        except OSError as error:
            raise UsageError(f"{link} cannot be made a link to {target}: {error.strerror}") from error
        if not target.exists():
            return self._outcome(label, "incomplete", f"{target} is not there yet")
        return self._outcome(label, "fetched")

    def _url_list(self, file: UrlList, label: str) -> Outcome:
        task = self.progress.task(label, None, "files")
        try:
            report = fetch_url_list(
                file,
                self.root,
                url_work_folder(self.root, self.source),
                retry_all=self.options.retry_failed,
                task=task,
            )
        finally:
            task.close()
        numbers = {name: getattr(report, name) for name in ("num_urls", "num_present", "num_waiting", "num_repeated")}
        self.record.put(file_key(file), done=report.num_waiting == 0, reasons=dict(report.reasons), **numbers)
        repeated = f"; {report.num_repeated:,} have the same bytes as another" if report.num_repeated else ""
        if not report.num_missing:
            return self._outcome(label, "fetched", f"all {counted(report.num_urls, 'image')}{repeated}")
        first = list(report.reasons.items())[:_SHOWN_REASONS]
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in first)
        further = f", {len(report.reasons) - len(first)} further reasons" if len(report.reasons) > len(first) else ""
        again = f"; the next call tries {report.num_waiting:,} again" if report.num_waiting else ""
        here = f"{report.num_present:,} of {report.num_urls:,} images are here{repeated}"
        message = f"{here}; missing: {reasons}{further}{again}"
        return self._outcome(label, "incomplete", message, f"{report.failures_file} names each")

    def _sam(self, file: SamTars, label: str) -> Outcome:
        """Take the images out of each tar that is not done; a broken tar does not keep the others away."""
        key = file_key(file)
        done: dict[str, int] = dict(self.record.get(key).get("tars", {}))
        here = local_tars(file, self.options.sam_tars) if self.options.sam_tars is not None else {}
        links = read_links(self.options.sam_links) if self.options.sam_links is not None else {}
        unpacking = Unpack(to=file.to, flat=True, only=("*.jpg",))
        failed: dict[str, CrocError] = {}
        left = [name for name in file.names if name not in done]
        for name in left:
            if name not in here and name not in links:
                continue
            try:
                done[name] = self._sam_tar(name, here.get(name), links.get(name), unpacking)
            except CrocError as error:
                failed[name] = error
                continue
            self.record.put(key, done=len(done) == len(file.names), tars=done)
        without = [name for name in left if name not in done and name not in failed]
        if not failed and not without:
            return self._sam_done(file, label)
        if failed:
            first = next(iter(failed.values()))
            message = f"{len(failed)} tars failed ({', '.join(failed)}): {first.message}"
            return self._outcome(label, "failed", message, first.hint)
        how = f"{len(without)} of {len(file.names)} tars have no link: fill in the form, then --sam-links FILE"
        if links:
            lacking = missing_links(file, links)
            how = f"{len(lacking)} tars are not in {self.options.sam_links}, {', '.join(lacking[:5])} …"
        return self._outcome(label, "by hand", f"{how} (or --sam-tars FOLDER)", FORM)

    def _sam_tar(self, name: str, here: Path | None, link: str | None, unpacking: Unpack) -> int:
        """Return how many images one tar gave."""
        if here is not None:
            return self._unpack(here, unpacking, is_ours=False).num_files
        assert link is not None
        facts = self._get(lambda: Remote(link), name, None, unpacking)
        return int(str(facts["num_files"]))

    def _sam_done(self, file: SamTars, label: str) -> Outcome:
        found = count_files(self.root / file.to)
        if file.num_files is not None and found < file.num_files:
            message = f"the tars gave {counted(found, 'image')}, expected {file.num_files:,}"
            return self._outcome(label, "incomplete", message, "rows without image are dropped when the mix is made")
        return self._outcome(label, "fetched", f"{counted(found, 'image')}")


def _label(file: SourceFile) -> str:
    if isinstance(file, HubFile):
        return f"{file.repo}/{file.path}"
    if isinstance(file, WebFile):
        return file.url
    if isinstance(file, UrlList):
        return f"images of {file.path}"
    if isinstance(file, SamTars):
        return f"{file.names[0]} to {file.names[-1]}"
    return file.to
