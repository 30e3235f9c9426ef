"""Makes a mix: from its sources' files to rows.jsonl, index arrays and manifest.json in one folder."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from croc_cli import __version__
from croc_cli.errors import RunError, UsageError
from croc_cli.place import growing_folder
from croc_cli.run_dir import sha256_of, write_json
from croc_cli.sources.mix.draw import draw, row_keys
from croc_cli.sources.mix.mix_rows import RowsWriter
from croc_cli.sources.read.index import LENGTHS_FOLDER, MIX_KIND, ROWS_NAME, order_hash, write_index
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.manifest import MANIFEST_NAME, Manifest, SourceRecord, read_manifest
from croc_cli.sources.read.reader import Reader
from croc_cli.sources.read.readers import open_source
from croc_cli.sources.read.rows import ROW_DEFECTS
from croc_cli.sources.read.scan import FILTERED, Progress, Scan, scan_source
from croc_cli.sources.read.spec import MixSpec, SourceSpec

DUPLICATE = "duplicate"
NOT_DRAWN = "not drawn"


def build_mix(spec: MixSpec, out: Path, *, progress: Progress | None = None) -> Manifest:
    """Make a mix.

    Each source is read twice at most: once to see which rows can be drawn, once to write those that were. The order is
    by a hash of seed, source and row, so the same specification gives the same mix anywhere, and one more source moves
    no other row against the rest. The folder appears whole or not at all.

    Args:
        spec: What goes into it, as `sources.recipe_mix.mix_spec(recipe, stage)` gives it for a recipe's stage.
        out: Its folder; an old mix there is replaced once the new one is complete.
        progress: Told how far it is.

    Raises:
        UsageError: Something lies at `out` that is not a mix of croc's; or a source is missing, unreadable, has too few
            rows, or too many that are defective.
        RunError: The disk is full, or cannot be written.
    """
    readers = [open_source(source) for source in spec.sources]  # before any folder is made
    try:
        with growing_folder(out, kind=MIX_KIND, later=(LENGTHS_FOLDER,)) as growing:
            return _build(spec, readers, growing, out, progress)
    except OSError as error:
        raise RunError(f"mix {out}: {error.strerror or error}", hint="free some disk, then run it again") from error


def is_current(spec: MixSpec, folder: Path) -> bool:
    """Tell whether a folder holds this very mix, made of files that have not changed since."""
    try:
        manifest = read_manifest(folder)
    except UsageError:  # no mix there, or one of another version
        return False
    if manifest.fingerprint != spec.fingerprint():
        return False
    now = [tuple(_file_states(open_source(source))) for source in spec.sources]
    return now == [tuple(record.files) for record in manifest.sources]


def _build(spec: MixSpec, readers: Sequence[Reader], folder: Path, out: Path, progress: Progress | None) -> Manifest:
    import numpy as np

    scans = []
    chosen: list[Any] = []
    seen: set[int] = set()
    for source, reader in zip(spec.sources, readers, strict=True):
        scan = scan_source(reader, source.filter, name=source.name, progress=progress)
        _check_defects(source, scan)
        keep = _not_seen(scan, seen) if spec.drop_duplicates else np.arange(len(scan.rows))
        positions = _draw(source, scan, keep)
        scan.dropped[NOT_DRAWN] = len(keep) - len(positions)
        scans.append(scan)
        chosen.append(positions)
    if not sum(map(len, chosen)):
        lost = "; ".join(_notes(spec, scans)) or "the sources have none to draw"
        raise DataError(f"mix {spec.name}: no row is left: {lost}", hint="look at the sources with `croc data verify`")
    with RowsWriter(folder, total=sum(map(len, chosen)), progress=progress) as writer:
        for number, (source, reader, scan, positions) in enumerate(
            zip(spec.sources, readers, scans, chosen, strict=True)
        ):
            writer.write(number, source, reader, scan, positions)
    arrays = writer.arrays(scans, chosen)
    keys = [
        row_keys(np.asarray(scan.rows, dtype=np.uint32)[positions], purpose="order", seed=spec.seed, source=source.name)
        for source, scan, positions in zip(spec.sources, scans, chosen, strict=True)
    ]
    order = np.argsort(np.concatenate(keys), kind="stable")
    for name in list(arrays):
        arrays[name] = arrays[name][order]
    write_index(folder, arrays)
    records = tuple(
        _record(source, reader, scan, len(positions), spec.data_root, writer.stored_images(number), out)
        for number, (source, reader, scan, positions) in enumerate(
            zip(spec.sources, readers, scans, chosen, strict=True)
        )
    )
    manifest = Manifest(
        name=spec.name,
        sources=records,
        rows=len(order),
        image_rows=int((arrays["images"] > 0).sum()),
        text_rows=int((arrays["images"] == 0).sum()),
        bytes=(folder / ROWS_NAME).stat().st_size,
        duplicates=_count_repeated(scans, chosen),
        seed=spec.seed,
        order_sha256=order_hash([source.name for source in spec.sources], arrays),
        fingerprint=spec.fingerprint(),
        data_root=os.path.relpath(spec.data_root, out),
        made_with=__version__,
        notes=tuple(_notes(spec, scans)),
    )
    write_json(folder / MANIFEST_NAME, manifest.as_dict())
    return manifest


def _draw(source: SourceSpec, scan: Scan, keep: Any) -> Any:
    """Return which of the scan's rows are taken, in order."""
    import numpy as np

    if source.count is None and source.fraction is None:
        return keep
    count = source.count if source.count is not None else round((source.fraction or 0.0) * len(keep))
    if count > len(keep):
        lost = ", ".join(f"{number:,} {reason}" for reason, number in scan.dropped.most_common() if number)
        detail = f" of {scan.num_rows:,} rows ({lost})" if lost else ""
        raise DataError(
            f"source {source.name}: count is {count:,}, but only {len(keep):,}{detail} can be drawn",
            hint=f"set its count to {len(keep)} at most, or leave count out to take all",
        )
    rows = np.asarray(scan.rows, dtype=np.uint32)[keep]
    return keep[draw(rows, count, seed=source.seed, source=source.name)]


