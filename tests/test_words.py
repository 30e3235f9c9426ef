from croc_cli.words import counted, wrapped


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
