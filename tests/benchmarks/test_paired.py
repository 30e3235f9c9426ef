"""Paired tests of two runs: the same questions found, intervals, McNemar's exact p, and which answers flipped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from croc_cli.benchmarks.paired import Paired, change, flip_rows, pair_runs, paired_rows
from tests.commands.croc import croc


def items(scores: Sequence[float], *, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    words = {"picture": "p.png", "expected": "yes", "text": "Yes"}
    return [
        {"question_id": number, "prompt": f"Is there a dog {number}?", **words, "score": score, **more}
        for number, score in enumerate(scores, start=start)
    ]


def write_run(folder: Path, name: str, rows: Sequence[dict[str, Any]], *, value: float | None = None) -> Path:
    (folder / "benchmarks" / "items").mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks" / "items" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mean = 100 * sum(row["score"] for row in rows) / len(rows)
    entry = {"value": mean if value is None else value, "num_questions": len(rows), "num_answered": len(rows)}
    (folder / "benchmarks" / "results.json").write_text(json.dumps({"benchmarks": {name: entry}}))
    return folder


def paired(first: Sequence[float], second: Sequence[float], **more: Any) -> Paired:
    pairs = list(zip(items(first, **more), items(second, **more), strict=True))
    return Paired("pope", pairs, (len(first), len(second)))


def test_mcnemars_p_is_the_exact_binomial_of_the_flips() -> None:
    both = paired([1, 1, 1, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0, 1])
    assert (len(both.better), len(both.worse)) == (1, 5)
    assert both.mcnemar() == pytest.approx(2 * (1 + 6) / 2**6)  # 1 flip or none of 6, both sides
    assert paired([1, 0], [1, 0]).mcnemar() == 1.0
    assert paired([0, 0], [1, 1]).mcnemar() == pytest.approx(0.5)


def test_the_interval_is_of_the_difference_and_the_same_every_time() -> None:
    first, second = [1.0, 0.0] * 100, [1.0, 0.0] * 95 + [1.0] * 10
    both = paired(first, second)
    interval = both.headline.interval()
    assert both.headline.value == pytest.approx(2.5)
    assert interval is not None
    assert interval == paired(first, second).headline.interval()
    # Of unpaired runs it would be about ±10 points wide.
    assert 0 <= interval[0] < 2.5 < interval[1] < 6


def test_questions_of_one_unit_are_drawn_together() -> None:
    scores = [([0.0] * 8, [1.0] * 8), ([1.0] * 8, [0.0] * 8)] * 4
    pairs = [
        pair
        for unit, (first, second) in enumerate(scores)
        for pair in zip(items(first, unit=unit), items(second, unit=unit), strict=True)
    ]
    both = Paired("mmbench", pairs, (64, 64))
    units = both.headline.interval()
    assert both.notes() == ["mmbench: McNemar's test takes questions as independent, and some belong together"]
    alone = paired([0.0, 1.0] * 32, [1.0, 0.0] * 32).headline.interval()
    assert units is not None
    assert alone is not None
    assert units[1] > 2 * alone[1]


def test_scores_in_between_have_an_interval_but_no_mcnemar_and_the_note_says_why() -> None:
    both = paired([0.3, 1.0], [0.6, 1.0])
    assert both.mcnemar() is None
    assert both.cells()[-1] == "–"
    assert "no McNemar's test, which needs answers that are right or wrong" in both.notes()[0]
    assert change(both.better[0]) == "0.3 → 0.6"


def test_a_judges_points_are_not_made_percent() -> None:
    assert paired([7.0, 9.0], [8.0, 9.0]).cells()[1] == "+0.5"


def test_runs_on_other_questions_are_compared_on_the_common_ones(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", "gqa", items([1, 1, 0, 0])),
        write_run(tmp_path / "b", "gqa", items([0, 1], start=2)),
    ]
    entries = {str(run): {"gqa": {"value": 50.0}} for run in runs}
    pairs, notes = pair_runs(entries, runs)
    assert len(pairs["gqa"].pairs) == 2
    assert notes[0] == "gqa: the runs have scores of 4 questions and 2 questions; the tests use the 2 that both have"
    write_run(tmp_path / "b", "gqa", items([1, 1], start=9))
    pairs, notes = pair_runs(entries, runs)
    assert pairs == {}
    assert notes == ["gqa: the runs have scores of 4 questions and 2 questions; none is in both"]


def test_a_question_asked_twice_and_one_id_with_two_prompts_keep_their_own_answers(tmp_path: Path) -> None:
    asked = [*items([1, 0]), *items([0, 1])]
    asked += [{**asked[0], "prompt": "Is there a cat?", "score": 0}]
    runs = [write_run(tmp_path / name, "mme", asked) for name in "ab"]
    entries = {str(run): {"mme": {"value": 40.0}} for run in runs}
    [found] = pair_runs(entries, runs)[0].values()
    assert len(found.pairs) == 5
    assert found.differences == [0.0] * 5


def test_a_run_without_single_answers_and_damaged_ones_are_survived(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", "gqa", items([1, 0]))
    second = write_run(tmp_path / "b", "gqa", items([1, 0]))
    entries = {str(run): {"gqa": {"value": 50.0}} for run in (first, second)}
    file = second / "benchmarks" / "items" / "gqa.jsonl"
    file.write_text('{"score": "high"}\n{"score": NaN}\n{half\n[]\n')
    pairs, notes = pair_runs(entries, [first, second])
    assert pairs == {}
    assert notes == [f"gqa: {second} keeps no single answers; `croc eval score {second}` writes them"]
    odd = {"question_id": [1], "prompt": 7, "expected": {"a": [2]}, "text": None, "picture": 3, "score": 1}
    file.write_text(json.dumps(odd) + "\n")
    (first / "benchmarks" / "items" / "gqa.jsonl").write_text(json.dumps(odd | {"score": 0}) + "\n")
    pairs, _ = pair_runs(entries, [first, second])
    assert flip_rows(pairs, ["a", "b"], 5)[1][1:5] == ["wrong → right", "1", "3", "7"]


def test_a_headline_that_is_no_mean_of_answers_is_pointed_out(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, "pope", items([1, 0]), value=77.0) for name in "ab"]
    entries = {str(run): {"pope": {"value": 77.0}} for run in runs}
    pairs, notes = pair_runs(entries, runs)
    assert notes == ["pope: the difference is in right answers, not in mean F1"]
    assert paired_rows(pairs)[1] == ["POPE", "2", "+0.0", "[+0.0, +0.0]", "0", "0", "1"]


def test_compare_shows_the_tests_and_lists_the_flips(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "gqa", items([1, 1, 0, 0]))
    write_run(tmp_path / "b", "gqa", items([0, 1, 1, 1]))
    runs = (str(tmp_path / "a"), str(tmp_path / "b"))
    shown = croc("eval", "compare", *runs)
    assert "The second run less the first" in shown.out
    assert "McNemar p" in shown.out
    row = json.loads(croc("eval", "compare", *runs, "--format", "json").out)[0]
    assert (row["questions"], row["difference"], row["better"], row["worse"]) == ("4", "+25.0", "2", "1")
    flips = json.loads(croc("eval", "compare", *runs, "--flips", "1", "--format", "json").out)
    assert [flip["change"] for flip in flips] == ["right → wrong", "wrong → right"]
    assert {"question id", "picture", "question", "expected", *runs} <= set(flips[0])
    assert "right → wrong" in croc("eval", "compare", *runs, "--flips", "1").out
    assert croc("eval", "compare", *runs, "--flips", "9", "--format", "csv").out.count("wrong") == 3
    alone = croc("eval", "compare", runs[0], "--flips", "1")
    assert alone.code == 2
    assert "--flips compares two runs, and 1 is given" in alone.err
    write_run(tmp_path / "c", "pope", items([1]))
    apart = croc("eval", "compare", runs[0], str(tmp_path / "c"), "--flips", "1")
    assert apart.code == 2
    assert "have no benchmark with answers to the same questions" in apart.err
