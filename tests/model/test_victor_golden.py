"""With the settings of `victor-code-7b`, croc gives the losses and gradients that ViCToR's own code gave."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from croc_cli.checkpoint.formats.original_load import open_original
from croc_cli.checkpoint.opened import OpenedModel
from croc_cli.model.lmm import MultimodalModel, MultimodalOutput
from croc_cli.model.matching import pairwise_cost
from croc_cli.model.reconstruction import build_head
from croc_cli.model.token_pool import TokenPool
from croc_cli.objectives.caption import caption_loss_sum
from croc_cli.objectives.reconstruction import reconstruction_loss_sum
from croc_cli.objectives.settings import ObjectiveSettings
from croc_cli.recipe.load import load_recipe
from tests.checkpoint.originals import GOLDEN, VICTOR, make_victor

NUM_VISUAL = 729
TOLERANCE = 1e-5
LLAVA_GROUPS = {
    "vision_tower": "model.vision_tower.",
    "projector": "model.multi_modal_projector.",
    "embed_tokens": "model.language_model.embed_tokens.",
    "layers": ("model.language_model.layers.", "model.language_model.norm."),
    "lm_head": "lm_head.",
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return open_original(make_victor(tmp_path_factory.mktemp("victor") / "checkpoint"))


def model_of(opened: OpenedModel, *, has_pool: bool) -> MultimodalModel:
    """Return the model as `victor-code-7b` trains it, with the golden pool and head."""
    recipe = load_recipe("victor-code-7b", environ={}).recipe
    section, dim = recipe.reconstruct, opened.config.text_config.hidden_size
    pool = head = None
    if has_pool:
        pool = TokenPool(*opened.training_state["pool.weight"].shape)
        pool.load_state_dict({"weight": opened.training_state["pool.weight"]})
        head = build_head(section.reconstruction.head, dim, NUM_VISUAL, 0.0)
        assert head is not None
        state = opened.training_state
        head.load_state_dict({name[5:]: tensor for name, tensor in state.items() if name.startswith("head.")})
    copied = replace(opened, weights={name: tensor.clone() for name, tensor in opened.weights.items()})
    llava = copied.build()
    llava.set_attn_implementation({"text_config": "eager", "vision_config": "eager"})
    return MultimodalModel(
        llava.train(),
        num_visual_tokens=NUM_VISUAL,
        pool=pool,
        head=head,
        matching=section.matching,
        shares_assignment=section.matching_scope == "sample",
        attention_kind=section.attention if has_pool else "causal",
        visual_norm=recipe.model.visual_norm,
    )


def batch_of(case: dict[str, Tensor], image_token_id: int) -> dict[str, Any]:
    """Give each image its places; a row without one has no picture here, where the code feeds the tower a blank."""
    rows, labels = [], []
    for ids, keep, own in zip(case["input_ids"], case["attention_mask"].bool(), case["labels"], strict=True):
        counts = torch.where(ids[keep] == -200, NUM_VISUAL, 1)
        rows.append(torch.where(ids[keep] == -200, image_token_id, ids[keep]).repeat_interleave(counts))
        labels.append(own[keep].repeat_interleave(counts))
    shows = [bool((row == image_token_id).any()) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True, padding_value=0),
        "labels": pad(labels, batch_first=True, padding_value=-100),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        "image_rows": torch.tensor([row for row, has_image in enumerate(shows) if has_image]),
        "image_is_real": torch.ones(sum(shows), dtype=torch.bool),
        "pixel_values": case["pixel_values"][torch.tensor(shows)],
    }


def caption_mean(output: MultimodalOutput) -> Tensor:
    """Return the mean over the trained tokens of the micro-batch, as the code takes it."""
    return caption_loss_sum(output.logits, output.labels) / (output.labels != -100).sum()


def gradient_norms(model: MultimodalModel, loss: Tensor) -> dict[str, float]:
    """Return the norm of each group's gradient; every parameter of the tower is allowed one."""
    groups = {
        name: [p for n, p in model.llava.named_parameters() if n.startswith(s)] for name, s in LLAVA_GROUPS.items()
    }
    for name, part in (("token_pool", model.pool), ("img_head", model.head)):
        groups[name] = [] if part is None else list(part.parameters())
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    gradients = {name: [p.grad.double().norm() for p in own if p.grad is not None] for name, own in groups.items()}
    return {name: float(torch.stack(norms).norm()) if norms else 0.0 for name, norms in gradients.items()}


