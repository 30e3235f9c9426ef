"""Every benchmark gives what its authors' scorer gave, item by item and in total; prompts equal LLaVA's scripts'."""

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.judged import JudgedBenchmark
from croc_cli.benchmarks.matching import match_answers
from croc_cli.benchmarks.registry import NAMES, benchmarks
from croc_cli.benchmarks.results import write_submission
from croc_cli.benchmarks.score import Score
from croc_cli.run_dir import StageDir
from tests.benchmarks.golden_files import load, write_files

JUDGED = ("llava_bench_wild", "mmvet")
SCORED = tuple(name for name in NAMES if name not in JUDGED)
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def matched(name: str, root: Path) -> tuple[Benchmark, list[Record], list[str], dict[str, Any]]:
    golden = load(name)
    benchmark = benchmarks()[name]
    records = benchmark.read(write_files(name, root))
    rows = golden["predictions"]
    if "prompt" not in rows[0]:
        rows = [row | {"prompt": ""} for row in rows]
    answered, texts = match_answers(benchmark, records, rows, partial=bool(golden["missing"]))
    return benchmark, answered, texts, golden


def score(name: str, root: Path) -> tuple[Score, list[Record], dict[str, Any]]:
    benchmark, records, texts, golden = matched(name, root)
    return benchmark.score(records, texts), records, golden


@pytest.mark.parametrize("name", SCORED)
def test_each_item_scores_as_in_the_reference(name: str, tmp_path: Path) -> None:
    result, records, golden = score(name, tmp_path)
    ours = sorted((record.key, value) for record, value in zip(records, result.per_item, strict=True))
    if name in ("textvqa", "mme"):  # the reference names these items by their order, the answer file's ids repeat
        assert sorted(value for _, value in ours) == pytest.approx(sorted(i["score"] for i in golden["per_item"]))
        return
    theirs = sorted((str(item["id"]), item["score"]) for item in golden["per_item"])
    assert [key for key, _ in ours] == [key for key, _ in theirs]
    for (key, mine), (_, reference) in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(reference), key


HEADLINES: dict[str, Any] = {
    "vqav2": lambda m: m["overall_unrounded_percent"],
    "gqa": lambda m: m["accuracy_percent"],
    "vizwiz": lambda m: m["overall_unrounded_percent"],
    "scienceqa": lambda m: m["img_acc_percent"],
    "textvqa": lambda m: m["accuracy_percent_printed"],
    "pope": lambda m: m["headline_percent"],
    "mme": lambda m: m["headline"],
    "mmbench": lambda m: m["circular_percent"],
    "mmbench_cn": lambda m: m["circular_percent"],
    "seedbench": lambda m: m["total_unrounded"],
    "mmstar": lambda m: m["final_percent"],
    "docvqa": lambda m: m["anls_percent"],
    "ai2d": lambda m: m["accuracy_percent"],
    "realworldqa": lambda m: m["accuracy_percent"],
}


@pytest.mark.parametrize("name", SCORED)
def test_the_headline_is_the_reference_s(name: str, tmp_path: Path) -> None:
    result, _, golden = score(name, tmp_path)
    assert result.value == pytest.approx(HEADLINES[name](golden["metrics"]), abs=0.006)
    low, high = result.interval() or (0.0, 0.0)
    assert low <= result.value <= high


def test_the_parts_of_vqav2_gqa_and_vizwiz_are_the_reference_s(tmp_path: Path) -> None:
    for name, part, theirs in (
        ("vqav2", "per_answer_type", "per_answer_type_percent"),
        ("vqav2", "per_question_type", "per_question_type_percent"),
        ("vizwiz", "per_answer_type", "per_answer_type_percent"),
    ):
        result, _, golden = score(name, tmp_path)
        assert result.parts[part] == pytest.approx(golden["metrics"][theirs], abs=0.006)
    result, _, golden = score("gqa", tmp_path)
    metrics = golden["metrics"]
    assert result.parts["binary"] == pytest.approx(metrics["binary_percent"], abs=0.006)
    assert result.parts["open"] == pytest.approx(metrics["open_percent"], abs=0.006)
    assert result.parts["distribution"] == pytest.approx(metrics["distribution"], abs=0.006)
    for part, key in (
        ("per_structural_type", "Accuracy / structural type"),
        ("per_semantic_type", "Accuracy / semantic type"),
        ("per_number_of_steps", "Accuracy / steps number"),
        ("per_number_of_words", "Accuracy / words number"),
    ):
        ours = {group: (round(value["percent"], 2), value["count"]) for group, value in result.parts[part].items()}
        assert ours == {group: (value["percent"], value["count"]) for group, value in metrics["details"][key].items()}


