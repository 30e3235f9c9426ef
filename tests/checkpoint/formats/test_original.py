"""The original layout's config and names."""

import json

import pytest

from croc_cli.checkpoint.formats.original import (
    is_original,
    original_name,
    projector_name,
    read_original_config,
    stock_name,
    training_state_name,
)
from croc_cli.errors import UsageError
from tests.checkpoint.originals import GOLDEN, KINDS, golden_weights


def config(**changes: object) -> dict[str, object]:
    return json.loads((GOLDEN / "llava_llama" / "config.json").read_text()) | changes


def test_originals_are_told_from_stock_llava_also_where_both_say_llava() -> None:
    assert is_original({"model_type": "croc_llama"})
    assert is_original({"model_type": "llava", "mm_vision_tower": "x"})
    assert not is_original({"model_type": "llava", "vision_config": {}})


def test_every_name_of_both_formats_comes_back() -> None:
    for kind in KINDS:
        for name in golden_weights(kind):
            assert original_name(training_state_name(name) or stock_name(name), kind) == name


def test_a_projectors_file_may_leave_out_what_stands_before_its_name() -> None:
    for name in ("mm_projector.0.bias", "model.mm_projector.0.bias", "base_model.model.model.mm_projector.0.bias"):
        assert projector_name(name) == "model.mm_projector.0.bias"


def test_the_config_is_read_in_the_words_of_stock_llava() -> None:
    read = read_original_config(config(image_aspect_ratio=None, mm_vision_select_feature="cls_patch"), "config.json")
    assert (read.feature_layer, read.strategy, read.image_aspect, read.visual_norm) == (-2, "full", "square", "none")
    assert read_original_config(config(model_type="croc_llama"), "config.json").visual_norm == "l2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear', expected mlp2x_gelu"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres', expected pad or square"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True, expected False"),
        ({"mm_vision_tower": None}, "mm_vision_tower is None, expected a folder or a hub id"),
    ],
)
def test_what_stock_llava_cannot_do_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_original_config(config(**changes), "config.json")
