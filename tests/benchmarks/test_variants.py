"""Named variants: other scorers' rules become the headline, other prompts and splits are asked."""

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from croc_cli.benchmarks.matching import match_answers
from croc_cli.benchmarks.registry import benchmarks, choose
from croc_cli.benchmarks.results import score_benchmark
from croc_cli.benchmarks.scorers.choices import mmbench_letter
from croc_cli.errors import UsageError
from croc_cli.run_dir import RunDir
from tests.benchmarks.golden_files import load, write_files


def test_docvqa_binarised_counts_each_answer_above_the_threshold_as_right(tmp_path: Path) -> None:
    golden = load("docvqa")
    root = write_files("docvqa", tmp_path)
    [benchmark] = choose("docvqa", {"docvqa": "binarised"})
    records, texts = match_answers(benchmark, benchmark.read(root), golden["predictions"])
    score = benchmark.headline_of(benchmark.score(records, texts))
    whole = [float(value > 0) for value in score.per_item]
    assert score.metric == "ANLS (binarised)"
    assert score.value == pytest.approx(100 * sum(whole) / len(whole))
    assert score.variants["primary"].value == pytest.approx(golden["metrics"]["anls_percent"])
    low, high = score.interval() or (0.0, 0.0)
    assert low <= score.value <= high