def check_norms(case: dict[str, Tensor], kind: str, norms: dict[str, float]) -> None:
    wanted = {name: case[key].item() for name in norms if (key := f"gradient_norm.{kind}.{name}") in case}
    assert wanted
    assert {name: norms[name] for name in wanted} == pytest.approx(wanted, abs=TOLERANCE)


@pytest.mark.parametrize("number", [0, 1])
def test_stage_1_5_gives_the_losses_gradients_and_assignment_of_victors_code(number: int, opened: OpenedModel) -> None:
    case = load_file(GOLDEN / VICTOR / f"reconstruct_{number}.safetensors")
    section = load_recipe("victor-code-7b", environ={}).recipe.reconstruct
    model = model_of(opened, has_pool=True)
    masked = case["masked"].bool()
    assert masked.sum(dim=1).tolist() == [section.mask.num_masked(NUM_VISUAL)] * len(masked)
    batch = batch_of(case, opened.config.image_token_id)
    output = model(**batch, masked=masked)

    measured = section.reconstruction.model_dump(exclude={"head", "head_dropout"})
    settings = ObjectiveSettings(**section.objectives.model_dump(), **measured)
    found = reconstruction_loss_sum(
        output.visual_hidden, output.visual_targets, masked, batch["image_is_real"], settings
    )
    caption, smooth_l1_mean = caption_mean(output), found.total / len(masked)
    reconstruction = settings.reconstruction_weight * smooth_l1_mean
    total = settings.caption_weight * caption + reconstruction

    assert torch.equal(output.assignment.int(), case["assigned"])
    if "visual_tokens" in case:
        torch.testing.assert_close(output.visual_targets, case["visual_tokens"], rtol=0, atol=TOLERANCE)
    losses = {"caption_loss": caption, "smooth_l1_mean": smooth_l1_mean, "loss": total}
    wanted = {name: case[name].item() for name in losses}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(wanted, abs=TOLERANCE)
    for kind, loss in (("caption", caption), ("reconstruction", reconstruction), ("total", total)):
        check_norms(case, kind, gradient_norms(model, loss + output.zero))
    assert int((model.pool.weight.grad.abs().sum(dim=1) > 0).sum()) == case["pool_rows_used"].item()
    for image, tokens in enumerate(output.visual_targets):
        chosen = pairwise_cost(tokens[masked[image]], model.pool.weight).gather(1, output.assignment[image][:, None])
        assert chosen.sum().item() == pytest.approx(case["assignment_cost"][image].item(), abs=1e-2)


@pytest.mark.parametrize(("stage", "groups"), [("align", ("projector",)), ("finetune", tuple(LLAVA_GROUPS))])
def test_stages_1_and_2_give_the_losses_and_gradients_of_victors_code(
    stage: str, groups: tuple[str, ...], opened: OpenedModel
) -> None:
    case = load_file(GOLDEN / VICTOR / f"{stage}_0.safetensors")
    model = model_of(opened, has_pool=False)
    output = model(**batch_of(case, opened.config.image_token_id))
    loss = caption_mean(output)
    assert loss.item() == pytest.approx(case["loss"].item(), abs=TOLERANCE)
    norms = gradient_norms(model, loss + output.zero)
    check_norms(case, "total", {group: norms[group] for group in groups})


@pytest.mark.parametrize("number", [0, 1])
def test_inference_gives_the_logits_of_victors_code(number: int, opened: OpenedModel) -> None:
    case = load_file(GOLDEN / VICTOR / f"inference_{number}.safetensors")
    model = model_of(opened, has_pool=False).eval()
    batch = batch_of(case | {"labels": torch.full_like(case["input_ids"], -100)}, opened.config.image_token_id)
    with torch.no_grad():
        tokens = model.encode_images(batch["pixel_values"])
        embeds = model.llava.get_input_embeddings()(batch["input_ids"])
        is_visual = batch["input_ids"] == opened.config.image_token_id
        embeds[is_visual] = tokens.flatten(0, 1)
        language_model = model.llava.model.language_model
        hidden = language_model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).last_hidden_state
        logits = model.llava.lm_head(hidden)
    for row, places in enumerate(case["text_positions"].long()):
        is_text = places >= 0
        torch.testing.assert_close(
            logits[row, places[is_text]], case["text_logits"][row, is_text], rtol=0, atol=TOLERANCE
        )


def test_the_golden_files_are_small() -> None:
    assert all(file.stat().st_size < 1e6 for file in Path(GOLDEN / VICTOR).iterdir())
