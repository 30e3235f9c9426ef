"""Samples that share a row: nothing of one reaches another, with every kernel, and losses and gradients stay theirs."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from croc_cli.data.packing import Packing, describe_packing
from croc_cli.errors import RecipeError
from croc_cli.model.attention_mask import block_mask, build_attention_mask, check_takes_packing, dense_mask
from tests.model.batches import IMAGE, gradients, make_batch
from tests.model.test_attention_mask import listed
from tests.model.test_lmm import hidden_of, make_model
from tests.tiny import NUM_VISUAL_TOKENS, make_tiny_model

CAPTIONED = [1, IMAGE, 20, 30, 210, 220, 2]
TWO = [1, IMAGE, 20, IMAGE, 30, 210]
TEXT = [1, 40, 50, 60, 230, 240]
KINDS = ("causal", "mixed", "prefix")
PADDING = 3


def tokens_of(row: list[Any]) -> int:
    return sum(NUM_VISUAL_TOKENS if piece == IMAGE else 1 for piece in row)


def pack(*rows: list[list[Any]], num_masked: int = 0) -> dict[str, Any]:
    """Return a micro-batch of rows of samples; the shorter rows are filled up, and all by some places more."""
    batch = make_batch([[piece for sample in samples for piece in sample] for samples in rows], num_masked=num_masked)
    for name, value in (("input_ids", 0), ("labels", -100), ("attention_mask", 0)):
        batch[name] = torch.nn.functional.pad(batch[name], (0, PADDING), value=value)
    lengths = [tokens_of(sample) for samples in rows for sample in samples]
    length = batch["input_ids"].shape[1]
    return batch | {"packing": describe_packing(lengths, sizes=[len(samples) for samples in rows], length=length)}


def mask_of(kernel: str, kind: str, batch: dict[str, Any]) -> Any:
    config = LlamaConfig(hidden_size=8, num_attention_heads=1)
    config._attn_implementation = kernel
    image_id = make_tiny_model().config.image_token_id
    return build_attention_mask(
        config,
        torch.zeros(*batch["input_ids"].shape, 8),
        batch["attention_mask"],
        kind=kind,
        is_visual=batch["input_ids"] == image_id,
        is_label=batch["labels"] != -100,
        position_ids=batch["packing"].position_ids,
    )


def dense_of(kind: str, rows: list[list[list[Any]]], length: int) -> Tensor:
    """Return [B, 1, T, T] bool, put together from what each sample's mask is when it is alone."""
    found = torch.zeros(len(rows), 1, length, length, dtype=torch.bool)
    for number, samples in enumerate(rows):
        end = 0
        for sample in samples:
            start, end = end, end + tokens_of(sample)
            batch = make_batch([sample], num_blanks=1)
            causal = torch.ones(end - start, end - start, dtype=torch.bool).tril()
            shown = {
                "causal": torch.zeros(end - start, dtype=torch.bool),
                "mixed": batch["input_ids"][0] == make_tiny_model().config.image_token_id,
                "prefix": torch.arange(end - start) < (batch["labels"][0] != -100).int().argmax(),
            }[kind]
            found[number, 0, start:end, start:end] = causal | shown
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_of_a_row_is_that_of_each_sample_alone(kind: str) -> None:
    rows = [[CAPTIONED, TEXT], [TEXT, TWO, TEXT]]
    batch = pack(*rows)
    real = batch["attention_mask"].bool()
    expected = dense_of(kind, rows, batch["input_ids"].shape[1])
    allowed = mask_of("sdpa", kind, batch)
    assert torch.equal(allowed & real[:, None, :, None], expected)
    assert allowed.any(dim=-1).all()  # what fills a row up has keys, so no kernel gives NaN
    lowest = torch.finfo(torch.float32).min
    assert torch.equal(mask_of("eager", kind, batch), torch.where(allowed, 0.0, lowest))


@pytest.mark.parametrize("kind", KINDS)
def test_flex_attention_computes_what_the_dense_mask_does(kind: str) -> None:
    batch = pack([CAPTIONED, TEXT, TWO], [TEXT])
    query, key, value = torch.randn(
        3, 2, 2, batch["input_ids"].shape[1], 16, generator=torch.Generator().manual_seed(0)
    )
    flexible = flex_attention(query, key, value, block_mask=mask_of("flex_attention", kind, batch))
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask_of("sdpa", kind, batch))
    torch.testing.assert_close(flexible, expected)


