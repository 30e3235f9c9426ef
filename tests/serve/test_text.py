"""Stop strings, in whatever pieces the text comes."""

import pytest

from croc_cli.serve.text import StopFilter


def filtered(stops: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    sent: list[str] = []
    one = StopFilter(stops, sent.append)
    for piece in pieces:
        one.put(piece)
    one.end()
    return sent, one.stopped


@pytest.mark.parametrize("pieces", [["hello END more"], list("hello END more"), ["hello E", "ND more"]])
def test_text_ends_before_a_stop_string_however_it_is_cut(pieces: list[str]) -> None:
    sent, stopped = filtered(("END",), pieces)
    assert ("".join(sent), stopped) == ("hello ", True)


def test_a_tail_that_could_be_a_stop_string_is_held_back_until_it_is_none() -> None:
    sent: list[str] = []
    one = StopFilter(("END", "###"), sent.append)
    one.put("an EN")
    assert sent == ["an "]
    one.put("ORMOUS #")
    assert sent == ["an ", "ENORMOUS "]
    one.end()
    assert sent == ["an ", "ENORMOUS ", "#"]
    assert not one.stopped


def test_the_first_of_several_stop_strings_counts() -> None:
    assert filtered(("later", "soon"), ["now soon later"]) == (["now "], True)


def test_without_stop_strings_all_is_passed_on_at_once() -> None:
    assert filtered((), ["a", "b"]) == (["a", "b"], False)
