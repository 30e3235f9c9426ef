import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.dataset import MixDataset
from croc_cli.data.lengths import count_rows, current_key, tokenizer_key
from croc_cli.demo.pretrain.backbones import LLM
from croc_cli.names import IMAGE_TOKEN
from croc_cli.recipe.template_options import TemplateOptions
from croc_cli.sources.mix.lengths import (
    Counting,
    LengthsCount,
    files_key,
    find_lengths,
    keep_lengths,
    known_lengths,
    template_key,
)
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.read.index import LENGTHS_FOLDER, MixFolder
from tests.sources.data import small_spec

COUNTING = Counting(str(LLM), None, "vicuna_v1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_mix(small_spec(tmp_path), tmp_path / "mix")
    return tmp_path / "mix"


def count(folder: Path, *, blocks: int | None = None) -> str:
    key = current_key(COUNTING)
    assert key is not None
    with LengthsCount(MixFolder(folder), key, {"files": "state"}) as lengths:
        for number, places in enumerate(lengths.open_blocks()):
            if number == blocks:
                return key
            lengths.store(places, count_rows(COUNTING, folder, places)[0])
        lengths.finish()
    return key


def test_a_counted_length_is_what_the_encoder_makes_of_the_row(folder: Path) -> None:
    lengths = find_lengths(folder, count(folder))
    assert lengths is not None
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    encoder = ConversationEncoder(
        tokenizer, template="vicuna_v1", image_token_id=len(tokenizer), num_visual_tokens=36, max_length=10_000
    )
    dataset = MixDataset(folder, lengths=lengths, num_visual_tokens=36)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert dataset.length_hint(index) == len(encoder.encode(sample.turns, num_images=len(sample.images)).input_ids)


def test_the_options_of_a_template_are_part_of_its_key_where_they_change_lengths() -> None:
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    plain = TemplateOptions()
    for options in (
        TemplateOptions("Hi"),
        TemplateOptions(control_tokens_in_text=True),
        TemplateOptions(None, "turns"),
    ):
        assert tokenizer_key(tokenizer, "qwen_1_5", options) != tokenizer_key(tokenizer, "qwen_1_5", plain)
        assert template_key("qwen_1_5", options) != template_key("qwen_1_5", plain)
    assert template_key("plain", TemplateOptions(None, "turns")) == template_key("plain", plain) == "plain"


def test_the_key_is_that_of_a_checkpoints_tokenizer_and_changes_with_the_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    key = current_key(COUNTING)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True)])
    assert tokenizer_key(tokenizer, "vicuna_v1") == key
    assert tokenizer_key(tokenizer, "plain") != key
    tokenizer.add_tokens(["another"])
    assert tokenizer_key(tokenizer, "vicuna_v1") != key


def test_a_count_that_was_stopped_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("croc_cli.sources.mix.lengths.BLOCK_ROWS", 8)
    key = count(folder, blocks=2)
    assert find_lengths(folder, key) is None
    with LengthsCount(MixFolder(folder), key, {}) as lengths:
        assert lengths.num_counted == 16
        assert sum(len(places) for places in lengths.open_blocks()) == len(MixFolder(folder)) - 16
    count(folder)
    assert find_lengths(folder, key) is not None
    assert [file.name for file in (folder / LENGTHS_FOLDER).glob(".*unfinished*")] == []


def test_lengths_of_other_rows_or_of_another_order_are_none(folder: Path) -> None:
    key = count(folder)
    about = folder / LENGTHS_FOLDER / f"{key}.json"
    values = json.loads(about.read_text())
    about.write_text(json.dumps(values | {"order_sha256": "other"}))
    assert find_lengths(folder, key) is None
    about.write_text(json.dumps(values))
    np.save(folder / LENGTHS_FOLDER / f"{key}.npy", np.ones(3, dtype=np.uint32))
    assert find_lengths(folder, key) is None


def test_lengths_are_known_by_the_state_of_the_tokenizers_files_and_follow_a_copy(folder: Path, tmp_path: Path) -> None:
    key = count(folder)
    lengths = find_lengths(folder, key)
    assert lengths is not None
    assert known_lengths(folder, "state") is not None
    assert known_lengths(folder, "another state") is None
    assert files_key(LLM, "plain") != files_key(LLM, "vicuna_v1")
    copy = tmp_path / "copy"
    copy.mkdir()
    values = json.loads((folder / "manifest.json").read_text())
    keep = np.arange(len(lengths)) % 2 == 0
    changed = values | {"rows": int(keep.sum()), "order_sha256": "of the copy"}
    (copy / "manifest.json").write_text(json.dumps(changed))
    keep_lengths(folder, copy, keep)
    kept = find_lengths(copy, key)
    assert kept is not None
    assert kept.tolist() == lengths[keep].tolist()
