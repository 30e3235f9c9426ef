"""Columns of a table to a conversation: question and answer, with what was said before."""

import pytest

from croc_cli.sources.read.columns import Columns, convert, guess_columns

ALPACA = {"instruction": "And in French?", "input": "", "output": "rouge", "system": "Be brief.", "history": []}


def converted(record: dict[str, object]) -> list[str] | str:
    done = convert(record, Columns(**guess_columns(list(record))), row_id="r")
    if done.defect is not None:
        return f"{done.defect[0]}: {done.defect[1]}"
    assert done.row is not None
    assert [turn["from"] for turn in done.row["conversations"]] == ["human", "gpt"] * (
        len(done.row["conversations"]) // 2
    )
    return [turn["value"] for turn in done.row["conversations"]]


def test_earlier_pairs_become_earlier_turns_and_the_system_text_begins_the_first_question() -> None:
    record = {**ALPACA, "history": [["What colour?", "red"], ["In German?", "rot"]]}
    assert converted(record) == ["Be brief.\n\nWhat colour?", "red", "In German?", "rot", "And in French?", "rouge"]


@pytest.mark.parametrize("history", [None, []])
def test_without_earlier_pairs_a_row_is_one_question(history: object) -> None:
    assert converted({**ALPACA, "history": history}) == ["Be brief.\n\nAnd in French?", "rouge"]
    assert converted({**ALPACA, "history": history, "system": None}) == ["And in French?", "rouge"]


@pytest.mark.parametrize("history", ["said before", [["alone"]], [["a", None]], [["a", 7]], [{"a": "b"}]])
def test_a_history_that_is_no_pairs_of_texts_is_a_defect(history: object) -> None:
    found = converted({**ALPACA, "history": history})
    assert isinstance(found, str)
    assert found.startswith("value-not-text: history")
