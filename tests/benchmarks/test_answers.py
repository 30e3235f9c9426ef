"""Answer files: matched by id, refused when they do not fit, whole again after a crash, never mixed between models."""

import json
from pathlib import Path

import pytest

from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.matching import match_answers
from croc_cli.benchmarks.predictions import (
    answers_file,
    append_row,
    claim,
    merge_shards,
    questions_sha256,
    read_rows,
    shard_file,
)
from croc_cli.benchmarks.registry import NAMES, benchmarks, choose
from croc_cli.benchmarks.results import score_benchmark, write_results
from croc_cli.errors import UsageError
from croc_cli.run_dir import StageDir
from croc_cli.sources.known.catalog import find_source
from tests.benchmarks.golden_files import load, write_files

GQA = benchmarks()["gqa"]


def test_missing_repeated_and_unknown_answers_are_counted_and_named(tmp_path: Path) -> None:
    records = GQA.read(write_files("gqa", tmp_path))
    rows = load("gqa")["predictions"]
    wrong = [*rows[2:], rows[5], rows[5], {"question_id": "never asked", "text": "yes"}]
    with pytest.raises(BenchmarkDataError) as caught:
        match_answers(GQA, records, wrong)
    assert "2 missing (201000000, 201000001)" in caught.value.message
    assert "2 repeated" in caught.value.message
    assert "1 unknown (never asked)" in caught.value.message
    answered, texts = match_answers(GQA, records, wrong, partial=True)
    assert len(answered) == len(texts) == len(records) - 2


def test_only_the_first_ten_are_named(tmp_path: Path) -> None:
    records = GQA.read(write_files("gqa", tmp_path))
    with pytest.raises(BenchmarkDataError, match="27 missing") as caught:
        match_answers(GQA, records, [])
    assert caught.value.message.count("2010000") == 10


def test_a_partial_score_says_what_share_it_is_of(tmp_path: Path) -> None:
    root = write_files("gqa", tmp_path / "data")
    stage_dir = StageDir(tmp_path / "run" / "benchmarks")
    stage_dir.predictions.mkdir(parents=True)
    rows = load("gqa")["predictions"][:9]
    answers_file(stage_dir.predictions, "gqa").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BenchmarkDataError):
        score_benchmark(GQA, stage_dir, root)
    entry = score_benchmark(GQA, stage_dir, root, partial=True)
    assert entry["share_scored"] == pytest.approx(9 / 27)
    assert entry["num_answered"] == 9
    items = [json.loads(line) for line in Path(entry["items"]).read_text().splitlines()]
    assert [item["question_id"] for item in items] == [row["question_id"] for row in rows]
    assert sum(item["score"] for item in items) / 9 == pytest.approx(entry["value"] / 100)


def test_a_question_that_the_data_ask_twice_takes_two_answers_or_one(tmp_path: Path) -> None:
    root = write_files("textvqa", tmp_path)
    file = root / "textvqa" / "TextVQA_0.5.1_val.json"
    content = json.loads(file.read_text())
    first = content["data"][0]
    content["data"].append(first | {"question": first["question"].upper(), "answers": ["a lamp"] * 10})
    file.write_text(json.dumps(content))
    benchmark = benchmarks()["textvqa"]
    records = benchmark.read(root)
    assert records[0].answer == records[-1].answer == ["a lamp"] * 10  # LLaVA's scorer keeps the last record

    prompt = records[0].prompt
    rows = [{"question_id": first["image_id"], "prompt": prompt, "text": text} for text in ("a lamp", "no", "more")]
    answered, texts = match_answers(benchmark, records, rows[:2], partial=True)
    assert [record.answer for record in answered] == [["a lamp"] * 10] * 2
    assert texts == ["a lamp", "no"]
    assert match_answers(benchmark, records, rows[:1], partial=True)[1] == ["a lamp", "a lamp"]
    with pytest.raises(BenchmarkDataError, match="1 repeated"):
        match_answers(benchmark, records, rows)


@pytest.mark.parametrize(
    ("cells", "shown", "read"),
    [
        (["lamp", "NA", "chair", "table"], ["A"], ["A", "C", "D"]),
        (["lamp", "none", "chair", "#N/A N/A"], ["A"], ["A", "B", "C"]),
        (["lamp", "Nan", "", ""], ["A"], ["A", "B"]),
    ],
)
def test_mmbench_shows_and_reads_the_options_that_the_references_do(
    cells: list[str], shown: list[str], read: list[str], tmp_path: Path
) -> None:
    root = write_files("mmbench", tmp_path)
    file = root / "mmbench" / "mmbench_dev_20230712.tsv"
    header, row = file.read_text().splitlines()[:2]
    values = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    values |= dict(zip("ABCD", cells, strict=True)) | {"hint": "None", "question": "What stands there?"}
    file.write_text(f"{header}\n" + "\t".join(values.values()) + "\n")
    [record] = benchmarks()["mmbench"].read(root)
    assert list(record.extra["options"]) == read
    assert record.extra["answer_fields"]["option_char"] == shown
    assert record.prompt.startswith("What stands there?\nA. lamp\nAnswer")


