"""Checks the images of a data set: all that they are there, and by wish that each decodes; in processes, resumable."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from croc_cli.sources.read.scan import Progress
from croc_cli.sources.verify.alike import AlikeImages
from croc_cli.sources.verify.checked_rows import CheckedRow
from croc_cli.sources.verify.findings import DEFECTS, Findings
from croc_cli.sources.verify.image_cache import ImageCache
from croc_cli.sources.verify.image_check import ImageFacts, ImagePlace, check_images
from croc_cli.sources.verify.layout import find_elsewhere, image_prefix
from croc_cli.sources.verify.overlap import EvalImages

BATCH_IMAGES = 32
_SEARCHED = 5
"""Missing images, of each prefix, that are looked for elsewhere."""
MAX_PREFIXES = 20


class ImagePass:
    """Takes rows one by one and looks at their images, each once.

    Args:
        findings: Told what is wrong.
        deep: Decode every image; else only see that each is there and not empty.
        workers: Decoding processes; None for every core.
        perceptual: Also find images that look alike.
        eval_images: Images of the evaluation sets, to find those that are trained on.
        progress: Told how far it is.

    Attributes:
        bad: What is wrong with each image that cannot be trained on, by the name of its place.
        eval_sets: Images that each evaluation set has too.
    """

    def __init__(
        self,
        findings: Findings,
        *,
        deep: bool,
        workers: int | None = None,
        perceptual: bool = False,
        eval_images: EvalImages | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.eval_images = eval_images if eval_images is not None else EvalImages()
        self.findings = findings
        self.deep = deep
        self.perceptual = perceptual
        self.progress = progress
        self.bad: dict[str, str] = {}
        self.present: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.eval_sets: Counter[str] = Counter()
        self._first: dict[int, str] = {}
        self.num_checked = self.num_cached = 0
        self._seen: set[int] = set()
        self._searched: Counter[str] = Counter()
        self._alike = AlikeImages()
        self._cache = ImageCache() if deep else None
        self._workers = workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: list[tuple[str, ImagePlace]] = []
        self._running: list[tuple[Future[list[ImageFacts]], list[tuple[str, ImagePlace]]]] = []

    def take(self, row: CheckedRow) -> None:
        """Look at a row's images, now or when a process is free."""
        for name, place in row.images():
            seen = hash((place.name, place.offset))
            if seen in self._seen:
                continue
            self._seen.add(seen)
            if not self.deep:
                self._look(row, name, place)
                continue
            known = self._cache.find(place, perceptual=self.perceptual) if self._cache is not None else None
            if known is not None:
                self.num_cached += 1
                self._done(f"{row.root}\t{name}", known)
                continue
            self._waiting.append((f"{row.root}\t{name}", place))
            if len(self._waiting) == BATCH_IMAGES:
                self._send()

    def finish(self) -> None:
        """Wait for what is still being decoded."""
        if self._waiting:
            self._send()
        while self._running:
            self._collect()
        if self._pool is not None:
            self._pool.shutdown()
        if self._cache is not None:
            self._cache.close()

    def stop(self) -> None:
        """Drop what is waiting; what was decoded stays known."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def prefixes(self) -> list[tuple[str, int, int]]:
        """Return (prefix, present, missing) of each folder that images are named in, those with missing ones first."""
        names = {*self.present, *self.missing}
        if len(names) > MAX_PREFIXES:  # numbered folders, such as LLaVA-Pretrain's 656
            merged: dict[str, str] = {name: name.rpartition("/")[0] for name in names}
        else:
            merged = {name: name for name in names}
        present: Counter[str] = Counter()
        missing: Counter[str] = Counter()
        for name, short in merged.items():
            present[short] += self.present[name]
            missing[short] += self.missing[name]
        rows = [(name or ".", present[name], missing[name]) for name in set(merged.values())]
        return sorted(rows, key=lambda row: (-row[2], row[0]))

    def _look(self, row: CheckedRow, name: str, place: ImagePlace) -> None:
        if place.content is not None or name == row.key:
            self.present[""] += 1
            return
        try:
            size = os.stat(place.file).st_size
        except OSError as error:
            self._missing(row.root, name, error.strerror or str(error))
            self.bad[place.name] = "image-missing"
            return
        self.present[image_prefix(name)] += 1
        self._overlap(name)
        if not size:
            self.findings.add("image-empty", name)
            self.bad[place.name] = "image-empty"

    def _send(self) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"))
        batch, self._waiting = self._waiting, []
        job = self._pool.submit(check_images, [place for _, place in batch], perceptual=self.perceptual)
        self._running.append((job, batch))
        while len(self._running) > 4 * self._workers:
            self._collect()

    def _collect(self) -> None:
        job, batch = self._running.pop(0)
        facts = job.result()
        if self._cache is not None:
            self._cache.store(zip((place for _, place in batch), facts, strict=True))
        for (place, _), found in zip(batch, facts, strict=True):
            self._done(place, found)

    def _done(self, place: str, facts: ImageFacts) -> None:
        root, _, name = place.partition("\t")
        self.num_checked += 1
        if self.progress is not None and self.num_checked % 100 == 0:
            self.progress("decoding images", self.num_checked, None)
        if facts.code == "image-missing":
            self._missing(root, name, facts.detail)
            self.bad[facts.name] = facts.code
            return
        self.present[image_prefix(name)] += 1
        if facts.code:
            self.findings.add(facts.code, name, facts.detail)
            if DEFECTS[facts.code].level == "error":
                self.bad[facts.name] = facts.code
        self._compare(name, facts)

    def _compare(self, name: str, facts: ImageFacts) -> None:
        """See whether another image is the same, or looks the same."""
        self._overlap(name, facts.sha256)
        if facts.sha256:
            first = self._first.setdefault(int(facts.sha256[:15], 16), name)
            if first != name:
                self.findings.add("image-repeated", name, f"the same bytes as {first}")
                return
        if self.perceptual and facts.width:
            alike = self._alike.add(facts.perceptual, name)
            if alike is not None:
                self.findings.add("image-alike", name, f"looks like {alike}")

    def _overlap(self, name: str, sha256: str = "") -> None:
        sets = self.eval_images.sets_of(name, sha256)
        if sets:
            self.eval_sets.update(sets)
            self.findings.add("eval-overlap", name, ", ".join(sorted(sets)))

    def _missing(self, root: str, name: str, reason: str) -> None:
        prefix = image_prefix(name)
        self.missing[prefix] += 1
        self._searched[prefix] += 1
        if self._searched[prefix] <= _SEARCHED and "image-missing" not in self.findings.hints:
            found = find_elsewhere(Path(root), name)
            if found is not None:
                self.findings.hints["image-missing"] = found
        self.findings.add("image-missing", name, reason)


def bad_images(row: CheckedRow, bad: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with each of a row's images that was found bad."""
    for _, place in row.images():
        if place.name in bad:
            yield bad[place.name]
