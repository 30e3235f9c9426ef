from typing import Any

import pytest

from croc_cli.estimate.resources import Hardware
from croc_cli.estimate.settings import describe_settings
from tests.launch.make import recipe

A100S = Hardware(num_ranks=8, on_gpu=True, memory_bytes=80 * 10**9, threads=1, utilisation=0.4)


def test_a_dry_run_of_stage_1_5_shows_pool_mask_matching_attention_objective_and_targets() -> None:
    text = describe_settings(recipe("croc-7b"), "reconstruct", A100S)
    for words in (
        "pool         2,048 × 4,096",
        "432 of 576 visual tokens",
        "Hungarian",
        "mixed",
        "α 10",
        "layer-normalised",
        "of 80 GB per GPU",
        "hours",
    ):
        assert words in text


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_other_stages_show_data_template_and_rates_but_no_pool(stage: str) -> None:
    text = describe_settings(recipe("nano"), stage, None)  # type: ignore[arg-type]
    assert "drawn scenes" in text
    assert "projector" in text
    assert "pool" not in text
    assert "memory" not in text


def test_changed_settings_are_said() -> None:
    changed = recipe(
        reconstruct__matching="nearest",
        reconstruct__attention="causal",
        reconstruct__objectives__reconstruction_weight=2.5,
        reconstruct__reconstruction__target="raw",
        reconstruct__reconstruction__stop_gradient=False,
    )
    text = describe_settings(changed, "reconstruct", None)
    for words in ("nearest pool token", "causal, as in LLaVA", "α 2.5", "visual tokens, raw; L2 / √D"):
        assert words in text


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"shape": "block"}, "432 of 576 visual tokens of an image (0.75), in blocks"),
        (
            {"schedule": "cosine", "start": 0.25},
            "144 to 432 of 576 visual tokens of an image (0.25 to 0.75), a cosine over the stage",
        ),
        (
            {"range": (0.0, 0.5), "shape": "block"},
            "1 to 288 of 576 visual tokens of an image (0 to 0.5), drawn for each sample, in blocks",
        ),
    ],
)
def test_masks_that_vary_say_between_what(mask: dict[str, Any], words: str) -> None:
    changed = recipe("croc-7b", **{f"reconstruct__mask__{key}": value for key, value in mask.items()})
    assert f"masked       {words}\n" in describe_settings(changed, "reconstruct", None)


def test_the_layer_and_the_loss_that_predict_are_said() -> None:
    changed = recipe("croc-7b", reconstruct__reconstruction__layer=16, reconstruct__reconstruction__loss="cosine")
    text = describe_settings(changed, "reconstruct", None)
    assert "1 - cosine, mean over the masked tokens, from hidden state 16 of the LLM" in text
