"""The multimodal model against stock LLaVA, and what each part of stage 1.5 adds to it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from croc_cli.data.places import find_places
from croc_cli.model import lmm
from croc_cli.model.lmm import MultimodalModel, MultimodalOutput
from croc_cli.model.reconstruction import build_head
from croc_cli.model.token_pool import TokenPool, initialise_pool
from tests.model.batches import IMAGE, gradients, losses, make_batch, picture
from tests.tiny import LLM_WIDTH, NUM_VISUAL_TOKENS, make_tiny_model

CAPTIONED = [1, IMAGE, 20, 30, 210, 220, 2]
TEXT = [1, 40, 50, 60, 230, 240]


def make_model(*, pool_size: int = 24, head: str = "none", attention: str = "mixed", **options: Any) -> MultimodalModel:
    pool = None
    if pool_size:
        pool = TokenPool(pool_size, LLM_WIDTH)
        initialise_pool(pool.weight, None, "normal", torch.Generator().manual_seed(5))
    return MultimodalModel(
        make_tiny_model(),
        num_visual_tokens=NUM_VISUAL_TOKENS,
        pool=pool,
        head=build_head(head, LLM_WIDTH, NUM_VISUAL_TOKENS, 0.0),
        attention_kind=attention,
        **options,
    ).eval()


def run_with_hidden(model: MultimodalModel, batch: dict[str, Tensor]) -> tuple[MultimodalOutput, Tensor]:
    """Return the model's output, and the LLM's last hidden states [B, T, D]."""
    seen: list[Tensor] = []
    handle = model.llava.model.language_model.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.last_hidden_state)
    )
    with torch.no_grad():
        output = model(**batch)
    handle.remove()
    return output, seen[0]


def hidden_of(model: MultimodalModel, batch: dict[str, Tensor]) -> Tensor:
    return run_with_hidden(model, batch)[1]


def test_without_pool_and_causal_the_logits_are_those_of_stock_llava() -> None:
    batch = make_batch([CAPTIONED, TEXT, [1, IMAGE, 20, IMAGE, 30, 210]])
    model = make_model(pool_size=0, attention="causal")

    output, hidden = run_with_hidden(model, batch)
    with torch.no_grad():
        stock = model.llava(**{name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}).logits

    trained = batch["labels"][:, 1:] != -100
    torch.testing.assert_close(output.logits, stock[:, :-1][trained], atol=1e-5, rtol=0)
    assert output.labels.tolist() == [210, 220, 230, 240, 210]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(model.llava.lm_head(hidden)[real], stock[real], atol=1e-5, rtol=0)


def test_images_take_the_places_of_their_row_whatever_order_the_rows_come_in() -> None:
    batch = make_batch([[1, IMAGE, 20, IMAGE, 210], CAPTIONED])
    shuffled = dict(batch)
    order = torch.tensor([2, 0, 1])  # row 1's image first; row 0's two images stay in their order
    for name in ("pixel_values", "image_rows", "image_is_real", "masked"):
        shuffled[name] = batch[name][order]
    model = make_model(pool_size=0, attention="causal")

    straight, hidden = run_with_hidden(model, batch)
    other, other_hidden = run_with_hidden(model, shuffled)

    torch.testing.assert_close(hidden, other_hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(straight.visual_hidden[order], other.visual_hidden, atol=1e-5, rtol=0)
    start = 1 + NUM_VISUAL_TOKENS + 1
    torch.testing.assert_close(straight.visual_hidden[1], hidden[0, start : start + NUM_VISUAL_TOKENS])


def test_two_images_of_one_sample_are_both_masked_and_reconstructed() -> None:
    batch = make_batch([[1, IMAGE, 20, IMAGE, 210]], num_masked=12)
    output = make_model()(**batch)

    assert output.assignment.shape == (2, 12)
    assert losses(output, batch)[1] > 0
    for image in range(2):
        assert output.assignment[image].unique().numel() == 12
    shared = make_model(shares_assignment=True)(**batch).assignment
    assert output.assignment.unique().numel() < shared.unique().numel() == 24


@pytest.mark.parametrize("attention", ["causal", "mixed", "prefix"])
def test_text_never_sees_a_later_label(attention: str) -> None:
    batch = make_batch([CAPTIONED])
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, -2] = 250
    model = make_model(pool_size=0, attention=attention)

    before, after = hidden_of(model, batch), hidden_of(model, changed)

    assert torch.equal(before[0, :-2], after[0, :-2])
    assert not torch.allclose(before[0, -1], after[0, -1])


def test_mixed_attention_shows_later_images_but_no_later_text() -> None:
    batch = make_batch([[1, 20, IMAGE, 30, 210]])
    model = make_model(pool_size=0, attention="mixed")
    seen = hidden_of(model, batch)

    other_text = {**batch, "input_ids": batch["input_ids"].clone()}
    other_text["input_ids"][0, -2] = 99
    assert torch.equal(seen[0, :-2], hidden_of(model, other_text)[0, :-2])

    other_image = {**batch, "pixel_values": picture(9)[None]}
    assert not torch.allclose(seen[0, 0], hidden_of(model, other_image)[0, 0])
    assert torch.equal(
        *(hidden_of(make_model(pool_size=0, attention="causal"), b)[0, :2] for b in (batch, other_image))
    )


def test_prefix_attention_shows_later_instruction_text_too() -> None:
    batch = make_batch([[1, 20, IMAGE, 30, 210]])
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][0, -2] = 99
    model = make_model(pool_size=0, attention="prefix")

    assert not torch.allclose(hidden_of(model, batch)[0, 0], hidden_of(model, other)[0, 0])


@pytest.mark.parametrize("attention", ["causal", "mixed", "prefix"])
def test_padding_is_never_attended_to(attention: str) -> None:
    batch = make_batch([CAPTIONED, TEXT])
    changed = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 77)}
    model = make_model(pool_size=0, attention=attention)
    real = batch["attention_mask"].bool()

    assert torch.equal(hidden_of(model, batch)[real], hidden_of(model, changed)[real])


@pytest.mark.parametrize("attention", ["causal", "mixed", "prefix"])
def test_rows_of_a_batch_do_not_see_each_other(attention: str) -> None:
    model = make_model(pool_size=0, attention=attention)
    alone, together = make_batch([TEXT], num_blanks=1), make_batch([CAPTIONED, TEXT])

    torch.testing.assert_close(
        hidden_of(model, alone)[0], hidden_of(model, together)[1, : len(TEXT)], atol=1e-5, rtol=0
    )


def test_places_that_the_collator_found_change_nothing() -> None:
    batch = make_batch([CAPTIONED, TEXT], num_blanks=1, num_masked=12)
    model = make_model()
    loss, found = gradients(model, batch)
    places = find_places(
        *(batch[name] for name in ("input_ids", "labels", "image_rows")),
        image_token_id=model.llava.config.image_token_id,
        num_visual_tokens=NUM_VISUAL_TOKENS,
    )
    given_loss, given = gradients(model, {**batch, "places": places})
    assert torch.equal(given_loss, loss)
    assert all(torch.equal(given[name], gradient) for name, gradient in found.items() if gradient is not None)


@pytest.mark.parametrize("attention", ["causal", "mixed", "prefix"])
def test_longer_padding_changes_neither_losses_nor_gradients(attention: str) -> None:
    batch = make_batch([CAPTIONED, TEXT], num_masked=12)
    loss, found = gradients(make_model(attention=attention), batch)
    missing = 128 - batch["input_ids"].shape[1]
    for name, filling in (("input_ids", 0), ("labels", -100), ("attention_mask", 0)):
        batch[name] = torch.nn.functional.pad(batch[name], (0, missing), value=filling)
    longer_loss, longer = gradients(make_model(attention=attention), batch)
    torch.testing.assert_close(longer_loss, loss)
    torch.testing.assert_close(longer, found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["mixed", "prefix"])
def test_eager_and_sdpa_agree(attention: str) -> None:
    batch = make_batch([CAPTIONED, TEXT])
    real = batch["attention_mask"].bool()
    outputs = []
    for kernel in ("sdpa", "eager"):
        model = make_model(pool_size=0, attention=attention)
        model.llava.model.language_model.set_attn_implementation(kernel)
        outputs.append(hidden_of(model, batch)[real])

    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_causal_rows_padded_on_the_right_need_no_mask(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch([CAPTIONED, TEXT])
    assert not batch["attention_mask"].bool().all()
    model = make_model(pool_size=0, attention="causal")
    model.llava.model.language_model.set_attn_implementation(kernel)
    loss, found = gradients(model, batch)
    monkeypatch.setattr(lmm, "build_attention_mask", lambda _config, _embeds, padding, **_: padding)
    expected_loss, expected = gradients(model, batch)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["mixed", "prefix"])
def test_flex_attention_and_sdpa_agree_in_outputs_and_gradients(attention: str) -> None:
    batch = {name: tensor.cuda() for name, tensor in make_batch([CAPTIONED, TEXT], num_masked=12).items()}
    real = batch["attention_mask"].bool()
    found = []
    for kernel in ("sdpa", "flex_attention"):
        model = make_model(attention=attention).cuda()
        model.llava.model.language_model.set_attn_implementation(kernel)
        found.append((hidden_of(model, batch)[real], gradients(model, batch)[1]["pool.weight"]))

    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-2)


def test_a_row_of_padding_alone_gives_no_nan() -> None:
    batch = make_batch([CAPTIONED, TEXT])
    batch["attention_mask"][1] = 0
    batch["labels"][1] = -100
    for kernel in ("sdpa", "eager"):
        model = make_model(attention="mixed")
        model.llava.model.language_model.set_attn_implementation(kernel)
        loss, found = gradients(model, batch)
        assert loss.isfinite()
        assert all(gradient is None or gradient.isfinite().all() for gradient in found.values())


def test_a_row_of_padding_alone_keeps_one_key_because_not_every_kernel_can_do_without() -> None:
    batch = make_batch([CAPTIONED, TEXT])
    batch["attention_mask"][1] = 0
    model = make_model(pool_size=0, attention="mixed")
    masks: list[Tensor] = []
    model.llava.model.language_model.register_forward_pre_hook(
        lambda _, __, named: masks.append(named["attention_mask"]), with_kwargs=True
    )
    model(**batch)
    assert masks[0][1, 0].any(dim=0).tolist() == [True] + [False] * (len(batch["input_ids"][0]) - 1)


def test_a_blank_image_changes_neither_loss_nor_gradients() -> None:
    model = make_model(head="bert")
    plain = make_batch([CAPTIONED, TEXT], num_masked=12)
    with_blank = make_batch([CAPTIONED, TEXT], num_masked=12, num_blanks=1)

    loss, found = gradients(model, plain)
    loss_blank, found_blank = gradients(model, with_blank)

    torch.testing.assert_close(loss, loss_blank)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, found_blank[name], atol=1e-5, rtol=1e-4, msg=name)


def test_an_image_that_failed_to_open_keeps_its_place_and_adds_nothing() -> None:
    model = make_model(head="bert")
    plain = make_batch([CAPTIONED], num_masked=12)
    failed = make_batch([CAPTIONED, CAPTIONED], num_masked=12)
    failed["labels"][1] = -100
    failed["pixel_values"][1] = 0
    failed["image_is_real"][1] = False

    loss, found = gradients(model, plain)
    loss_failed, found_failed = gradients(model, failed)

    torch.testing.assert_close(loss, loss_failed)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, found_failed[name], atol=1e-5, rtol=1e-4, msg=name)


def test_every_parameter_has_a_gradient_on_a_batch_without_images_or_labels() -> None:
    model = make_model(head="bert")
    model.llava.model.vision_tower.requires_grad_(False)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    for row in (TEXT, [1, 40, 50]):
        loss, found = gradients(model, make_batch([row], num_blanks=1, num_masked=12))
        assert [name for name in trainable if found[name] is None] == []
        outside = [name for name in trainable if not name.startswith(("llava.model.language_model", "llava.lm_head"))]
        assert all(found[name].abs().max() == 0 for name in outside)  # type: ignore[union-attr]
    assert loss == 0


def test_the_zero_term_alone_reaches_every_parameter_and_moves_none() -> None:
    model = make_model(head="bert")
    model.llava.model.vision_tower.requires_grad_(False)
    model(**make_batch([TEXT], num_blanks=1, num_masked=12)).zero.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() == 0, name


def test_every_parameter_has_a_gradient_when_nothing_is_masked() -> None:
    model = make_model(head="linear")
    model.llava.model.vision_tower.requires_grad_(False)

    _, found = gradients(model, make_batch([CAPTIONED]))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    assert [name for name in trainable if found[name] is None] == []


def test_gradients_reach_only_the_pool_tokens_in_use() -> None:
    batch = make_batch([CAPTIONED], num_masked=12)
    model = make_model()
    _, found = gradients(model, batch)
    pool_gradient = found["pool.weight"]
    assert pool_gradient is not None

    used = model(**batch).assignment.flatten().sort().values
    assert pool_gradient.abs().sum(dim=1).nonzero().squeeze(1).tolist() == used.tolist()


def test_with_every_visual_token_masked_no_gradient_reaches_the_projector() -> None:
    _, found = gradients(make_model(), make_batch([CAPTIONED], num_masked=NUM_VISUAL_TOKENS))

    projector = found["llava.model.multi_modal_projector.linear_2.weight"]
    assert projector is not None
    assert projector.abs().max() == 0


def test_a_frozen_vision_tower_leaves_no_graph() -> None:
    model = make_model(pool_size=0)
    model.llava.model.vision_tower.requires_grad_(False)
    needs_gradient = []
    model.llava.model.multi_modal_projector.register_forward_pre_hook(
        lambda _, inputs: needs_gradient.append(inputs[0].requires_grad)
    )
    model(**make_batch([CAPTIONED]))
    assert needs_gradient == [False]


def test_gradient_checkpointing_changes_no_gradient() -> None:
    batch = make_batch([CAPTIONED, TEXT], num_masked=12)
    plain, checkpointed = make_model().train(), make_model().train()
    checkpointed.llava.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    runs = [0]
    layer = checkpointed.llava.model.language_model.layers[0]
    layer.input_layernorm.register_forward_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))

    loss, found = gradients(plain, batch)
    loss_checkpointed, found_checkpointed = gradients(checkpointed, batch)

    assert runs == [2]  # once forward, once again for the backward pass
    torch.testing.assert_close(loss, loss_checkpointed)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, found_checkpointed[name], msg=name)


def test_l2_norm_gives_visual_tokens_of_unit_length() -> None:
    targets = make_model(visual_norm="l2")(**make_batch([CAPTIONED])).visual_targets
    torch.testing.assert_close(targets.norm(dim=-1), torch.ones(1, NUM_VISUAL_TOKENS))


def test_bfloat16_runs_and_measures_in_float32() -> None:
    batch = make_batch([CAPTIONED, TEXT], num_masked=12)
    loss, found = gradients(make_model(head="bert").to(torch.bfloat16), batch)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert found["pool.weight"].dtype == torch.bfloat16  # type: ignore[union-attr]


def test_a_diverged_model_gives_a_loss_that_is_not_finite_instead_of_an_error() -> None:
    model = make_model()
    with torch.no_grad():
        model.llava.model.multi_modal_projector.linear_2.bias.fill_(float("nan"))
    loss, _ = gradients(model, make_batch([CAPTIONED], num_masked=12))
    assert not loss.isfinite()


def test_image_tokens_without_an_image_are_refused() -> None:
    batch = make_batch([CAPTIONED, TEXT])
    batch["image_rows"] = torch.tensor([1])
    with pytest.raises(ValueError, match=r"rows hold \[16, 0\] image tokens, expected \[0, 16\]: 16 for each image"):
        make_model()(**batch)


def test_a_tower_with_another_number_of_tokens_is_refused() -> None:
    model = MultimodalModel(make_tiny_model(), num_visual_tokens=9)
    with pytest.raises(ValueError, match="the vision tower gives 16 visual tokens an image, expected 9"):
        model.encode_images(picture(0)[None])