def test_the_parts_of_pope_mme_mmbench_seed_and_mmstar_are_the_reference_s(tmp_path: Path) -> None:
    result, _, golden = score("pope", tmp_path)
    assert result.parts["mean"] == pytest.approx(golden["metrics"]["mean_over_3_categories"])
    for subset, metrics in golden["metrics"]["per_category"].items():
        assert result.parts["per_subset"][subset] == pytest.approx(metrics)
    result, _, golden = score("mme", tmp_path)
    assert result.parts["per_subtask"] == pytest.approx(golden["metrics"]["subtasks"])
    assert result.parts["cognition"] == pytest.approx(golden["metrics"]["cognition"])
    for name in ("mmbench", "mmbench_cn"):
        result, _, golden = score(name, tmp_path)
        theirs = {key: 100 * value for key, value in golden["metrics"]["per_group_of_category"].items()}
        ours = result.parts["per_category"] | result.parts["per_l2_category"] | {"Overall": result.value}
        assert ours == pytest.approx(theirs)
        assert result.variants["first-rotation"].value == pytest.approx(100 * golden["metrics"]["vanilla_pass0"])
    result, _, golden = score("seedbench", tmp_path)
    assert result.variants["image-only"].value == pytest.approx(golden["metrics"]["image_unrounded"])
    assert result.variants["video-only"].value == pytest.approx(golden["metrics"]["video_unrounded"])
    assert result.parts["per_type"] == pytest.approx(golden["metrics"]["per_type_percent"], abs=0.006)
    result, _, golden = score("mmstar", tmp_path)
    shares = {key: 100 * value for key, value in golden["metrics"]["per_axis"].items()}
    assert result.parts["per_axis"] == pytest.approx(shares)


def test_scienceqa_counts_all_questions_and_those_with_a_picture(tmp_path: Path) -> None:
    result, _, golden = score("scienceqa", tmp_path)
    assert result.parts["accuracy_all"] == pytest.approx(golden["metrics"]["acc_percent"])
    assert result.parts["num_with_image"] == golden["metrics"]["img_count"]


def test_submission_files_are_the_reference_s(tmp_path: Path) -> None:
    for name, make in (
        (
            "vqav2",
            lambda golden: [{"question_id": i["id"], "answer": i["submission_answer"]} for i in golden["per_item"]],
        ),
        ("vizwiz", lambda golden: [i["submission"] for i in golden["per_item"]]),
        ("seedbench", lambda golden: golden["upload_rows"]),
        ("docvqa", lambda golden: golden["submission_rows"]),
        ("mmvet", lambda golden: [golden["converted"]]),
    ):
        benchmark, records, texts, golden = matched(name, tmp_path)
        assert benchmark.submission(records, texts) == make(golden), name
    for name in ("mmbench", "mmbench_cn"):
        benchmark, records, texts, golden = matched(name, tmp_path)
        rows = benchmark.submission(records, texts) or []
        table = golden["upload_xlsx"]
        assert list(rows[0]) == table["columns"]
        assert [list(row.values()) for row in rows] == table["rows"]


def test_an_answer_with_control_characters_goes_into_the_table_without_them(tmp_path: Path) -> None:
    benchmark, _, _, golden = matched("mmbench", tmp_path)
    row = dict(zip(golden["upload_xlsx"]["columns"], golden["upload_xlsx"]["rows"][0], strict=True))
    file = write_submission(benchmark, [row | {"prediction": "A\x00\x1b[0m\nB"}], StageDir(tmp_path / "benchmarks"))
    [header, values] = openpyxl.load_workbook(file).active.iter_rows(values_only=True)
    assert dict(zip(header, values, strict=True))["prediction"] == "A[0m\nB"


