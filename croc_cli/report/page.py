"""Puts figures, tables and pictures into one HTML file that needs nothing else, their files beside it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croc_cli import __version__
from croc_cli.errors import RunError, UsageError
from croc_cli.redact import redact
from croc_cli.report.svg import Figure, standalone, to_csv, variables

PAGE_FILE = "index.html"
Table = list[list[str]]


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Args:
        name: Of its CSV file.
        title: What it shows.
        rows: A header and rows.
        note: A sentence under it.
        rule_before: Number of the row, the header not counted, before which a rule is drawn; None for no rule.
        bold: Numbers of the rows, the header not counted, that stand out.
        words_last: The last column holds words, which may take several lines.
        groups: (what they are, how many) of columns that have a heading in common, from the left; "" for none.
    """

    name: str
    title: str
    rows: Table
    note: str = ""
    rule_before: int | None = None
    bold: frozenset[int] = frozenset()
    words_last: bool = False
    groups: Sequence[tuple[str, int]] = ()

    @property
    def group_of_column(self) -> list[str]:
        """The heading that each column shares with others; empty where the table has no groups."""
        return [group for group, count in self.groups for _ in range(count)]

    @property
    def edges(self) -> frozenset[int]:
        """Numbers of the columns with which a group begins."""
        counts = [count for _, count in self.groups]
        return frozenset(sum(counts[:index]) for index in range(1, len(counts)))

    def for_csv(self) -> Table:
        """Return the rows with each column's group in its own name."""
        head, *rows = self.rows
        groups = self.group_of_column or [""] * len(head)
        return [[f"{cell} ({group})" if group else cell for cell, group in zip(head, groups, strict=True)], *rows]


@dataclass(frozen=True)
class Panel:
    """One picture of a strip.

    Args:
        label: What it is.
        png: The file's content.
    """

    label: str
    png: bytes

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Strip:
    """Pictures beside each other, with the words that belong to them.

    Args:
        name: Of the files.
        panels: The pictures, in order.
        words: (label, text) pairs under them.
    """

    name: str
    panels: Sequence[Panel]
    words: Sequence[tuple[str, str]] = ()


@dataclass
class PageSection:
    """A part of the page under a heading; left out where it holds nothing.

    Args:
        title: The heading.
        text: A paragraph under it.
        figures, tables, strips: What it holds.
        lines: Plain sentences, one paragraph each.
        folded: Show it only when it is opened.
    """

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[PageTable] = ()
    strips: Sequence[Strip] = ()
    lines: Sequence[str] = ()
    folded: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables or self.strips or self.lines)


@dataclass
class Page:
    """A whole page.

    Args:
        title: Name of the run, or of what is compared.
        lead: The sentence under it.
        tiles: (figure, what it is) pairs: the few numbers that matter most.
        warnings: What a reader must know before the rest.
        sections: The parts, in order.
        made_from: Folders that it was made from.
    """

    title: str
    lead: str
    tiles: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sections: list[PageSection] = field(default_factory=list)
    made_from: list[str] = field(default_factory=list)


def write_page(page: Page, folder: Path) -> Path:
    """Write the page, and beside it every figure as SVG and CSV, every table as CSV, every picture as PNG.

    Args:
        page: What it shows.
        folder: Where; made where it is not there. Files of an older page of the same name are replaced.

    Returns:
        The page's file.

    Raises:
        UsageError: The folder cannot be written to.
        RunError: A library that draws the page is missing.
    """
    shown = [section for section in page.sections if not section.empty]
    text = render(page, shown)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in shown:
            _write_files(section, folder)
        unfinished = folder / f".{PAGE_FILE}.unfinished"
        unfinished.write_text(redact(text), encoding="utf-8")
        return unfinished.replace(folder / PAGE_FILE)
    except OSError as error:
        raise UsageError(
            f"the report cannot be written to {folder}: {error.strerror}", hint="--out DIR writes it elsewhere"
        ) from error


def _write_files(section: PageSection, folder: Path) -> None:
    for figure in section.figures:
        (folder / f"{figure.name}.svg").write_text(redact(standalone(figure.svg)), encoding="utf-8")
        (folder / f"{figure.name}.csv").write_text(redact(to_csv(figure.rows)), encoding="utf-8")
    for table in section.tables:
        (folder / f"{table.name}.csv").write_text(redact(to_csv(table.for_csv())), encoding="utf-8")
    for strip in section.strips:
        for number, panel in enumerate(strip.panels):
            (folder / f"{strip.name}-{number}.png").write_bytes(panel.png)


def render(page: Page, sections: Sequence[PageSection]) -> str:
    """Return the page as HTML."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise RunError(f"{error.name} is missing, which draws the report", hint="pip install jinja2") from error
    environment = Environment(
        loader=PackageLoader("croc_cli.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    values: dict[str, Any] = {
        "page": page,
        "sections": sections,
        "light": variables(0),
        "dark": variables(1),
        "version": __version__,
    }
    return environment.get_template("page.html.j2").render(values)
