"""What a fetch would bring: sources, bytes to download and on disk, free disk, licences, what a person has to do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from croc_cli.errors import UsageError
from croc_cli.files import free_disk
from croc_cli.names import STAGES
from croc_cli.recipe.schema import MixData, Recipe
from croc_cli.sources.fetch.state import state_of
from croc_cli.sources.known.catalog import find_source, matching_images
from croc_cli.sources.known.record import FetchRecord
from croc_cli.sources.known.source import HubFile, SamTars, Source, SourceFile, WebFile
from croc_cli.sources.mix.recipe_mix import recipe_sources

ASK_ABOVE = 10**9
"""Bytes that are downloaded without asking."""


@dataclass(frozen=True)
class PlannedSource:
    """One source of a plan.

    Args:
        source: Of the catalogue.
        done: Everything of it is here.
        download_bytes: Left to download, as far as sizes are known.
        disk_bytes: What it will take on disk more than now, once archives are unpacked and removed.
        peak_bytes: The largest archive, which lies beside its files while it is unpacked.
        is_exact: Whether every size is known, at least about.
        notes: What a person has to do, and what is missing for good.
    """

    source: Source
    done: bool
    download_bytes: int
    disk_bytes: int
    peak_bytes: int
    is_exact: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a fetch would bring.

    Args:
        root: The data root.
        sources: In the order in which they are fetched.
        free_bytes: Of the root's disk.
        savings: (what to do instead, bytes that it would save) each.
    """

    root: Path
    sources: tuple[PlannedSource, ...]
    free_bytes: int
    savings: tuple[tuple[str, int], ...] = field(default=())

    @property
    def download_bytes(self) -> int:
        """Left to download, as far as sizes are known."""
        return sum(planned.download_bytes for planned in self.sources)

    @property
    def disk_bytes(self) -> int:
        """What the sources will take on disk more than now."""
        return sum(planned.disk_bytes for planned in self.sources)

    @property
    def peak_bytes(self) -> int:
        """Most disk that is taken at any time: all sources, and the largest archive beside its files."""
        return self.disk_bytes + max((planned.peak_bytes for planned in self.sources), default=0)

    @property
    def fits(self) -> bool:
        """Whether the disk has room for it."""
        return self.peak_bytes <= self.free_bytes

    @property
    def asks(self) -> bool:
        """Whether a user is to be asked before it is begun."""
        unknown = any(not planned.is_exact and not planned.done for planned in self.sources)
        return self.download_bytes > ASK_ABOVE or unknown


def make_plan(sources: Sequence[Source], root: Path, *, savings: Iterable[tuple[str, int]] = ()) -> Plan:
    """Return what is left to fetch of sources; no network is used."""
    planned = tuple(_planned(source, root) for source in sources)
    return Plan(root, planned, free_disk(root), tuple(savings))


def sources_by_name(
    names: Sequence[str], *, catalogs: Iterable[str | Path] = (), without: Sequence[str] = ()
) -> list[Source]:
    """Return sources with those that they need (images first), without some.

    Raises:
        UsageError: A name is unknown.
    """
    catalogs = tuple(catalogs)
    found: dict[str, Source] = {}
    for name in names:
        source = find_source(name, catalogs)
        for needed in (*source.needs, *matching_images(source)):
            found.setdefault(needed, find_source(needed, catalogs))
        found.setdefault(name, source)
    return _without(found, without, catalogs)


def sources_of_recipe(
    recipe: Recipe, *, catalogs: Iterable[str | Path] = (), without: Sequence[str] = ()
) -> list[Source]:
    """Return the catalogue's sources that a recipe's enabled stages need, their images as far as filters let them.

    Raises:
        UsageError: The recipe names a source that no catalogue has.
    """
    catalogs = tuple(catalogs)
    found: dict[str, Source] = {}
    for stage in STAGES:
        data = recipe.data.source(stage)
        if not recipe.stage(stage).enabled or not isinstance(data, MixData):
            continue
        for key, entry in recipe_sources(recipe, stage).items():
            name = entry.source or (key if entry.path is None else None)
            if name is None:
                continue
            source = find_source(name, catalogs)
            filters = entry.filters
            images = matching_images(
                source,
                prefixes=filters.image_prefixes,
                not_prefixes=filters.not_image_prefixes,
                modality=filters.modality,
            )
            for needed in (*source.needs, *images):
                found.setdefault(needed, find_source(needed, catalogs))
            found.setdefault(name, source)
    return _without(found, without, catalogs)


def _without(found: dict[str, Source], without: Sequence[str], catalogs: tuple[str | Path, ...]) -> list[Source]:
    for name in without:
        if name not in found:
            find_source(name, catalogs)
            raise UsageError(f"--without {name}: it is not part of this fetch", hint=f"it has {', '.join(found)}")
        del found[name]
    return list(found.values())


def _planned(source: Source, root: Path) -> PlannedSource:
    record = FetchRecord(root, source.name)
    states = [(file, state_of(file, source, root, record)) for file in source.files]
    left = [(file, state) for file, state in states if not state.done]
    notes = [state.note for _, state in states if state.note]
    if source.gated:
        notes.append(f"requires a login and consent at {source.homepage}, and HF_TOKEN")
    if any(isinstance(file, SamTars) for file, _ in left):
        notes.append(f"wants a form at {source.homepage}: --sam-links FILE takes the file that it hands out")
    is_needed = [file for file, _ in left if not (file.kind == "by_hand" and file.optional)]
    return PlannedSource(
        source,
        done=not is_needed,
        download_bytes=sum(state.bytes_left or 0 for _, state in left),
        disk_bytes=sum(_disk_bytes(file, state.bytes_left or 0) for file, state in left),
        peak_bytes=max((_archive_bytes(file) for file, _ in left), default=0),
        is_exact=all(state.bytes_left is not None for file, state in left if file.kind != "by_hand"),
        notes=tuple(notes),
    )


def _disk_bytes(file: SourceFile, bytes_left: int) -> int:
    if isinstance(file, SamTars) and file.about and file.about_unpacked:
        return round(bytes_left * file.about_unpacked / file.about)
    return bytes_left


def _archive_bytes(file: SourceFile) -> int:
    """Return the bytes of an archive that lies beside its files while it is unpacked."""
    if isinstance(file, HubFile | WebFile) and file.unpack is not None:
        return file.expected_bytes or 0
    if isinstance(file, SamTars):
        return (file.about or 0) // len(file.names)
    return 0
