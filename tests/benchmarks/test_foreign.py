"""Answers from elsewhere: LLaVA's, lmms-eval's and plain files are scored, and stay as they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.runs import FIRST_ID, pope_rows, write_pope, write_rows
from tests.commands.croc import croc


def samples(**changes: Any) -> list[dict[str, Any]]:
    """Return lmms-eval's samples about `write_pope`, subsets in its own order."""
    rows = []
    for subset in ("random", "popular", "adversarial"):
        for row in (row for row in pope_rows() if 0 < row["question_id"] - FIRST_ID[subset] <= 4):
            number = row["question_id"] - FIRST_ID[subset]
            question = row["prompt"].splitlines()[0]
            rows.append(
                {
                    "doc_id": len(rows),
                    "doc": {"question_id": str(number), "question": question, "category": subset},
                    "target": row["text"].lower(),
                    "input": row["prompt"],
                    "resps": [[row["text"]]],
                    "filtered_resps": [row["text"]],
                    **changes,
                }
            )
    return rows


@pytest.mark.parametrize(
    ("name", "rows", "form"),
    [
        ("llava.jsonl", pope_rows(), "LLaVA's form, question_id as id, text as answer, prompt as question"),
        ("samples_pope.jsonl", samples(), "lmms-eval's form, doc's id as id, resps as answer"),
        (
            "plain.jsonl",
            [{"id": row["question_id"], "answer": row["text"]} for row in pope_rows()],
            "a plain form, id as id, answer as answer",
        ),
    ],
)
def test_a_file_is_scored_and_its_keys_are_named(name: str, rows: list[Any], form: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / name, rows)
    before = file.read_bytes()
    command = ("eval", "score", str(file), "--benchmark", "pope", "--data", str(write_pope(tmp_path / "data")))
    answer = croc(*command)
    assert answer.code == 0, answer.err
    assert "100.0" in answer.out
    assert f"12 rows in {form}" in " ".join(answer.err.split())
    out = tmp_path / "out"
    assert croc(*command, "--out", str(out)).code == 0
    assert json.loads((out / "results.json").read_text())["benchmarks"]["pope"]["num_answered"] == 12
    assert (out / "items" / "pope.jsonl").exists()
    assert "POPE" in croc("eval", "compare", str(out)).out
    assert file.read_bytes() == before


def test_lists_objects_and_tables_are_read(tmp_path: Path) -> None:
    data = write_pope(tmp_path / "data")
    texts = {str(row["question_id"]): row["text"] for row in pope_rows()}
    contents = {
        "a.json": json.dumps([{"questionId": name, "prediction": text} for name, text in texts.items()]),
        "b.json": json.dumps(texts),
        "c.json": json.dumps({"answers": [{"id": name, "answer": text} for name, text in texts.items()]}),
        "d.csv": "id,response\n" + "".join(f"{name},{text}\n" for name, text in texts.items()),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        answer = croc("eval", "score", str(tmp_path / name), "-b", "pope", "--data", str(data), "--format", "json")
        assert answer.code == 0, (name, answer.err)
        assert json.loads(answer.out)[0][name].startswith("100.0"), name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", 'id,answer\n1,"Yes\n2,No\n3,"No\n', "line 2: ',' expected after '\"'"),
        ("a.tsv", 'id\tanswer\n1\t"Yes\n2\tNo\n3\tNo"\n', "line 2: a quote opens a cell that ends at line 4"),
        ("a.csv", "id,answer\n1,Yes, it is\n", "line 2: 3 cells, 2 columns"),
        ("a.jsonl", "PAR1\0", "a.jsonl: a parquet file, not text"),
    ],
)
def test_tables_that_lose_answers_are_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    data = write_pope(tmp_path / "data")
    answer = croc("eval", "score", str(tmp_path / name), "-b", "pope", "--data", str(data), "--partial")
    assert answer.code == 2
    assert said in " ".join(answer.err.split())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no answers"),
        ([{"a": 1}], "line 1: no id: none of question_id"),
        ([{"id": 1, "truth": 2}], "line 1: no answer: none of text"),
        ([{"id": 1, "text": "Yes"}, {"id": 2}], "line 2: no 'text', which the first row has"),
        (pope_rows(4, things="cat"), "12 answers are to other questions"),
        (samples(doc={"question_id": "99", "category": "random"}), "12 unknown"),
        (samples(doc=None, input="Is there a bus?"), "document 0 is another question than number 0"),
        ([*pope_rows(), {"question_id": 1, "prompt": "", "text": "No"}], "1 repeated with another text (1)"),
    ],
)
def test_what_does_not_fit_is_refused(rows: list[Any], said: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", rows)
    answer = croc("eval", "score", str(file), "-b", "pope", "--data", str(write_pope(tmp_path / "data")))
    assert answer.code == 2
    assert said in " ".join(answer.err.split())


def test_a_file_needs_one_benchmark_and_a_free_folder(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", pope_rows())
    assert "--benchmark NAME" in croc("eval", "score", str(file)).err
    assert "one benchmark" in croc("eval", "score", str(file), "-b", "pope,gqa").err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"1")
    data = write_pope(tmp_path / "data")
    answer = croc("eval", "score", str(file), "-b", "pope", "--data", str(data), "--out", str(tmp_path / "mine"))
    assert answer.code == 2
    assert "holds other files" in answer.err
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["photo.png"]
