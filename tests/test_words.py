import pytest

from croc_cli.words import counted, shown, table_cell, wrapped


def test_a_number_has_the_right_form_of_its_noun() -> None:
    assert [counted(number, "step") for number in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]
    assert counted(1, "copy", "copies") == "1 copy"
    assert counted(2, "copy", "copies") == "2 copies"


def test_lines_break_between_words_and_never_inside_a_command() -> None:
    text = "hint: `croc align mine.yaml` makes it; --from DIR starts from another checkpoint"
    assert wrapped(text, width=34) == (
        "hint: `croc align mine.yaml` makes\nit; --from DIR starts from another\ncheckpoint"
    )
    assert wrapped("see `croc data verify mine.yaml --deep`", width=20) == "see\n`croc data verify mine.yaml --deep`"


def test_a_long_word_tables_and_short_lines_stay_as_they_are() -> None:
    assert wrapped("/a/very/long/path/that/has/no/blank", width=10) == "/a/very/long/path/that/has/no/blank"
    assert wrapped("name    value    unit", width=10) == "name    value    unit"
    assert wrapped("  deeper words here", width=12) == "  deeper\n  words here"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 漢 🐊\n\ttab", "plain é 漢 🐊\n\ttab"),
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("a\rb\x00\x7f\x9b", "a\\rb\\x00\\x7f\\x9b"),
        ("gpj.\u202etxt\u2066", "gpj.\\u202etxt\\u2066"),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_what_steers_a_terminal_is_written_as_escapes(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        (" =1", "' =1"),
        ("\t=1", "'\t=1"),
        ("-0.5", "-0.5"),
        ("+1,234.5%", "+1,234.5%"),
        ("a=b", "a=b"),
        (-3, -3),
        (None, None),
    ],
)
def test_a_cell_that_a_spreadsheet_would_run_is_text(cell: object, expected: object) -> None:
    assert table_cell(cell) == expected
