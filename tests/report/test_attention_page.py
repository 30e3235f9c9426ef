from pathlib import Path
from typing import Any

import pytest

from croc_cli.report.attention_page import mean_shares, short_names, write_attention_page
from croc_cli.run_dir import write_json


def model(name: str, visual: float) -> dict[str, Any]:
    shares = {"visual": 4 * visual, "before": 0.1, "instruction": 0.2, "answer": 0.7 - 4 * visual}
    return {
        "model": name,
        "num_pictures": 2,
        "bad_pictures": ["x.png: not an image"],
        "instruction": ["What", "?"],
        "visual": [[visual] * 4, [visual] * 4],
        "instruction_weights": [[0.1, 0.1], [0.1, 0.1]],
        "shares": [shares, shares],
        "counts": [2, 1],
        "examples": [{"image": "/pictures/a.png", "answer": "a <star>"}],
    }


def test_models_stand_side_by_side_on_one_scale(tmp_path: Path) -> None:
    models = [model("runs/a/checkpoints/step-1", 0.05), model("runs/b/checkpoints/step-1", 0.1)]
    write_json(tmp_path / "attention.json", {"question": "What?", "models": models})
    text = write_attention_page(tmp_path).read_text()
    assert "<title>Where answers look: a · b" in text
    assert "left out: x.png: not an image" in text
    assert "a &lt;star&gt;" in text
    table = (tmp_path / "attention-shares.csv").read_text().splitlines()
    assert table[1].split(",")[1] == "20.0 %"
    assert table[2].split(",")[1] == "40.0 %"
    assert len((tmp_path / "attention-1.csv").read_text().splitlines()) == 3
    assert (tmp_path / "attention-places-0.svg").is_file()


def test_shares_are_means_over_answer_tokens() -> None:
    one = model("m", 0.1)
    one["shares"][1] = {"visual": 0.0, "before": 0.0, "instruction": 0.0, "answer": 1.0}
    assert mean_shares(one)["visual"] == pytest.approx(0.2)


def test_models_get_the_shortest_names_that_differ() -> None:
    assert short_names(["/m/a", "/m/b"]) == ["a", "b"]
    assert short_names(["runs/nano/finetune/checkpoints/step-00000230"]) == ["nano finetune, step 230"]
    assert short_names(["/m/a/step-1", "/m/b/step-1/"]) == ["a", "b"]
    assert short_names(["/a/x/step-1", "/a/y/step-1", "/b/x/step-1"]) == ["a/x", "a/y", "b/x"]
    assert short_names(["runs/nano/step-1", "step-1"]) == ["nano/step-1", "step-1"]
    assert short_names(["/step-1", "/runs/step-1"]) == ["/step-1", "runs/step-1"]
    assert short_names(["/m/step-1"]) == ["step-1"]
    assert short_names(["/m/a", "/m/a"]) == ["1: /m/a", "2: /m/a"]
