"""`croc data sources`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from croc_cli.sources.known.source import Source, SourceFile

EPILOG = "Example: croc data sources sharegpt4v-pt"
CatalogOption = Annotated[
    list[Path] | None,
    typer.Option("--catalog", metavar="FILE", help="Your own catalogue file, in the format of the shipped ones"),
]
_GROUPS = {
    "align": "stage 1, align",
    "reconstruct": "stage 1.5, reconstruct",
    "finetune": "stage 2, finetune",
    "finetune-800k": "stage 2, the 800K alternative",
    "images": "images",
    "eval": "benchmarks",
    "own": "your own",
}


def sources(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Show all details of these; default: list all")
    ] = None,
    catalog: CatalogOption = None,
) -> None:
    """List the sources: rows, size, licence, how each is had."""
    from croc_cli.console import result
    from croc_cli.sources.known.catalog import all_sources, find_source

    if names:
        result("\n\n".join(describe(find_source(name, catalog or ())) for name in names))
        return
    known = all_sources(catalog or ())
    rows: list[tuple[str, ...]] = [("name", "rows", "download", "how", "licence")]
    rows += [_row(source) for source in known.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]

    def line(row: tuple[str, ...]) -> str:
        return (
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:<{widths[3]}}  {row[4]}"
        ).rstrip()

    lines = [line(rows[0])]
    for group, title in _GROUPS.items():
        members = [source for source in known.values() if source.group == group]
        if members:
            lines += ["", f"{title}:", *(line(_row(source)) for source in members)]
    result("\n".join(lines))


def describe(source: "Source") -> str:
    """Return all that the catalogue says of a source."""
    from croc_cli.progress import size_text

    terms = [source.licence]
    terms += ["non-commercial"] if source.non_commercial else []
    terms += ["text by a GPT model"] if source.gpt_derived else []
    lines = [f"{source.name}: {source.title or 'no title'}", f"  licence: {'; '.join(terms)}"]
    facts = {
        "rows": f"{source.rows:,}" if source.rows else None,
        "page": source.homepage,
        "annotation": source.annotation,
        "image root": source.image_root,
        "images from": ", ".join(dict.fromkeys(source.images.values())) or None,
        "needs": ", ".join(source.needs) or None,
        "note": source.note or None,
    }
    lines += [f"  {name}: {value}" for name, value in facts.items() if value]
    for file in source.files:
        size = file.expected_bytes
        shown = f"  {size_text(size)}" if size else ""
        lines.append(f"  {origin(file)} → {place(file)}{shown}")
    lines += [f"  not verified: {fact}" for fact in source.unverified]
    return "\n".join(lines)


def origin(file: "SourceFile") -> str:
    """Return how a file is had, in a line."""
    if file.kind == "hub":
        return f"hub {file.repo_type} {file.repo}, {file.path} @ {file.revision}"
    if file.kind == "web":
        return file.url
    if file.kind == "url_list":
        return f"img2dataset, URLs in {file.path}"
    if file.kind == "sam":
        return f"form, {file.names[0]} to {file.names[-1]}"
    if file.kind == "by_hand":
        return f"by hand: {file.how} ({file.page})"
    return f"link to {file.target}"


def place(file: "SourceFile") -> str:
    """Return where a file lands below the data root."""
    unpacking = getattr(file, "unpack", None)
    return str(unpacking.to if unpacking is not None else file.to)


def _row(source: "Source") -> tuple[str, ...]:
    from croc_cli.progress import size_text

    size = source.expected_bytes
    shown = size_text(size) if size else "unknown"
    shown = f"> {shown}" if size and not source.size_is_known else shown
    words = {"hub": "hub", "web": "archive", "url_list": "URL list", "sam": "form", "by_hand": "by hand"}
    how = dict.fromkeys(
        "file" if file.kind == "web" and file.unpack is None else words[file.kind]
        for file in source.files
        if file.kind != "link"
    )
    rows = f"{source.rows:,}" if source.rows else ("–" if source.group == "images" else "unknown")
    return source.name, rows, shown, ", ".join(how), source.licence
