"""The parquet form of the hub's data sets gives the questions, pictures and labels of the official files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.registry import benchmarks
from tests.benchmarks.golden_files import draw_pictures, load, png, write_files

CELL = {"bytes": png(), "path": None}


def official(name: str, root: Path) -> list[Record]:
    write_files(name, root)
    return benchmarks()[name].read(root)


def content(name: str, file: str) -> Any:
    return load(name)["files"][file]["content"]


def rows_of(name: str) -> list[dict[str, Any]]:
    """Return the golden records as the hub's columns."""
    if name == "vqav2":
        questions = content(name, "v2_OpenEnded_mscoco_val2014_questions.json")["questions"]
        labels = {row["question_id"]: row for row in content(name, "v2_mscoco_val2014_annotations.json")["annotations"]}
        return [row | labels[row["question_id"]] for row in questions]
    if name == "vizwiz":
        rows = content(name, "val.json")
        return [
            {
                "question_id": Path(row["image"]).stem,
                "question": row["question"],
                "answers": [answer["answer"] for answer in row["answers"]],
                "category": row["answer_type"],
            }
            for row in rows
        ]
    if name == "scienceqa":
        problems = content(name, "problems.json")
        kept = ("question", "choices", "answer", "hint", "subject")
        chosen = [problems[key] for key in map(str, content(name, "pid_splits.json")["test"])]
        return [{field: row[field] for field in kept} | ({} if row["image"] else {"image": None}) for row in chosen]
    if name == "textvqa":
        kept = ("image_id", "question", "answers")
        return [{field: row[field] for field in kept} for row in content(name, "TextVQA_0.5.1_val.json")["data"]]
    if name == "pope":
        return [
            {
                "question_id": str(row["question_id"]),
                "question": row["text"],
                "answer": row["label"],
                "category": subset,
            }
            for subset in ("adversarial", "popular", "random")
            for row in content(name, f"coco/coco_pope_{subset}.json")
        ]
    if name == "mmvet":
        return [
            {
                "question_id": key,
                "question": row["question"],
                "answer": row["answer"],
                "capability": ",".join(row["capability"]),
            }
            for key, row in content(name, "mm-vet.json").items()
        ]
    if name == "seedbench":
        return [
            {key: value for key, value in row.items() if key != "segment"} | {"image": [CELL, CELL]}
            for row in content(name, "SEED-Bench.json")["questions"]
        ]
    captions = {row["image"]: row["caption"] for row in content(name, "context.jsonl")}
    references = {row["question_id"]: row["text"] for row in content(name, "answers_gpt4.jsonl")}
    return [
        {
            "question_id": row["question_id"],
            "question": row["text"],
            "category": row["category"],
            "caption": "\n".join(caption) if isinstance(caption := captions[row["image"]], list) else caption,
            "gpt_answer": references[row["question_id"]],
        }
        for row in content(name, "questions.jsonl")
    ]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist([{"image": CELL} | row for row in rows]), file, row_group_size=3)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("vqav2", "validation"),
        ("vizwiz", "val"),
        ("scienceqa", "test"),
        ("textvqa", "validation"),
        ("pope", "test"),
        ("seedbench", "test"),
        ("llava_bench_wild", "train"),
        ("mmvet", "test"),
    ],
)
def test_hub_rows_ask_and_label_as_the_official_files(name: str, split: str, tmp_path: Path) -> None:
    theirs = official(name, tmp_path / "official")
    benchmark = benchmarks()[name]
    rows = rows_of(name)
    half = len(rows) // 2
    folder = tmp_path / "hub" / benchmark.folder / "data"
    write_rows(folder / f"{split}-00000-of-00002.parquet", rows[:half])
    write_rows(folder / f"{split}-00001-of-00002.parquet", rows[half:])
    ours = benchmark.read(tmp_path / "hub")
    if name == "scienceqa":  # the hub's rows have no id of their own
        assert [record.key for record in ours] == [str(number) for number in range(len(theirs))]
    else:
        assert [record.key for record in ours] == [record.key for record in theirs]
    assert [record.prompt for record in ours] == [record.prompt for record in theirs]
    assert [record.answer for record in ours] == [record.answer for record in theirs]
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine.picture is None) == (reference.picture is None)
        if mine.picture is not None:
            assert mine.picture.open().size == (8, 8)
    texts = ["yes" for _ in theirs]
    if not benchmark.needs_judge:
        assert benchmark.score(ours, texts).value == benchmark.score(theirs, texts).value