def test_a_saved_run_says_which_variant_its_headline_is(tmp_path: Path) -> None:
    root = write_files("seedbench", tmp_path / "data")
    stage_dir = RunDir(tmp_path / "run").stage("benchmarks")
    stage_dir.predictions.mkdir(parents=True)
    rows = load("seedbench")["predictions"]
    (stage_dir.predictions / "seedbench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [image_only] = choose("seedbench", {"seedbench": "image-only"})
    entry = score_benchmark(image_only, stage_dir, root)
    primary = score_benchmark(benchmarks()["seedbench"], stage_dir, root)
    assert entry["variant"] == "image-only"
    assert entry["metric"] == "accuracy (image-only)"
    assert primary["variant"] == "primary"
    assert entry["value"] == primary["variants"]["image-only"]
    assert entry["variants"]["primary"] == primary["value"]


def test_textvqa_without_ocr_tokens_asks_the_bare_question(tmp_path: Path) -> None:
    root = write_files("textvqa", tmp_path)
    rows = json.loads((root / "textvqa" / "TextVQA_0.5.1_val.json").read_text())["data"]
    line = {
        "question_id": rows[0]["image_id"],
        "image": f"{rows[0]['image_id']}.jpg",
        "text": f"{rows[0]['question'].capitalize()}\nReference OCR token: STOP\nAnswer the question using …",
    }
    (root / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl").write_text(json.dumps(line) + "\n")
    [without] = choose("textvqa", {"textvqa": "no-ocr"})
    assert "STOP" in benchmarks()["textvqa"].read(root)[0].prompt
    assert "OCR" not in without.read(root)[0].prompt
    assert [r.key for r in without.read(root)] == [r.key for r in benchmarks()["textvqa"].read(root)]


def test_pope_pairs_by_order_and_by_id_on_request(tmp_path: Path) -> None:
    folder = tmp_path / "pope" / "coco"
    folder.mkdir(parents=True)
    for subset in ("adversarial", "popular", "random"):
        lines = [
            {"question_id": number, "image": "a.jpg", "text": "Is there a dog?", "label": label}
            for number, label in ((1, "yes"), (3, "no"))
        ]
        (folder / f"coco_pope_{subset}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    [by_id] = choose("pope", {"pope": "by-id"})
    [pooled] = choose("pope", {"pope": "pooled"})
    ordered = benchmarks()["pope"].read(tmp_path)
    assert [record.question_id for record in ordered] == [1, 2, 20000001, 20000002, 10000001, 10000002]
    assert [record.question_id for record in by_id.read(tmp_path)] == [1, 3, 20000001, 20000003, 10000001, 10000003]
    answers = ["yes", "no", "yes", "yes", "no", "no"]
    score = pooled.headline_of(pooled.score(ordered, answers))
    assert score.value == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 1))  # 2 hits, 1 false alarm, 1 miss
    assert score.variants["primary"].value == pytest.approx(100 * (1 + 2 / 3 + 0) / 3)


def test_val_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    root = write_files("vqav2", tmp_path)
    test = {"question_id": 7, "image": "COCO_test2015_000000000001.jpg", "text": "What?\nAnswer …"}
    (root / "vqav2" / "llava_vqav2_mscoco_test-dev2015.jsonl").write_text(json.dumps(test) + "\n")
    [val] = choose("vqav2", {"vqav2": "val"})
    assert [record.key for record in benchmarks()["vqav2"].read(root)] == ["7"]
    assert all(record.answer is not None for record in val.read(root))


def test_vqav2_s_official_test_questions_give_a_submission_over_all_of_test2015(tmp_path: Path) -> None:
    folder = tmp_path / "vqav2"
    folder.mkdir()
    rows = [{"question_id": 5, "image_id": 9, "question": "Where?"}]
    for part, questions in (("test-dev2015", rows), ("test2015", [*rows, rows[0] | {"question_id": 6}])):
        content = {"questions": questions}
        (folder / f"v2_OpenEnded_mscoco_{part}_questions.json").write_text(json.dumps(content))
    benchmark = benchmarks()["vqav2"]
    records = benchmark.read(tmp_path)
    assert records[0].prompt.startswith("Where?\nAnswer the question")
    assert records[0].picture is not None
    assert records[0].picture.name == "COCO_test2015_000000000009.jpg"
    sent = benchmark.submission(records, ["On the left."])
    assert sent == [{"question_id": 5, "answer": "on left"}, {"question_id": 6, "answer": ""}]


@pytest.mark.parametrize(
    ("variants", "message", "hint"),
    [
        ({"docvqa": "binarized"}, "docvqa has no variant 'binarized'", "did you mean binarised?"),
        ({"gqa": "open"}, "gqa has no variant 'open'", "none"),
        ({"docvq": "binarised"}, "unknown benchmark 'docvq'", "did you mean docvqa?"),
    ],
)
def test_an_unknown_variant_is_refused_with_the_nearest(variants: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        choose("all", variants)
    assert hint in str(caught.value.hint)


def test_pope_pooled_is_lmms_eval_s(tmp_path: Path) -> None:
    root = write_files("pope", tmp_path)
    benchmark = benchmarks()["pope"]
    records, texts = match_answers(benchmark, benchmark.read(root), load("pope")["predictions"])
    score = benchmark.score(records, texts)
    exact = [text.strip().lower() for text in texts]
    pairs = [(said, record.answer) for said, record in zip(exact, records, strict=True) if said in ("yes", "no")]
    hits = pairs.count(("yes", "yes"))
    assert score.variants["pooled"].value == pytest.approx(200 * hits / (2 * hits + sum(a != b for a, b in pairs)))
    assert score.variants["pooled"].value == pytest.approx(80.0)  # lmms-eval of October 2024 on these answers


def test_a_failed_request_is_no_letter() -> None:
    options = {"A": "an API", "B": "answer", "C": "c"}
    assert mmbench_letter("Failed to obtain answer via API. ", options) is None
    assert mmbench_letter("an API", options) == "A"


def test_answer_rows_have_llava_s_prompts(tmp_path: Path) -> None:
    science = benchmarks()["scienceqa"].read(write_files("scienceqa", tmp_path))
    pictured = next(record for record in science if record.picture is not None)
    assert pictured.extra["saved_prompt"] == f"<image>\n{pictured.prompt}"
    rotated = benchmarks()["mmbench"].read(write_files("mmbench", tmp_path))[-1]
    assert rotated.extra["answer_fields"]["round_id"] == 0
    assert rotated.prompt == rotated.extra["saved_prompt"] + benchmarks()["mmbench"].suffix  # type: ignore[attr-defined]


def test_realworldqa_s_question_is_stripped(tmp_path: Path) -> None:
    file = write_files("realworldqa", tmp_path) / "realworldqa" / "test.parquet"
    rows = parquet.read_table(file).to_pylist()
    parquet.write_table(pyarrow.Table.from_pylist([row | {"question": f" {row['question']}\n"} for row in rows]), file)
    assert all(record.prompt == record.prompt.strip() for record in benchmarks()["realworldqa"].read(tmp_path))
