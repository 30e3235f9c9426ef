from pathlib import Path

import pytest

from croc_cli.report.page import PageSection, PageTable, Panel, Strip, thirds_in_rows
from croc_cli.report.svg import Figure


def figure(name: str, *, wide: bool = False) -> Figure:
    return Figure(name, name, "<svg></svg>", [["a"]], wide=wide)


@pytest.mark.parametrize(("count", "rows"), [(2, "2"), (3, "3"), (4, "22"), (5, "32"), (7, "322"), (8, "332")])
def test_no_narrow_card_stands_alone_in_a_row(count: int, rows: str) -> None:
    places = thirds_in_rows(count)
    assert len(places) == count
    assert places.count("pair") == rows.count("2")
    assert count - 2 * places.count("pair") == 3 * rows.count("3")


def test_one_narrow_card_stands_beside_a_table() -> None:
    section = PageSection("x", tables=[PageTable("t", "t", [["a"]])], figures=[figure("one")])
    assert [(card.kind, card.place) for card in section.cards] == [("table", "two-thirds"), ("figure", "third")]


def test_one_picture_never_takes_a_whole_row() -> None:
    single, several = Strip("s", [Panel("p", b"")]), Strip("m", [Panel("p", b"")] * 3)
    section = PageSection("x", strips=[single, several], figures=[figure("w", wide=True), figure("n")])
    assert [(card.kind, card.place) for card in section.cards] == [
        ("strip", "wide"),
        ("figure", "wide"),
        ("strip", "pair"),
        ("figure", "third"),
    ]


def test_a_strip_says_what_its_colours_mean(tmp_path: Path) -> None:
    from croc_cli.report.model_figures import EXPLAINED_SCALE
    from croc_cli.report.page import Page, write_page

    strip = Strip("s", [Panel("p", b""), Panel("q", b"")], scale=EXPLAINED_SCALE)
    page = write_page(Page("t", "l", sections=[PageSection("x", strips=[strip])]), tmp_path)
    assert "explained share 0 or less" in page.read_text()