@pytest.mark.parametrize("name", JUDGED)
def test_a_judge_s_replies_score_as_in_the_reference(name: str, tmp_path: Path) -> None:
    benchmark, records, texts, golden = matched(name, tmp_path)
    assert isinstance(benchmark, JudgedBenchmark)
    canned = [reply if isinstance(reply, list) else [reply] for reply in golden["replies"]]
    said: list[list[str]] = []
    for record, text, replies in zip(records, texts, canned, strict=True):
        given: list[str] = []
        while (request := benchmark.next_request(record, text, given)) is not None:
            assert request.messages[-1]["role"] == "user"
            given.append(replies[len(given)])
        said.append(given)
    result = benchmark.score_replies(records, said)
    if name == "mmvet":
        assert result.value == pytest.approx(golden["metrics"]["total_unrounded"])
        assert result.per_item == pytest.approx([item["score"] for item in golden["per_item"]])
        assert [len(replies) for replies in said] == [item["judge_calls"] for item in golden["per_item"]]
        for part in ("per_capability", "per_integration"):
            theirs = golden["metrics"]["per_integration_sorted_names" if part == "per_integration" else part]
            assert result.parts[part] == pytest.approx(theirs, abs=0.06)
    else:
        assert result.value == golden["metrics"]["headline"]
        assert result.parts["summary"] == golden["metrics"]["summary"]
        assert result.num_unparsable == golden["metrics"]["unparsable"]
        first = benchmark.next_request(records[0], texts[0], [])
        assert first is not None
        assert first.messages[-1]["content"] == golden["per_item"][0]["judge_user_content"]


def test_mmvet_s_requests_are_the_reference_s(tmp_path: Path) -> None:
    benchmark, records, texts, golden = matched("mmvet", tmp_path)
    assert isinstance(benchmark, JudgedBenchmark)
    for record, text, item in zip(records, texts, golden["per_item"], strict=True):
        request = benchmark.next_request(record, text, [])
        assert request is not None
        assert request.messages[0]["content"].endswith(item["first_user_message"].removeprefix("<HEADER>"))
        assert request.temperature == item["temperatures"][0]
        if len(item["temperatures"]) > 1:
            again = benchmark.next_request(record, text, ["no number"])
            assert again is not None
            assert again.messages[0]["content"].endswith(item["retry_user_message"].removeprefix("<HEADER>"))


def test_mmvet_reads_five_replies_and_counts_as_unreadable_what_they_left(tmp_path: Path) -> None:
    benchmark, records, _, _ = matched("mmvet", tmp_path)
    assert isinstance(benchmark, JudgedBenchmark)
    replies = [["?"] * 5 + ["1.0"], ["?"] * 4 + ["0.5"]]
    result = benchmark.score_replies(records[:2], replies)
    assert list(result.per_item) == [0.0, 0.5]
    assert result.num_unparsable == 1


def test_prompts_in_the_template_are_those_of_llava_s_scripts(tmp_path: Path) -> None:
    checked = 0
    for name in NAMES:
        cases = [case for case in load("prompts")["cases"] if case["benchmark"] == name]
        benchmark = benchmarks()[name]
        root = write_files(name, tmp_path)
        if name == "textvqa":  # OCR tokens are in LLaVA's question file alone
            lines = "".join(json.dumps(case["input"], ensure_ascii=False) + "\n" for case in cases)
            (root / benchmark.folder / "llava_textvqa_val_v051_ocr.jsonl").write_text(lines, encoding="utf-8")
        records = benchmark.read(root)
        ours = {
            f"{SYSTEM} USER: {'<image>' + chr(10) if record.picture else ''}{record.prompt} ASSISTANT:"
            for record in records
        }
        for case in cases:
            assert case["prompt"] in ours, (name, case["prompt"])
            if isinstance(case["max_new_tokens"], int):
                assert benchmark.max_new_tokens == case["max_new_tokens"], name
            checked += 1
    assert checked == 96