def test_a_line_that_a_crash_cut_is_dropped_and_its_question_stays_open(tmp_path: Path) -> None:
    records = GQA.read(write_files("gqa", tmp_path))
    rows = load("gqa")["predictions"]
    with shard_file(tmp_path, "gqa", 0).open("a") as stream:
        for row in rows[:3]:
            append_row(stream, row)
        stream.write(json.dumps(rows[3])[:20])
    with shard_file(tmp_path, "gqa", 1).open("a") as stream:
        append_row(stream, rows[10])
        append_row(stream, rows[0])  # answered by the other rank before it died
    merged = merge_shards(tmp_path, GQA, records)
    assert [row["question_id"] for row in merged] == [rows[i]["question_id"] for i in (0, 1, 2, 10)]
    assert not list(tmp_path.glob("gqa.rank-*"))
    assert read_rows(answers_file(tmp_path, "gqa")) == merged


def test_a_row_that_follows_a_cut_line_is_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    whole = json.dumps({"question_id": 2, "text": "b"})
    file.write_bytes(b'{"question_id": 1, "text": "\xc3\n' + whole.encode() + b"\n" + whole.encode()[:9])
    assert read_rows(file) == [{"question_id": 2, "text": "b"}]


def test_answers_of_another_model_are_kept_aside_and_never_mixed(tmp_path: Path) -> None:
    records = GQA.read(write_files("gqa", tmp_path))
    made_by = {"model_sha256": "a", "questions_sha256": questions_sha256(records)}
    assert claim(tmp_path, "gqa", made_by) is None
    answers_file(tmp_path, "gqa").write_text(json.dumps(load("gqa")["predictions"][0]) + "\n")
    assert claim(tmp_path, "gqa", made_by) is None
    assert answers_file(tmp_path, "gqa").exists()
    aside = claim(tmp_path, "gqa", made_by | {"model_sha256": "b"})
    assert aside is not None
    assert aside.exists()
    assert not answers_file(tmp_path, "gqa").exists()


def test_results_of_the_same_model_add_up_and_those_of_another_are_replaced(tmp_path: Path) -> None:
    stage_dir = StageDir(tmp_path)
    write_results(stage_dir, {"gqa": {"value": 1.0}}, model={"model_sha256": "a"})
    write_results(stage_dir, {"pope": {"value": 2.0}}, model={"model_sha256": "a"})
    assert set(json.loads(stage_dir.results_file.read_text())["benchmarks"]) == {"gqa", "pope"}
    write_results(stage_dir, {"mme": {"value": 3.0}}, model={"model_sha256": "b"})
    assert set(json.loads(stage_dir.results_file.read_text())["benchmarks"]) == {"mme"}


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_named_with_where_they_go(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        benchmarks()[name].read(tmp_path)
    assert str(tmp_path / benchmarks()[name].folder) in caught.value.message
    assert "--data" in (caught.value.hint or "")


def test_a_record_without_a_field_is_named_by_line(tmp_path: Path) -> None:
    root = write_files("pope", tmp_path)
    file = root / "pope" / "coco" / "coco_pope_random.json"
    lines = file.read_text().splitlines()
    lines[2] = json.dumps({"question_id": 3, "image": "x.jpg", "text": "Is there a cat?"})
    file.write_text("\n".join(lines))
    with pytest.raises(BenchmarkDataError, match=r"line 3: no field 'label'"):
        benchmarks()["pope"].read(root)
    file.write_text("{broken\n")
    with pytest.raises(BenchmarkDataError, match="line 1, column 2: not JSON"):
        benchmarks()["pope"].read(root)


def test_an_unknown_benchmark_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        choose("pope,mmbnch")
    assert caught.value.hint == "did you mean mmbench?"
    assert [benchmark.name for benchmark in choose("pope,gqa")] == ["gqa", "pope"]
    assert len(choose("all")) == 16


def test_hidden_labels_give_a_submission_file_and_no_score(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "vqav2").mkdir(parents=True)
    question = {"question_id": 7, "image": "COCO_test2015_000000000001.jpg", "text": "What?", "category": "default"}
    (root / "vqav2" / "llava_vqav2_mscoco_test-dev2015.jsonl").write_text(json.dumps(question) + "\n")
    every = [question, question | {"question_id": 8}]
    (root / "vqav2" / "llava_vqav2_mscoco_test2015.jsonl").write_text("".join(json.dumps(q) + "\n" for q in every))
    stage_dir = StageDir(tmp_path / "run" / "benchmarks")
    stage_dir.predictions.mkdir(parents=True)
    answers_file(stage_dir.predictions, "vqav2").write_text(json.dumps({"question_id": 7, "text": "The cat."}) + "\n")
    entry = score_benchmark(benchmarks()["vqav2"], stage_dir, root)
    assert entry["value"] is None
    sent = json.loads(Path(entry["submission"]).read_text())
    assert sent == [{"question_id": 7, "answer": "cat"}, {"question_id": 8, "answer": ""}]


def test_missing_files_are_named_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    for name, benchmark in benchmarks().items():
        if benchmark.is_drawn:
            continue
        with pytest.raises(BenchmarkDataError, match=rf"{name}: .* holds no ") as caught:
            benchmark.read(tmp_path)
        command = f"eval:{name}"
        assert f"`croc data fetch {command}` " in str(caught.value.hint)
        assert find_source(command).name == command
