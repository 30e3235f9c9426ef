"""A packed row too short for a mix's longest sample is refused before anything is launched, with the sample's name."""

import json
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import UsageError
from croc_cli.launch.requirements import check_data
from croc_cli.pipeline.lengths import count_lengths
from croc_cli.recipe.schema import Recipe
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.mix.recipe_mix import mix_folder, mix_spec
from tests.launch.make import recipe
from tests.sources.data import text_row, write_jsonl


def packed(tmp_path: Path, **batch: Any) -> Recipe:
    changes = {f"finetune__batch__{key}": value for key, value in batch.items()}
    mix = {"kind": "mix", "sources": {"mine": {"path": "mine.jsonl"}}}
    return recipe(data__finetune=mix, data__root=str(tmp_path), finetune__batch__packing=True, **changes)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    texts = [text_row(number) for number in range(9)]
    texts[4]["conversations"][1]["value"] = "one two three " * 60
    write_jsonl(tmp_path / "mine.jsonl", texts)
    made = packed(tmp_path)
    build_mix(mix_spec(made, "finetune"), mix_folder(made, "finetune"))
    return tmp_path


def test_the_longest_sample_is_named_with_its_counted_length(rows: Path) -> None:
    short = packed(rows, row_tokens=60)
    check_data(short, "finetune")  # lengths of text are not counted yet, so the ranks see to it
    count_lengths(short, "finetune", mix_folder(short, "finetune"))
    with pytest.raises(
        UsageError, match=r"finetune\.batch\.row_tokens: 60 is less than .* mine#4, has: \d+ tokens"
    ) as caught:
        check_data(short, "finetune")
    longest = short.finetune.max_length
    assert f"--set finetune.batch.row_tokens={longest} has room for every sample" in str(caught.value.hint)
    check_data(packed(rows, row_tokens=longest), "finetune")
    check_data(packed(rows), "finetune")


def test_visual_tokens_alone_may_be_too_many(rows: Path) -> None:
    row = {"id": "many", "image": ["a.png"] * 3, "conversations": text_row(1)["conversations"]}
    row = json.loads(json.dumps(row))
    row["conversations"][0]["value"] = "<image>" * 3 + "What?"
    write_jsonl(rows / "mine.jsonl", [text_row(0), row])
    made = packed(rows, row_tokens=100)
    build_mix(mix_spec(made, "finetune"), mix_folder(made, "finetune"))
    with pytest.raises(UsageError, match="mine#1, has: at least 108 tokens"):
        check_data(made, "finetune")
