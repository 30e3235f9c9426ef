import pytest

from croc_cli.recipe.issues import nearest, number_meant


@pytest.mark.parametrize(
    ("value", "share", "whole", "meant"),
    [
        (75, True, False, "0.75"),
        ("75", True, False, "0.75"),
        ("75 %", True, False, "0.75"),
        ("0,75", True, False, "0.75"),
        ("1.5", True, False, "0.015"),
        ("750", True, False, None),
        ("-1", True, False, None),
        ("2,048", False, True, "2048"),
        ("1k", False, True, "1000"),
        ("1.5M", False, True, "1500000"),
        ("2.5", False, True, None),
        ("3%", False, False, "0.03"),
        ("1,5", False, False, "1.5"),
        ("-1", False, True, None),
        ("many", False, True, None),
        ([0.9, 2], True, False, None),
        ("", False, False, None),
    ],
)
def test_a_wrong_number_is_read_as_it_was_likely_meant(
    value: object, share: bool, whole: bool, meant: str | None
) -> None:
    assert number_meant(value, is_share=share, is_whole=whole) == meant


def test_the_nearest_word_is_found_whatever_its_case() -> None:
    assert nearest("ALPHA_B", ["alpha_b", "beta"]) == "alpha_b"
    assert nearest("alpha_c", ["ALPHA_B", "BETA"]) == "ALPHA_B"
    assert nearest("zzz", ["alpha"]) is None
