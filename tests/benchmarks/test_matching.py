"""Answers are scored only against the questions that they answer, and scoring leaves them as they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.matching import limit_records, match_answers
from croc_cli.benchmarks.predictions import answers_file, claim, merge_shards, questions_sha256, shard_file
from croc_cli.benchmarks.registry import benchmarks, choose
from croc_cli.benchmarks.results import score_benchmark
from croc_cli.run_dir import RunDir, StageDir
from tests.benchmarks.golden_files import load, write_files
from tests.benchmarks.runs import pope_rows, write_pope, write_rows
from tests.commands.croc import croc

POPE = benchmarks()["pope"]


def run_with(folder: Path, name: str, rows: list[dict[str, Any]], **made_by: Any) -> StageDir:
    stage_dir = RunDir(folder).stage("benchmarks")
    write_rows(answers_file(stage_dir.predictions, name), rows)
    if made_by:
        (stage_dir.predictions / f"{name}.made_by.json").write_text(json.dumps(made_by))
    return stage_dir


def test_scoring_never_writes_to_the_answers(tmp_path: Path) -> None:
    small, full = write_pope(tmp_path / "small", num=2), write_pope(tmp_path / "full", num=9)
    other = write_pope(tmp_path / "other", things="cat")
    stage_dir = run_with(tmp_path / "run", "pope", pope_rows(4))
    before = answers_file(stage_dir.predictions, "pope").read_bytes()
    for root, said in ((small, "6 unknown"), (full, "15 missing"), (other, "12 answers are to other questions")):
        for more in ((), ("--variant", "pope=by-id"), ("--partial",)):
            answer = croc("eval", "score", str(tmp_path / "run"), "--data", str(root), *more)
            assert answer.code == (0 if more == ("--partial",) and root != other else 1)
            assert answer.code == 0 or said in answer.err
            assert answers_file(stage_dir.predictions, "pope").read_bytes() == before
    assert croc("eval", "score", str(tmp_path / "run"), "--data", str(write_pope(tmp_path / "own"))).code == 0


def test_answers_to_another_split_or_variant_are_refused(tmp_path: Path) -> None:
    rows = [{"question_id": n, "prompt": f"what is this {n}?", "text": "a"} for n in range(4)]
    folder = tmp_path / "vizwiz"
    folder.mkdir()
    val = [{"image": f"VizWiz_val_{n:08d}.jpg", "question": f"Which colour {n}?", "answers": []} for n in range(4)]
    (folder / "val.json").write_text(json.dumps(val))
    [vizwiz] = choose("vizwiz", {"vizwiz": "val"})
    with pytest.raises(BenchmarkDataError, match=r"4 answers are to other questions: question 0 was 'what is"):
        score_benchmark(vizwiz, run_with(tmp_path / "run", "vizwiz", rows), tmp_path, partial=True)

    root = write_files("textvqa", tmp_path)
    with_tokens = [row for row in load("textvqa")["predictions"] if "Reference OCR token" in row["prompt"]]
    [without] = choose("textvqa", {"textvqa": "no-ocr"})
    with pytest.raises(BenchmarkDataError, match="answers are to other questions"):
        match_answers(without, without.read(root), with_tokens, partial=True)
    records, _ = match_answers(benchmarks()["textvqa"], benchmarks()["textvqa"].read(root), with_tokens, partial=True)
    assert all(record.extra["has_ocr_tokens"] for record in records)


def test_answers_without_prompts_are_known_by_the_hash_beside_them(tmp_path: Path) -> None:
    root = write_pope(tmp_path / "data")
    rows = [{name: row[name] for name in ("question_id", "text")} for row in pope_rows()]
    now = questions_sha256(POPE.read(root))
    entry = score_benchmark(POPE, run_with(tmp_path / "a", "pope", rows, questions_sha256=now), root)
    assert entry["value"] == pytest.approx(100.0)
    with pytest.raises(BenchmarkDataError, match="other questions than these"):
        score_benchmark(POPE, run_with(tmp_path / "b", "pope", rows, questions_sha256="another"), root)


def test_prompts_that_are_one_word_in_every_row_say_nothing(tmp_path: Path) -> None:
    root = write_pope(tmp_path)
    rows = [row | {"prompt": "x"} for row in pope_rows()]
    assert len(match_answers(POPE, POPE.read(root), rows)[1]) == 12


def test_two_answers_to_one_question_are_refused_even_for_a_partial_score(tmp_path: Path) -> None:
    records = POPE.read(write_pope(tmp_path))
    rows = pope_rows()
    twice = [*rows, rows[3] | {"text": "another"}]
    with pytest.raises(BenchmarkDataError, match=r"1 repeated with another text \(4\)"):
        match_answers(POPE, records, twice, partial=True)
    assert len(match_answers(POPE, records, [*rows, rows[3]], partial=True)[1]) == 12


def test_a_null_answer_is_missing_and_a_list_is_refused(tmp_path: Path) -> None:
    records = POPE.read(write_pope(tmp_path))
    rows = pope_rows()
    with pytest.raises(BenchmarkDataError, match=r"1 missing \(1\)"):
        match_answers(POPE, records, [rows[0] | {"text": None}, *rows[1:]])
    with pytest.raises(BenchmarkDataError, match="the answer to question 1 is"):
        match_answers(POPE, records, [rows[0] | {"text": ["Yes"]}, *rows[1:]])


@pytest.mark.parametrize("name", ["mme", "textvqa"])
def test_rows_without_prompts_are_matched_by_id_or_refused(name: str, tmp_path: Path) -> None:
    benchmark = benchmarks()[name]
    records = benchmark.read(write_files(name, tmp_path))
    alone = [r for r in records if sum(other.question_id == r.question_id for other in records) == 1]
    rows = [{"question_id": record.question_id, "text": "a"} for record in records]
    with pytest.raises(BenchmarkDataError, match="without `prompt`, though several questions have that id"):
        match_answers(benchmark, records, rows, partial=True)
    if alone:
        answered, _ = match_answers(
            benchmark, records, [{"question_id": alone[0].question_id, "text": "a"}], partial=True
        )
        assert [record.key for record in answered] == [alone[0].key]


def test_merging_keeps_every_row_and_refuses_contradictions(tmp_path: Path) -> None:
    records = POPE.read(write_pope(tmp_path / "data", num=2))
    rows = pope_rows(4)
    write_rows(answers_file(tmp_path, "pope"), rows[:6])
    write_rows(shard_file(tmp_path, "pope", 0), [rows[0], *rows[6:]])
    merged = merge_shards(tmp_path, POPE, records)
    assert sorted(row["question_id"] for row in merged) == sorted(row["question_id"] for row in rows)
    whole = answers_file(tmp_path, "pope").read_bytes()
    write_rows(shard_file(tmp_path, "pope", 1), [rows[0] | {"text": "Maybe"}])
    with pytest.raises(BenchmarkDataError, match="question 1 has another answer here"):
        merge_shards(tmp_path, POPE, records)
    assert answers_file(tmp_path, "pope").read_bytes() == whole
    assert shard_file(tmp_path, "pope", 1).exists()


def test_answers_that_fit_more_questions_than_before_are_kept(tmp_path: Path) -> None:
    made_by = {"model_sha256": "a", "questions_sha256": "b"}
    write_rows(answers_file(tmp_path, "pope"), pope_rows())
    claim(tmp_path, "pope", made_by, fits=lambda: True)
    write_rows(answers_file(tmp_path, "pope"), pope_rows())
    claim(tmp_path, "pope", made_by)
    assert claim(tmp_path, "pope", made_by | {"questions_sha256": "c"}, fits=lambda: True) is None
    assert claim(tmp_path, "pope", made_by | {"questions_sha256": "d"}, fits=lambda: False) is not None


def test_a_limit_spreads_over_all_questions_and_keeps_rotations_together(tmp_path: Path) -> None:
    records = POPE.read(write_pope(tmp_path / "a", num=10))
    chosen = limit_records(POPE, records, 6)
    assert len(chosen) == 6
    assert {record.extra["subset"] for record in chosen} == {"adversarial", "popular", "random"}
    mmbench = benchmarks()["mmbench"]
    rotated = mmbench.read(write_files("mmbench", tmp_path / "b"))
    few = limit_records(mmbench, rotated, 7)
    units = {mmbench.unit(record) for record in few}
    assert [record for record in rotated if mmbench.unit(record) in units] == few
    assert limit_records(POPE, records, 1000) == records


def test_a_score_of_a_limit_says_so(tmp_path: Path) -> None:
    root = write_pope(tmp_path / "data", num=10)
    run_with(tmp_path / "run", "pope", pope_rows(10))
    answer = croc("eval", "score", str(tmp_path / "run"), "--data", str(root), "--limit", "6")
    assert answer.code == 0
    assert "(--limit 6; 6 of 30)" in answer.out
    shown = croc("eval", "compare", str(tmp_path / "run"), "--paper")
    assert "--limit 6; 6 of 8,910 questions" in " ".join(shown.out.split())


def test_scienceqa_counts_missing_answers_in_its_accuracy_over_all(tmp_path: Path) -> None:
    root = write_files("scienceqa", tmp_path / "data")
    rows = load("scienceqa")["predictions"]
    benchmark = benchmarks()["scienceqa"]
    whole = score_benchmark(benchmark, run_with(tmp_path / "a", "scienceqa", rows), root)["parts"]
    part = score_benchmark(benchmark, run_with(tmp_path / "b", "scienceqa", rows[:10]), root, partial=True)["parts"]
    assert part["accuracy_all"] == pytest.approx(100 * part["correct"] / len(rows))
    assert whole["accuracy_all"] == pytest.approx(100 * whole["correct"] / len(rows))


def test_a_hint_about_keys_lists_ten_at_most(tmp_path: Path) -> None:
    root = write_files("scienceqa", tmp_path)
    splits = root / "scienceqa" / "pid_splits.json"
    splits.write_text(json.dumps({"test": ["absent"]}))
    with pytest.raises(BenchmarkDataError) as caught:
        benchmarks()["scienceqa"].read(root)
    assert (caught.value.hint or "").count("300") == 10


def test_items_have_the_expected_answer(tmp_path: Path) -> None:
    root = write_pope(tmp_path / "data")
    entry = score_benchmark(POPE, run_with(tmp_path / "run", "pope", pope_rows()), root)
    first = json.loads(Path(entry["items"]).read_text().splitlines()[0])
    assert (first["expected"], first["text"], first["picture"]) == ("yes", "Yes", "i1.png")
