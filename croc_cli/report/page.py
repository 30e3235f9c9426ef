"""Puts figures, tables and pictures into one HTML file that needs nothing else, their files beside it."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from croc_cli import __version__
from croc_cli.errors import RunError, UsageError
from croc_cli.place import check_place, put_bytes
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
        content: The file's content.
        kind: What file it is.
    """

    label: str
    content: bytes
    kind: Literal["png", "jpeg"] = "png"

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return f"data:image/{self.kind};base64," + base64.b64encode(self.content).decode("ascii")


@dataclass(frozen=True)
class ColourScale:
    """What the colours of a picture mean.

    Args:
        low, high: Words beside its ends.
        colours: From low to high, as CSS writes them.
    """

    low: str
    high: str
    colours: Sequence[str]


@dataclass(frozen=True)
class Strip:
    """Pictures beside each other, with the words that belong to them.

    Args:
        name: Of the files.
        panels: The pictures, in order.
        words: (label, text) pairs under them.
        scale: What colours of the last picture mean; None where they are those of a photograph.
        large: Show them as large as the page allows, smoothly, as photographs.
        smooth: Show them smoothly, as photographs, but no larger than others.
    """

    name: str
    panels: Sequence[Panel]
    words: Sequence[tuple[str, str]] = ()
    scale: ColourScale | None = None
    large: bool = False
    smooth: bool = False


@dataclass(frozen=True)
class Card:
    """A figure, a table or a strip of pictures at its place on the page, whose rows have six columns.

    Args:
        kind: What it holds.
        content: That.
        place: `third`, `pair` (a third that begins a row of two), `two-thirds` or `wide`.
        last: The last of an odd number of thirds, which stands alone where only two fit beside each other.
    """

    kind: Literal["figure", "table", "strip"]
    content: Figure | PageTable | Strip
    place: str
    last: bool = False


def thirds_in_rows(count: int) -> list[str]:
    """Return the place of each of so many narrow cards: rows of three, and no card alone in a row of its own."""
    pairs = {0: 0, 1: 2, 2: 1}[count % 3] if count > 1 else 0
    threes = ["third"] * (count - 2 * pairs)
    return threes + ["pair", "third"] * pairs


@dataclass
class PageSection:
    """A part of the page under a heading; left out where it holds nothing.

    Args:
        title: The heading.
        text: A paragraph under it.
        figures, tables, strips: What it holds.
        lines: Plain sentences, one paragraph each.
        pieces: (kind, text) of a text whose parts are coloured by kind: trained, context, visual.
        folded: Show it only when it is opened.
        link: (words, file) of another page that belongs to it.
    """

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[PageTable] = ()
    strips: Sequence[Strip] = ()
    lines: Sequence[str] = ()
    pieces: Sequence[tuple[str, str]] = ()
    folded: bool = False
    link: tuple[str, str] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables or self.strips or self.lines or self.pieces)

    @property
    def cards(self) -> list[Card]:
        """What it holds, in order: tables, then what takes the page's width, then narrow cards."""
        narrow: list[tuple[Literal["figure", "strip"], Figure | Strip]] = []
        narrow += [("strip", strip) for strip in self.strips if len(strip.panels) <= 1 and not strip.large]
        narrow += [("figure", figure) for figure in self.figures if not figure.wide]
        cards = [Card("table", table, "wide") for table in self.tables]
        wide = [Card("strip", strip, "wide") for strip in self.strips if len(strip.panels) > 1 or strip.large]
        wide += [Card("figure", figure, "wide") for figure in self.figures if figure.wide]
        if len(narrow) == 1 and cards:
            cards[-1] = replace(cards[-1], place="two-thirds")
            return [*cards, Card(*narrow[0], "third", last=True), *wide]
        places = thirds_in_rows(len(narrow))
        odd = len(narrow) % 2 == 1
        thirds = [
            Card(*one, place, last=odd and number == len(narrow))
            for number, (one, place) in enumerate(zip(narrow, places, strict=True), start=1)
        ]
        return [*cards, *wide, *thirds]


@dataclass
class Page:
    """A whole page.

    Args:
        title: Name of the run, or of what is compared.
        lead: The sentence under it.
        tiles: (figure, what it is) pairs: the few numbers that matter most.
        warnings: What a reader must know before the rest.
        findings: (what is unusual, name of the figure that shows it) pairs; empty for a figure that the page lacks.
        sections: The parts, in order.
        made_from: Folders that it was made from.
        is_alone: One file, beside which no figures and tables lie.
        others: Name → HTML of pages that it links to.
    """

    title: str
    lead: str
    tiles: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    findings: list[tuple[str, str]] = field(default_factory=list)
    sections: list[PageSection] = field(default_factory=list)
    made_from: list[str] = field(default_factory=list)
    is_alone: bool = False
    others: dict[str, str] = field(default_factory=dict)


def write_page(page: Page, folder: Path) -> Path:
    """Write the page, and beside it every figure as SVG and CSV, every table as CSV, every picture as PNG.

    Args:
        page: What it shows.
        folder: Where; made where it is not there. Files of an older page are replaced.

    Returns:
        The page's file.

    Raises:
        UsageError: The folder cannot be written to, or holds a file of one of the names that croc did not make.
        RunError: A library that draws the page is missing.
    """
    shown = [section for section in page.sections if not section.empty]
    text = render(page, shown)
    files = {name: content for section in shown for name, content in _files(section)}
    files |= {name: redact(html).encode() for name, html in ({PAGE_FILE: text} | page.others).items()}
    for name in files:  # all of them first: half a page must not lie among a user's files
        check_place(folder / name)
    try:
        for name, content in files.items():
            put_bytes(folder / name, content)
        return folder / PAGE_FILE
    except OSError as error:
        raise UsageError(
            f"the report cannot be written to {folder}: {error.strerror}", hint="--out DIR writes it elsewhere"
        ) from error


def _files(section: PageSection) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files that lie beside the page."""
    for figure in section.figures:
        yield f"{figure.name}.svg", redact(standalone(figure.svg)).encode()
        yield f"{figure.name}.csv", redact(to_csv(figure.rows)).encode()
    for table in section.tables:
        yield f"{table.name}.csv", redact(to_csv(table.for_csv())).encode()
    for strip in section.strips:
        for number, panel in enumerate(strip.panels):
            yield f"{strip.name}-{number}.{panel.kind}", panel.content


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