@pytest.mark.parametrize("length", [128, 300, 1024])
def test_flex_looks_at_every_block_in_which_a_sample_sees_itself_and_trusts_full_ones(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shown_to = torch.randint(1, 3, (3, length), generator=generator)
    shown_to[0, : length // 2] = 2
    samples = (torch.rand(3, length, generator=generator) < 0.02).cumsum(dim=1)
    samples[0] = torch.arange(length) // 256
    mask = block_mask(shown_to, samples)
    size = -(-length // 128) * 128
    allowed = torch.nn.functional.pad(dense_mask(shown_to, samples), (0, size - length, 0, size - length))
    blocks = allowed.view(3, size // 128, 128, size // 128, 128)
    allows_some, allows_all = blocks.any(dim=4).any(dim=2), blocks.all(dim=4).all(dim=2)
    looked_at = listed(mask.kv_num_blocks, mask.kv_indices)
    full = listed(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert not (looked_at & full).any()
    assert not (allows_some & ~looked_at & ~full).any()
    whole = length // 128
    assert torch.equal(full[:, :whole, :whole], allows_all[:, :whole, :whole])
    numbers = samples[:, ::128] if length % 128 == 0 else None
    if numbers is not None and length == 1024:
        assert not (looked_at | full)[0, 4:, :2].any()  # samples of whole blocks never look at each other's


def test_masks_of_other_tensors_are_the_same_function_so_they_compile_once() -> None:
    masks = [mask_of("flex_attention", kind, pack([CAPTIONED, TEXT])).mask_mod for kind in KINDS]
    assert len({mask.__code__ for mask in masks}) == 1
    assert all([type(cell.cell_contents) for cell in mask.__closure__] == [Tensor, Tensor] for mask in masks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", ["sdpa", "eager", "flex_attention"])
def test_a_sample_computes_the_same_in_company_as_alone(kind: str, kernel: str) -> None:
    model = make_model(pool_size=0, attention=kind)
    model.llava.model.language_model.set_attn_implementation(kernel)
    samples = [CAPTIONED, TEXT, TWO]
    batch = pack([CAPTIONED, TEXT, TWO], num_masked=0)
    together = hidden_of(model, batch)
    model.llava.model.language_model.set_attn_implementation("sdpa")
    alone = hidden_of(model, make_batch(samples))
    end = 0
    for number, sample in enumerate(samples):
        start, end = end, end + tokens_of(sample)
        torch.testing.assert_close(together[0, start:end], alone[number, : end - start], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_samples_in_rows_of_their_own(kind: str) -> None:
    model = make_model(head="bert", attention=kind)
    loss, found = gradients(model, pack([CAPTIONED, TEXT], [TWO], num_masked=12))
    expected_loss, expected = gradients(model, make_batch([CAPTIONED, TEXT, TWO], num_masked=12))
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_in_one_sample_leaves_the_others_bit_equal(kind: str) -> None:
    model = make_model(pool_size=0, attention=kind)
    batch = pack([CAPTIONED, TEXT, TWO])
    before = hidden_of(model, batch)
    start, end = tokens_of(CAPTIONED), tokens_of(CAPTIONED) + tokens_of(TEXT)
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, start + 1 : end] += 7
    after = hidden_of(model, changed)
    assert torch.equal(before[0, :start], after[0, :start])
    assert torch.equal(before[0, end:], after[0, end:])
    assert not torch.allclose(before[0, start:end], after[0, start:end])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_flex_attention_on_a_gpu_agrees_with_the_dense_mask_in_outputs_and_gradients(kind: str) -> None:
    packed = pack([CAPTIONED, TEXT, TWO], [TEXT], num_masked=12)
    position_ids, boundaries, longest = packed.pop("packing")
    batch = {name: tensor.cuda() for name, tensor in packed.items()}
    batch["packing"] = Packing(position_ids.cuda(), boundaries.cuda(), longest)
    real = batch["attention_mask"].bool()
    found = []
    for kernel in ("sdpa", "flex_attention"):
        model = make_model(attention=kind).cuda()
        model.llava.model.language_model.set_attn_implementation(kernel)
        found.append((hidden_of(model, batch)[real], gradients(model, batch)[1]["pool.weight"]))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-2)


def test_flash_attention_is_given_the_boundaries_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(pool_size=0, attention="causal")
    batch = pack([CAPTIONED, TEXT, TWO], [TEXT])
    expected = hidden_of(model, batch)
    given: list[tuple[int, list[int]]] = []

    def varlen(q: Tensor, k: Tensor, v: Tensor, *, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **how: Any) -> Tensor:
        """Do what flash_attn_varlen_func does: [tokens, heads, d], causal within each piece."""
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert how["causal"]
        given.append((how["max_seqlen_q"], cu_seqlens_q.tolist()))
        bounds = cu_seqlens_q.tolist()
        parts = [[one[start:end].transpose(0, 1) for one in (q, k, v)] for start, end in pairwise(bounds)]
        done = [scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True).transpose(0, 1) for part in parts]
        return torch.cat(done)

    def settings(*_: Any, is_causal: bool, max_seqlen_q: int | None = None, **__: Any) -> dict[str, Any]:
        return {"causal": is_causal, "max_seqlen_q": max_seqlen_q}

    functions = (None, varlen, None, None, None), (settings, None)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda _: functions)
    model.llava.model.language_model.config._attn_implementation = "flash_attention_2"
    found = hidden_of(model, batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=0)
    bounds = batch["packing"].boundaries.tolist()
    assert given == [(max(end - start for start, end in pairwise(bounds)), bounds)] * 2  # of two layers


def test_llms_that_cannot_keep_samples_apart_are_refused() -> None:
    llm = make_tiny_model().model.language_model
    check_takes_packing(llm, longest=512)
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 2}
    slides: Any = SimpleNamespace(config=MistralConfig(**sizes, sliding_window=64), forward=llm.forward)
    check_takes_packing(slides, longest=64)
    with pytest.raises(RecipeError, match="mistral looks back 64 tokens, and samples have up to 65") as caught:
        check_takes_packing(slides, longest=65)
    assert "set max_length to 64 at most" in str(caught.value.hint)
    slides.config = Qwen2Config(**sizes, use_sliding_window=True, max_window_layers=1)
    with pytest.raises(RecipeError, match="whole sequence; qwen2 has sliding_attention"):
        check_takes_packing(slides, longest=64)
    counts: Any = SimpleNamespace(config=LlamaConfig(**sizes), forward=lambda inputs_embeds: inputs_embeds)
    with pytest.raises(RecipeError, match="packing needs an LLM that takes positions; llama counts them itself"):
        check_takes_packing(counts, longest=64)
