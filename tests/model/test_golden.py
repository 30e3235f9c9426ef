"""The `released-code` preset gives what the authors' code gave."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from croc_cli.model.lmm import MultimodalModel
from croc_cli.objectives.caption import caption_loss_sum
from croc_cli.objectives.reconstruction import reconstruction_loss_sum
from croc_cli.objectives.settings import ObjectiveSettings
from tests.model.golden_model import expand_images, load_golden_model

GOLDEN = Path(__file__).parent / "golden"


def test_released_code_preset_gives_the_losses_and_gradients_of_the_released_code() -> None:
    golden = load_golden_model(GOLDEN, vision_config=GOLDEN / "vision_config.json")
    assert golden.pool is not None
    case = load_file(GOLDEN / "reconstruct_0.safetensors")
    model = MultimodalModel(
        golden.llava,
        num_visual_tokens=golden.num_visual_tokens,
        pool=golden.pool,
        head=golden.head,
        matching="nearest",
        attention_kind="prefix",
        visual_norm="l2",
    )
    masked = case["masked"].bool()
    batch = expand_images(case, num_visual=golden.num_visual_tokens)

    output = model(**batch, masked=masked)
    caption = caption_loss_sum(output.logits, output.labels) / len(output.labels)
    reconstruction = reconstruction_loss_sum(
        output.visual_hidden,
        output.visual_targets,
        masked,
        batch["image_is_real"],
        ObjectiveSettings(target="l2", loss="smooth_l1", smooth_l1_beta=0.01, scope="all"),
    )
    smooth_l1_mean = reconstruction.total / batch["image_is_real"].sum()
    loss = caption + 10 * smooth_l1_mean + output.zero
    loss.backward()

    def close(value: torch.Tensor, name: str) -> None:
        assert value.item() == pytest.approx(case[name].item(), abs=1e-4), name

    close(caption, "caption_loss")
    close(smooth_l1_mean, "smooth_l1_mean")
    close(loss, "loss")
    pool_gradient = golden.pool.weight.grad
    assert pool_gradient is not None
    used = pool_gradient.abs().sum(dim=1).nonzero().squeeze(1)
    assert torch.equal(used, case["pool_rows_used"])
    assert output.assignment is not None
    assert torch.equal(output.assignment.unique(), case["pool_rows_used"])
    close(pool_gradient.norm(), "grad_norm_pool")
    close(golden.llava.model.multi_modal_projector.linear_1.weight.grad.norm(), "grad_norm_projector_0")
    close(golden.llava.lm_head.weight.grad.norm(), "grad_norm_lm_head")