def _check_defects(source: SourceSpec, scan: Scan) -> None:
    if not scan.num_rows:
        raise DataError(f"source {source.name}: {source.path} has no rows")
    if scan.num_defective <= source.max_dropped * scan.num_rows:
        return
    lines = [
        f"  {number:,} × {ROW_DEFECTS[code].text} ({'; '.join(scan.examples[code][:2])})"
        for code, number in scan.dropped.most_common()
        if code in ROW_DEFECTS
    ]
    share = scan.num_defective / scan.num_rows
    raise DataError(
        "\n".join(
            [
                f"source {source.name}: {scan.num_defective:,} of {scan.num_rows:,} rows ({share:.1%}) are defective,"
                f" more than its max_dropped = {source.max_dropped:g}:",
                *lines,
            ]
        ),
        hint=f"`croc data verify {source.path}` lists them all, --fix writes a copy without them;"
        " max_dropped: 1.0 leaves them out",
    )


def _not_seen(scan: Scan, seen: set[int]) -> Any:
    """Return the rows whose content was not seen before, and count the others as dropped."""
    import numpy as np

    keep = []
    for position, content in enumerate(scan.contents):
        if content not in seen:
            seen.add(content)
            keep.append(position)
    if len(keep) < len(scan.contents):
        scan.dropped[DUPLICATE] = len(scan.contents) - len(keep)
    return np.asarray(keep, dtype=np.intp)


def _count_repeated(scans: list[Scan], chosen: list[Any]) -> int:
    import numpy as np

    contents = [np.asarray(scan.contents)[positions] for scan, positions in zip(scans, chosen, strict=True)]
    joined = np.sort(np.concatenate(contents))
    return int((joined[1:] == joined[:-1]).sum())


def _record(
    source: SourceSpec, reader: Reader, scan: Scan, rows: int, root: Path, stored: bool, out: Path
) -> SourceRecord:
    image_root = out if stored else reader.image_root
    dropped = {reason: number for reason, number in sorted(scan.dropped.items()) if number}
    return SourceRecord(
        name=source.name,
        catalog=source.catalog,
        path=relative_to_root(source.path, root),
        image_root=relative_to_root(image_root, root) if image_root is not None else None,
        revision=source.revision,
        sha256=_files_hash(reader.files),
        licence=source.licence,
        rows_in=scan.num_rows,
        rows_out=rows,
        dropped=dropped,
        seed=source.seed,
        files=tuple(_file_states(reader)),
    )


def relative_to_root(path: Path, root: Path) -> str:
    """Return a path from the data root where it lies below it, else the absolute one."""
    absolute = Path(os.path.abspath(path))
    base = Path(os.path.abspath(root))
    return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)


def _file_states(reader: Reader) -> list[tuple[str, int, int]]:
    return [(file.name, (state := file.stat()).st_size, state.st_mtime_ns) for file in reader.files]


def _files_hash(files: tuple[Path, ...]) -> str:
    """Return the sha256 of a file; of the lines of `sha256sum` where there are several."""
    hashes = [(sha256_of(file), file.name) for file in files]
    if len(hashes) == 1:
        return hashes[0][0]
    return hashlib.sha256("".join(f"{value}  {name}\n" for value, name in hashes).encode()).hexdigest()


def _notes(spec: MixSpec, scans: list[Scan]) -> list[str]:
    notes = []
    for source, scan in zip(spec.sources, scans, strict=True):
        if source.expected_rows is not None and scan.num_rows != source.expected_rows:
            notes.append(
                f"source {source.name} has {scan.num_rows:,} rows; {source.expected_rows:,} are known of it,"
                " so it may be another file or revision"
            )
        for reason, number in scan.dropped.items():
            if reason in ROW_DEFECTS:
                first = scan.examples[reason][0]
                notes.append(f"source {source.name}: left out {number:,} × {ROW_DEFECTS[reason].text} ({first})")
        if scan.dropped[FILTERED] == scan.num_rows:
            notes.append(f"source {source.name}: its filters leave nothing")
    return notes
