"""Texts in rows: every family of LLMs says what it says without rows, or is known not to."""

from typing import Any

import pytest
import torch
from transformers import (
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    XGLMConfig,
)

from croc_cli.serve.cache import RowsCache
from croc_cli.serve.rows import Rows, depends_on_others, why_not_in_rows
from tests.tiny import tiny_vision_config

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "vocab_size": 330,
    "pad_token_id": 0,
}


def make(config: Any = LlamaConfig, **more: Any) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    text = config(**{**SIZES, **more})
    return LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=tiny_vision_config(), image_token_id=5)
    ).eval()


def text(length: int, seed: int) -> list[int]:
    return torch.randint(10, 330, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def plain(llava: LlavaForConditionalGeneration, ids: list[int]) -> torch.Tensor:
    return llava(input_ids=torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("config", [LlamaConfig, GemmaConfig, Qwen2Config, Qwen3Config, XGLMConfig])
@torch.inference_mode()
def test_rows_that_come_and_go_say_what_each_says_alone(config: Any) -> None:
    llava = make(config)
    assert why_not_in_rows(llava, 0) is None
    rows = Rows(llava, 0)
    texts: list[list[int]] = []
    for when, length in enumerate((9, 70, 1, 30, 100)):  # shorter and longer than the rows there, beyond what they hold
        new = [text(length, when), text(length + 2, 10 + when)]
        logits, read = rows.read(new)
        for number, one in enumerate(new):
            torch.testing.assert_close(logits[number], plain(llava, one), atol=1e-4, rtol=1e-4)
            rows.add(read, number, len(one))
        texts += new
        for row in {0: (), 1: (1,), 2: (4, 0), 3: (3,)}.get(when, ()):
            rows.remove(row)
            texts[row] = texts[-1]
            texts.pop()
        for token in (20 + when, 40 + when):
            logits = rows.step([token + row for row in range(len(texts))])
            texts = [[*one, token + row] for row, one in enumerate(texts)]
            for row, one in enumerate(texts):
                torch.testing.assert_close(logits[row], plain(llava, one), atol=1e-4, rtol=1e-4)
    assert len(texts) == 6


@torch.inference_mode()
def test_what_a_row_left_behind_does_not_reach_the_next_one() -> None:
    llava = make()
    rows = Rows(llava, 0)
    _, read = rows.read([text(40, 0)])
    for layer in read.layers:
        layer.keys.fill_(float("nan"))
        layer.values.fill_(float("inf"))
    for length in (5, 40, 6):
        rows.add(rows.read([text(length, 1)])[1] if length < 40 else read, 0, length)
    rows.remove(1)
    rows.add(rows.read([text(4, 2)])[1], 0, 4)
    logits = rows.step([30, 31, 32])
    for row, (length, seed) in enumerate(((5, 1), (6, 1), (4, 2))):
        torch.testing.assert_close(logits[row], plain(llava, [*text(length, seed), 30 + row]), atol=1e-4, rtol=1e-4)


def test_a_model_that_forgets_or_takes_no_positions_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    slides = why_not_in_rows(make(MistralConfig, sliding_window=16), 0)
    assert slides == "its cache has a DynamicSlidingWindowLayer"
    assert why_not_in_rows(make(MistralConfig, sliding_window=256), 0) is None
    begin = RowsCache.begin_step

    def all_at_the_end(cache: RowsCache, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        mask, positions = begin(cache, device)
        return mask, positions.amax() + torch.zeros_like(positions)

    monkeypatch.setattr(RowsCache, "begin_step", all_at_the_end)
    assert why_not_in_rows(make(), 0) == "its answers would change"
    monkeypatch.setattr(RowsCache, "begin_step", lambda *_: 1 / 0)
    assert why_not_in_rows(make(), 0) == "it does not take them (ZeroDivisionError)"


def test_positions_that_depend_on_the_longest_text_are_known() -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    assert depends_on_others(make(rope_parameters=dynamic))
    assert not depends_on_others(make())
