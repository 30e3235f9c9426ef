"""`croc eval --url` against `croc serve`: the answers are those of `croc eval --model`, row for row."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoProcessor, GenerationConfig

from croc_cli.benchmarks.matching import limit_records
from croc_cli.benchmarks.registry import choose
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.eval.predict import Answerer
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import decode_plainly
from croc_cli.run_dir import StageDir
from croc_cli.worker.benchmarks import answer_benchmark
from tests.benchmarks.golden_files import draw_pictures, write_files
from tests.benchmarks.mmmu_files import write_merged
from tests.commands.croc import croc
from tests.serve.conftest import Running, running

NAMES = ("gqa", "scienceqa", "ai2d", "realworldqa")
"""Short answers about pictures, questions without a picture, several choices from a table, and pictures in a table."""
SEVERAL = ("mmmu",)
"""Several pictures of a question, in front of it and within it."""

LIMIT = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eval") / "data"
    for name in NAMES:
        draw_pictures(name, write_files(name, root))
    return write_merged(root)


def local_rows(
    folder: Path,
    data: Path,
    out: Path,
    names: tuple[str, ...],
    variants: dict[str, str] | None = None,
    scenes: Any = None,
) -> dict[str, list[dict[str, Any]]]:
    """Return the answers of a rank of `croc eval --model`."""
    model = load_for_inference(folder)
    decode_plainly(model.llava, model.processor)
    answerer = Answerer(model, evaluation_encoder(model), 8, "hash")
    stage_dir = StageDir(out)
    stage_dir.predictions.mkdir(parents=True)
    events = SimpleNamespace(write=lambda **_: None)
    for benchmark in choose(",".join(names), variants, scenes=scenes):
        records = limit_records(benchmark, benchmark.read(data), LIMIT)
        answer_benchmark(answerer, benchmark, records, stage_dir, rank=0, num_ranks=1, events=events)
    return {name: rows_of(stage_dir.predictions / f"{name}.rank-0.jsonl") for name in names}


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Return the rows of an answer file without what tells the models apart."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["answer_id"], row["model_id"]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def served_rows(url: str, data: Path, out: Path, names: tuple[str, ...], *more: str) -> dict[str, list[dict[str, Any]]]:
    """Return the answers of `croc eval --url`."""
    answer = croc(
        *("eval", "--url", f"{url}/v1", "--data", str(data), "--run-dir", str(out), "-b", ",".join(names)),
        "--limit",
        str(LIMIT),
        *more,
    )
    assert answer.code == 0, answer.err
    return {name: rows_of(out / "benchmarks" / "predictions" / f"{name}.jsonl") for name in names}


def test_a_server_is_scored_with_the_answers_of_its_checkpoint(
    server: Running, folder: Path, data: Path, tmp_path: Path
) -> None:
    served = served_rows(server.url, data, tmp_path / "served", NAMES)
    local = local_rows(folder, data, tmp_path / "local", NAMES)
    for name in NAMES:
        assert served[name] == local[name], name
    assert len({row["text"] for rows in local.values() for row in rows}) > 8
    assert sum("<image>" not in row["prompt"] for row in local["scienceqa"]) >= 1
    results = json.loads((tmp_path / "served" / "benchmarks" / "results.json").read_text())
    assert results["model"] == {"model": "tiny", "model_sha256": f"server:{server.url}/v1 tiny"}
    assert set(results["benchmarks"]) == set(NAMES)


def test_questions_without_a_picture_show_the_mean_colour_that_the_server_names(
    server: Running, folder: Path, data: Path, tmp_path: Path
) -> None:
    scenes = SimpleNamespace(num_scenes=1, max_new_tokens=8)
    settings = ("--set", "eval.num_scenes=1", "--set", "eval.max_new_tokens=8")
    served = served_rows(server.url, data, tmp_path / "served", ("scenes",), *settings)["scenes"]
    local = local_rows(folder, data, tmp_path / "local", ("scenes",), scenes=scenes)["scenes"]
    assert served == local
    assert sum(row["question_id"].endswith("/no_picture") for row in local) == 10


@pytest.mark.parametrize("variants", [{}, {"mmmu": "vlmevalkit"}], ids=["in-front", "within"])
def test_several_pictures_are_sent_where_they_stand(
    server: Running, folder: Path, data: Path, tmp_path: Path, variants: dict[str, str]
) -> None:
    more = [part for name, variant in variants.items() for part in ("--variant", f"{name}={variant}")]
    served = served_rows(server.url, data, tmp_path / "served", SEVERAL, *more)
    local = local_rows(folder, data, tmp_path / "local", SEVERAL, variants)
    assert served == local
    assert len(local["mmmu"]) == 4
    items = (tmp_path / "served" / "benchmarks" / "items" / "mmmu.jsonl").read_text().splitlines()
    assert [len(json.loads(item).get("pictures", [1])) for item in items] == [1, 2, 3, 1]


def test_a_checkpoint_of_others_is_asked_as_croc_eval_asks_it(folder: Path, data: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    processor = AutoProcessor.from_pretrained(other)
    processor.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}"
        "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}[assistant]"
    )
    processor.save_pretrained(other)
    GenerationConfig(eos_token_id=2, repetition_penalty=1.7, pad_token_id=0).save_pretrained(other)
    with running(other) as server:
        served = served_rows(server.url, data, tmp_path / "served", ("ai2d",), "--concurrency", "3")
    assert served == local_rows(other, data, tmp_path / "local", ("ai2d",))


def test_what_is_answered_is_not_asked_again_and_another_server_is_another_model(
    folder: Path, server: Running, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    rows = served_rows(server.url, data, out, ("ai2d",))
    file = out / "benchmarks" / "predictions" / "ai2d.jsonl"
    marked = file.read_text().replace('"text": "', '"text": "kept ')
    file.write_text(marked.split("\n", 1)[1])
    command = ("eval", "--url", f"{server.url}/v1/", "--data", str(data), "--run-dir", str(out), "-b", "ai2d")
    costs = croc(*command, "--limit", str(LIMIT), "--dry-run")
    assert "\nai2d       1         1 " in costs.out
    again = croc(*command, "--limit", str(LIMIT))
    assert f"{LIMIT - 1} of {LIMIT} questions are answered already" in again.err
    assert sum("kept" in row["text"] for row in rows_of(file)) == LIMIT - 1
    with running(folder) as other:
        costs = croc("eval", "--url", other.url + "/v1", *command[3:], "--limit", str(LIMIT), "--dry-run")
        assert f"\nai2d       {LIMIT} " in costs.out
        assert served_rows(other.url, data, out, ("ai2d",)) == rows
    assert len(list(file.parent.glob("ai2d-until-*.jsonl.old"))) == 1


def test_a_server_is_scored_without_torch(tmp_path: Path, data: Path) -> None:
    command = ["eval", "--url", "http://127.0.0.1:9/v1", "--served-model", "m", "--data", str(data), "-b", "ai2d"]
    script = (
        "import sys\nfrom croc_cli.commands.app import app\n"
        "for more in ([], ['--dry-run']):\n"
        "    try:\n        app([*sys.argv[1:], *more])\n"
        "    except SystemExit as end:\n        print('code', end.code)\n"
        "print('heavy', *({'torch', 'transformers', 'deepspeed'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", script, *command]
    answer = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    lines = answer.stdout.splitlines()
    assert [line for line in lines if line.startswith(("code", "heavy"))] == ["code 1", "code 0", "heavy"]
    assert not list(tmp_path.iterdir())
