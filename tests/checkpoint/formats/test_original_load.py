"""Checkpoints of the original code give the original code's logits, in every form."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.checkpoint.formats.original_load import OriginalOptions, open_original
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.errors import UsageError
from tests.checkpoint.originals import (
    IN_CHECKPOINT,
    KINDS,
    golden_weights,
    largest_difference,
    make_base,
    make_original,
    make_tower,
)

TOLERANCE = 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_the_original_code_opens_as_it_is_with_the_original_logits(kind: str, tmp_path: Path) -> None:
    model = load_for_inference(make_original(tmp_path / kind, kind))
    assert max(largest_difference(model.llava, kind, number) for number in (0, 1)) < TOLERANCE
    assert model.metadata.visual_norm == {"llava_llama": "none", "croc_llama": "l2"}[kind]
    assert model.metadata.template == "vicuna_v1"


def test_without_the_norm_a_croc_checkpoint_would_be_another_model(tmp_path: Path) -> None:
    llava = open_original(make_original(tmp_path / "croc", "croc_llama")).build()
    assert largest_difference(llava.eval(), "croc_llama", 1) > 100 * TOLERANCE


@pytest.mark.parametrize(("form", "has_tower"), [("bin", True), ("shards", True), ("safetensors", False)])
def test_torch_files_shards_and_a_tower_outside_give_the_same_logits(
    form: str, has_tower: bool, tmp_path: Path
) -> None:
    folder = make_original(tmp_path / "llava", form=form, has_tower=has_tower)
    llava = open_original(folder).build().eval()
    assert largest_difference(llava, "llava_llama", 1) < TOLERANCE


def test_a_projector_alone_goes_onto_its_base(tmp_path: Path) -> None:
    folder = make_original(tmp_path / "projector")
    (folder / "model.safetensors").unlink()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    projector = {name: t for name, t in golden_weights("llava_llama").items() if "mm_projector" in name}
    torch.save(projector, folder / "mm_projector.bin")
    base = make_base(tmp_path / "base")

    with pytest.raises(UsageError, match=r"holds a projector alone \(mm_projector.bin\)") as caught:
        open_original(folder)
    assert "--base names the LLM" in str(caught.value.hint)
    opened = open_original(folder, OriginalOptions(base=str(base)))

    assert largest_difference(opened.build().eval(), "llava_llama", 1) < TOLERANCE
    assert opened.metadata.template == "plain"


def test_lora_goes_onto_the_base_that_it_names(tmp_path: Path) -> None:
    weights, base = golden_weights("llava_llama"), make_base(tmp_path / "base")
    folder = make_original(tmp_path / "lora")
    (folder / "model.safetensors").unlink()
    layer = "model.layers.1.self_attn.q_proj"
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(4, 64, generator=generator), torch.randn(64, 4, generator=generator)
    adapter = {f"base_model.model.{layer}.lora_A.weight": down, f"base_model.model.{layer}.lora_B.weight": up}
    torch.save(adapter, folder / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    projector = {f"base_model.model.{name}": t for name, t in weights.items() if "mm_projector" in name}
    torch.save(projector, folder / "non_lora_trainables.bin")

    opened = open_original(folder)

    merged = opened.weights["model.language_model.layers.1.self_attn.q_proj.weight"]
    torch.testing.assert_close(merged, weights[f"{layer}.weight"] + 2 * up @ down)
    assert torch.equal(
        opened.weights["model.multi_modal_projector.linear_2.bias"], weights["model.mm_projector.2.bias"]
    )


def test_pool_and_head_of_a_croc_checkpoint_are_carried_along(tmp_path: Path) -> None:
    weights = golden_weights("croc_llama")
    state = open_original(make_original(tmp_path / "croc", "croc_llama")).training_state
    assert torch.equal(state["pool.weight"], weights["model.mask_token"])
    assert torch.equal(
        state["head.layer.attention.self.query.weight"], weights["transform_block.layers.0.attention.self.query.weight"]
    )
    assert torch.equal(state["unused.cross_attention.out.bias"], weights["model.cross_attention.out.bias"])


def test_the_image_token_comes_after_the_vocabulary_which_stays_as_it_was(tmp_path: Path) -> None:
    opened, weights = open_original(make_original(tmp_path / "llava")), golden_weights("llava_llama")
    assert (opened.config.image_token_id, opened.config.text_config.vocab_size) == (320, 384)
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        original = weights["model.embed_tokens.weight" if "embed" in name else name]
        assert torch.equal(opened.weights[name][:320], original)
        torch.testing.assert_close(opened.weights[name][320:], original.mean(dim=0).expand(64, -1))


def test_rotary_settings_of_long_contexts_are_kept(tmp_path: Path) -> None:
    scaled = {"rope_theta": 50000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    text = open_original(make_original(tmp_path / "llava", **scaled)).config.text_config
    assert text.rope_parameters == {"rope_type": "linear", "rope_theta": 50000.0, "factor": 2.0}


def test_old_buffers_that_carry_nothing_are_left_out(tmp_path: Path) -> None:
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        f"{IN_CHECKPOINT}vision_model.embeddings.position_ids": torch.arange(17),
    }
    opened = open_original(make_original(tmp_path / "llava", weights=golden_weights("llava_llama") | old, form="bin"))
    assert not any(name.endswith(("inv_freq", "position_ids")) for name in opened.weights)


def test_missing_and_unexpected_weights_are_named_and_pass_only_if_allowed(tmp_path: Path) -> None:
    weights = golden_weights("llava_llama")
    del weights["model.layers.1.mlp.up_proj.weight"]
    folder = make_original(tmp_path / "llava", weights=weights | {"model.adapter.weight": torch.ones(2)})
    with pytest.raises(UsageError) as caught:
        open_original(folder)
    assert "1 weight is missing (model.language_model.layers.1.mlp.up_proj.weight)" in caught.value.message
    assert "1 weight is unexpected (model.language_model.adapter.weight)" in caught.value.message
    assert "--allow-partial" in str(caught.value.hint)

    said: list[str] = []
    opened = open_original(folder, OriginalOptions(allow_partial=True), say=said.append)
    assert opened.weights["model.language_model.layers.1.mlp.up_proj.weight"].shape == (96, 64)
    assert "model.language_model.adapter.weight" not in opened.weights
    assert len(said) == 2
    opened.build()


def test_parts_that_do_not_fit_are_named_with_their_sizes(tmp_path: Path) -> None:
    weights = golden_weights("llava_llama")
    weights["model.mm_projector.0.weight"] = torch.ones(64, 48)
    with pytest.raises(UsageError) as caught:
        open_original(make_original(tmp_path / "llava", weights=weights))
    expected = (
        "the vision tower gives 32 dimensions, the projector's first layer is 64 × 48 (out × in), the LLM takes 64"
    )
    assert expected in caught.value.message


def test_another_tower_than_that_of_the_weights_is_refused(tmp_path: Path) -> None:
    folder = make_original(tmp_path / "llava")
    config = json.loads((folder / "vision_tower" / "config.json").read_text())
    (folder / "vision_tower" / "config.json").write_text(json.dumps(config | {"image_size": 84}))
    with pytest.raises(UsageError, match=r"position_embedding.weight is \(17, 32\), expected \(37, 32\)"):
        open_original(folder)


def test_a_tower_that_is_not_here_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = make_original(tmp_path / "llava", mm_vision_tower="/their/disk/some-tower")
    with pytest.raises(
        UsageError, match="names the vision tower '/their/disk/some-tower', which is not here"
    ) as caught:
        open_original(folder)
    assert "--vision-tower DIR" in str(caught.value.hint)
    make_tower(tmp_path / "mine", golden_weights("llava_llama"))
    opened = open_original(folder, OriginalOptions(vision_tower=str(tmp_path / "mine")))
    assert largest_difference(opened.build().eval(), "llava_llama", 0) < TOLERANCE


def test_the_tower_of_llava_is_known_by_the_end_of_its_path(tmp_path: Path) -> None:
    """Its weights lie inside, so config and pictures are all that is needed, and no hub is asked."""
    folder = make_original(tmp_path / "llava", mm_vision_tower="/their/disk/clip-vit-large-patch14-336")
    with pytest.raises(UsageError, match="the vision tower gives 1024 dimensions"):
        open_original(folder)


def test_a_checkpoint_without_tokenizer_says_where_one_could_come_from(tmp_path: Path) -> None:
    folder = make_original(tmp_path / "llava")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UsageError, match="has no tokenizer: none of tokenizer.json, tokenizer.model"):
        open_original(folder)
    base = make_base(tmp_path / "base")
    assert open_original(folder, OriginalOptions(base=str(base))).config.image_token_id == 320


@pytest.mark.parametrize(
    "values",
    [{"bos_token_id": 1.5}, {"num_hidden_layers": True}, {"eos_token_id": "x"}],
)
def test_values_of_other_types_in_an_original_config_are_named(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = make_original(tmp_path / "m", **values)
    if "eos_token_id" in values:
        (folder / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(UsageError, match=rf"config\.json cannot be opened: .*{next(iter(values))}"):
        open_original(folder)
