"""OCRBench: an answer is right that contains one of the right texts."""

from __future__ import annotations

from collections.abc import Sequence


def ocr_is_right(text: str, answers: Sequence[str], *, is_formula: bool) -> bool:
    """Tell whether an answer contains a right text; an empty right text is contained in every answer.

    Args:
        text: The answer.
        answers: The right texts.
        is_formula: Compare with case and without any space; otherwise without case.
    """
    said = _bare(text, is_formula=is_formula)
    return any(_bare(answer, is_formula=is_formula) in said for answer in answers)


def _bare(text: str, *, is_formula: bool) -> str:
    if is_formula:
        return text.strip().replace("\n", " ").replace(" ", "")
    return text.lower().strip().replace("\n", " ")