def test_gqa_joins_the_hub_s_questions_with_its_pictures(tmp_path: Path) -> None:
    theirs = official("gqa", tmp_path / "official")
    rows = [
        {"id": key, **{field: row[field] for field in ("question", "imageId", "answer", "types", "groups", "semantic")}}
        for key, row in content("gqa", "testdev_balanced_questions.json").items()
    ]
    folder = tmp_path / "hub" / "gqa"
    (folder / "testdev_balanced_instructions").mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, folder / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet")
    pictures = [{"id": image} for image in sorted({row["imageId"] for row in rows})]
    write_rows(folder / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", pictures)
    ours = benchmarks()["gqa"].read(tmp_path / "hub")
    assert [(r.key, r.prompt, r.answer) for r in ours] == [(r.key, r.prompt, r.answer) for r in theirs]
    answers = ["yes"] * len(ours)
    assert benchmarks()["gqa"].score(ours, answers).parts == benchmarks()["gqa"].score(theirs, answers).parts
    write_rows(folder / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", pictures[1:])
    with pytest.raises(BenchmarkDataError, match="no picture"):
        benchmarks()["gqa"].read(tmp_path / "hub")


def test_mme_s_and_mmbench_s_hub_rows_ask_what_the_official_files_do(tmp_path: Path) -> None:
    root = write_files("mme", tmp_path / "official")
    draw_pictures("mme", root)
    theirs = benchmarks()["mme"].read(root)
    rows: list[dict[str, Any]] = [
        {
            "question_id": record.question_id,
            "question": record.prompt.split("\n")[0] + " Please answer yes or no.",
            "answer": record.answer.capitalize(),
            "category": record.extra["subtask"],
        }
        for record in theirs
    ]
    write_rows(tmp_path / "hub" / "MME" / "data" / "test-0.parquet", rows)
    ours = benchmarks()["mme"].read(tmp_path / "hub")
    assert [(r.key, r.prompt, r.answer) for r in ours] == [(r.key, r.prompt, r.answer) for r in theirs]
    for name, folder in (("mmbench", "en"), ("mmbench_cn", "cn")):
        theirs = official(name, tmp_path / "official")
        rows = [_mmbench_row(record) for record in theirs]
        write_rows(tmp_path / "hub" / "mmbench" / folder / "dev-00000-of-00001.parquet", rows)
        ours = benchmarks()[name].read(tmp_path / "hub")
        assert [(r.key, r.prompt, r.answer) for r in ours] == [(r.key, r.prompt, r.answer) for r in theirs]
        answers = ["A"] * len(ours)
        assert benchmarks()[name].score(ours, answers).parts == benchmarks()[name].score(theirs, answers).parts


def _mmbench_row(record: Record) -> Mapping[str, Any]:
    row = {name: record.extra[name] or None for name in ("question", "hint", "A", "B", "C", "D", "category", "split")}
    return row | {"index": int(record.key), "answer": record.answer, "L2-category": record.extra["l2-category"]}


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ai2d" / "test.parquet"
    file.parent.mkdir()
    file.write_text("<!DOCTYPE html>")
    with pytest.raises(BenchmarkDataError, match=r"test\.parquet: not a readable parquet file"):
        benchmarks()["ai2d"].read(tmp_path)


@pytest.mark.parametrize(
    ("name", "layout", "kept"),
    [
        ("docvqa", ("DocVQA/validation-0", "InfographicVQA/validation-0", "DocVQA/test-0"), 0),
        ("docvqa", ("InfographicVQA/validation/0000", "DocVQA/validation/0000", "DocVQA/test/0000"), 1),
        ("scienceqa", ("ScienceQA-IMG/test-0", "ScienceQA-FULL/test-0", "ScienceQA-FULL/train-0"), 1),
        ("textvqa", ("data/validation-0", "data/train-0", "data/test-0"), 0),
    ],
)
def test_a_clone_of_several_configurations_gives_the_right_one(
    name: str, layout: tuple[str, ...], kept: int, tmp_path: Path
) -> None:
    folder = tmp_path / benchmarks()[name].folder
    rows = hub_rows(name)
    for number, file in enumerate(layout):
        write_rows(folder / f"{file}.parquet", rows[: number + 1])
    assert len(benchmarks()[name].read(tmp_path)) == kept + 1
    for number, file in enumerate(layout):
        if number == kept:
            (folder / f"{file}.parquet").unlink()
    with pytest.raises(BenchmarkDataError, match="has no (files of the split|configuration)"):
        benchmarks()[name].read(tmp_path)


def hub_rows(name: str) -> list[dict[str, Any]]:
    if name == "docvqa":
        return [{"questionId": str(number), "question": "What?", "answers": ["a"]} for number in range(3)]
    return rows_of(name)[:3]


@pytest.mark.parametrize(
    ("file", "lacking"),
    [
        ("data/train-00000-of-00001.parquet", ["validation-*.parquet"]),
        ("data/validation-00000-of-00001.parquet", []),
        ("anything.parquet", []),
    ],
)
def test_a_clone_without_the_split_is_not_here(tmp_path: Path, file: str, lacking: list[str]) -> None:
    place = tmp_path / "textvqa" / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"PAR1")
    assert benchmarks()["textvqa"].lacks(tmp_path) == lacking
