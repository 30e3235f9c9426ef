"""ViCToR's layout (`llava_qwen`): there and back, what is lost, and whose checkpoints only look like it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from croc_cli.chat.session import prompt_builder
from croc_cli.checkpoint.convert import ConvertRequest, convert
from croc_cli.checkpoint.formats.original_load import OriginalOptions, open_original
from croc_cli.checkpoint.formats.original_parts import find_tower
from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.checkpoint.locate import locate_checkpoint
from croc_cli.checkpoint.metadata import CheckpointMetadata, read_metadata
from croc_cli.data.image import build_image_processor
from croc_cli.data.processor_template import chat_template_for
from croc_cli.data.sample import Turn
from croc_cli.errors import UsageError
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.model.build import assemble
from tests.checkpoint.originals import GOLDEN, QWEN_TOKENIZER, VICTOR, golden_weights, make_victor

NUM_TOKENS = 261  # of the tokenizer; rows behind them are croc's own, for the image token
OWN_WEIGHTS = ("model.token_pool", "model.pool_weight.", "img_head.")
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 12,
    "patch_size": 4,
}


def write(source: Path, destination: Path, **options: object) -> list[str]:
    said: list[str] = []
    convert(ConvertRequest(str(source), destination, **options), say=said.append)
    return said


def without_own(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(OWN_WEIGHTS)}


def make_own(
    folder: Path, *, tower: str = "siglip", visual_norm: Any = "l2", vocab_size: int = 320, **metadata: Any
) -> Path:
    """Write a tiny checkpoint of croc's with Qwen2, as stage 2 of `victor-7b` leaves it, and return its folder."""
    torch.manual_seed(3)
    towers = {"siglip": (SiglipVisionModel, SiglipVisionConfig), "clip": (CLIPVisionModel, CLIPVisionConfig)}
    model_class, config_class = towers[tower]
    model_class(config_class(**TOWER)).save_pretrained(folder.parent / "tower")
    llm = folder.parent / "llm"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": vocab_size}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    Qwen2ForCausalLM(Qwen2Config(**sizes, **heads)).save_pretrained(llm)
    AutoTokenizer.from_pretrained(QWEN_TOKENIZER).save_pretrained(llm)
    pictures = {"size": {"height": 12, "width": 12}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    assemble(
        folder.parent / "tower",
        llm,
        folder,
        seed=0,
        vision_feature_layer=-2,
        image_processor=build_image_processor(pictures, "pad", resampling=metadata.pop("resampling", "bicubic")),
        chat_template=chat_template_for("qwen_1_5", metadata.get("system_prompt")),
        dtype=torch.float32,
    )
    about = {"stage": "finetune", "step": 2, "template": "qwen_1_5", "image_aspect": "pad"} | metadata
    CheckpointMetadata(visual_norm=visual_norm, **about).write(folder)
    return folder


def logits_and_pixels(model: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    picture = Image.effect_noise((70, 50), 90).convert("RGB")
    torch.manual_seed(0)
    inputs = model.processor(images=picture, text="<image> What?", return_tensors="pt")
    pixels = torch.rand_like(inputs["pixel_values"])
    with torch.no_grad():
        logits = model.llava(input_ids=inputs["input_ids"], pixel_values=pixels).logits[..., :NUM_TOKENS]
    quiet = Image.linear_gradient("L").convert("RGB").resize((70, 50))
    return logits, model.processor(images=quiet, text="<image>", return_tensors="pt")["pixel_values"]


def assert_same_model(first: Path, second: Path) -> None:
    models = [load_for_inference(folder) for folder in (first, second)]
    (logits, pixels), (other_logits, other_pixels) = map(logits_and_pixels, models)
    torch.testing.assert_close(logits, other_logits, rtol=0, atol=1e-6)
    assert torch.equal(pixels, other_pixels)
    turns = [Turn("human", "Look <image>")]
    prompts = [build(turns, num_images=1) for build in map(prompt_builder, models)]
    assert prompts[0] == prompts[1]
    ends = [model.llava.generation_config.eos_token_id for model in models]
    assert ends[0] == ends[1]


def test_to_stock_and_back_is_bit_equal_in_weights_names_and_config(tmp_path: Path) -> None:
    source = make_victor(tmp_path / "victor")
    with pytest.raises(UsageError, match="it L2-normalises its visual tokens"):
        write(source, tmp_path / "stock")
    write(source, tmp_path / "stock", allow_loss=True)
    vision = json.loads((tmp_path / "stock" / "config.json").read_text())["vision_config"]
    assert (vision["num_hidden_layers"], vision["vision_use_head"]) == (2, False)
    assert read_metadata(tmp_path / "stock").visual_norm == "l2"
    state = load_file(tmp_path / "stock" / "croc_training_state.safetensors")
    assert {"pool.weight", "head.resize.weight", "head.resize.bias"} < state.keys()
    write(tmp_path / "stock", tmp_path / "again", to="llava")

    expected, found = golden_weights(VICTOR), load_file(tmp_path / "again" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "again")]
    assert configs[0] == configs[1]
    about = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert about["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert_same_model(source, tmp_path / "again")
    assert_same_model(source, tmp_path / "stock")


def test_it_is_asked_in_its_own_template_and_sees_pictures_as_its_code_makes_them(tmp_path: Path) -> None:
    model = load_for_inference(make_victor(tmp_path / "victor"))
    turns = [Turn("human", "What?\n<image>")]
    ids = evaluation_encoder(model).encode_prompt(turns)
    assert prompt_builder(model)(turns, num_images=1) == ids
    assert model.processor.tokenizer.decode(ids).replace("<image>" * 729, "<image>") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert model.processor.tokenizer.convert_tokens_to_ids("<|im_end|>") in model.llava.generation_config.eos_token_id
    pictures = load_file(QWEN_TOKENIZER / "images.safetensors")
    for number in (0, 1):
        picture = Image.fromarray(pictures[f"picture_{number}"].numpy())
        pixels = model.processor(images=picture, text="<image>", return_tensors="pt")["pixel_values"][0]
        assert torch.equal(pixels, pictures[f"pad_{number}"])
    first = open_original(make_victor(tmp_path / "stage-1", image_aspect_ratio="square"))
    assert first.metadata.image_aspect == "squeeze"
    picture = Image.fromarray(pictures["picture_0"].numpy())
    pixels = first.processor(images=picture, text="<image>", return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pixels, pictures["square_0"])


@pytest.mark.parametrize("form", ["whole", "shards", "bin"])
def test_checkpoints_of_llava_next_and_onevision_are_named_and_refused(form: str, tmp_path: Path) -> None:
    weights = without_own(golden_weights(VICTOR))
    source = make_victor(tmp_path / "llava-next-qwen", weights=weights, mm_pool_size=None)
    if form == "shards":
        (source / "model.safetensors").rename(source / "model-1.safetensors")
        weight_map = dict.fromkeys(weights, "model-1.safetensors")
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    if form == "bin":
        (source / "model.safetensors").unlink()
        torch.save(weights, source / "pytorch_model.bin")
    message = (
        r"llava-next-qwen holds a LLaVA-NeXT checkpoint \(model_type llava_qwen, image_aspect_ratio pad, "
        r"mm_patch_merge_type flat\): it has neither ViCToR's mm_pool_size .* nor model.token_pool or img_head"
    )
    for refuse in (open_original, *([locate_checkpoint] if form != "bin" else [])):
        with pytest.raises(UsageError, match=message) as caught:
            refuse(source)
        assert "croc reads llava (transformers), llava_llama (LLaVA-1.5), croc_llama (Croc), llava_qwen" in str(
            caught.value.hint
        )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image_aspect_ratio": "anyres_max_9", "mm_patch_merge_type": "spatial_unpad"}, "LLaVA-OneVision"),
        ({"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}, "LLaVA-NeXT"),
        ({"_name_or_path": "lmms-lab/llava-onevision-qwen2-0.5b-si"}, "LLaVA-OneVision"),
        ({"model_type": "llava", "image_aspect_ratio": "anyres_max_9"}, "LLaVA-OneVision"),
    ],
)
def test_each_generation_is_called_by_its_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    weights = without_own(golden_weights(VICTOR))
    source = make_victor(tmp_path / "other", weights=weights, mm_pool_size=None, **changes)
    with pytest.raises(UsageError, match=f"holds a {named} checkpoint"):
        locate_checkpoint(source)


@pytest.mark.parametrize("model_type", ["llava_onevision", "llava_next"])
def test_transformers_own_generations_are_named_too(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    names = {"llava_onevision": "LLaVA-OneVision", "llava_next": "LLaVA-NeXT"}
    with pytest.raises(UsageError, match=rf"holds a {model_type} model \({names[model_type]}\), expected a LLaVA: "):
        locate_checkpoint(tmp_path)


def test_several_crops_a_picture_are_refused_in_a_victor_too(tmp_path: Path) -> None:
    source = make_victor(tmp_path / "victor", image_aspect_ratio="anyres")
    with pytest.raises(UsageError, match="image_aspect_ratio is 'anyres', expected pad or square") as caught:
        locate_checkpoint(source)
    assert "most likely a LLaVA-NeXT checkpoint" in str(caught.value.hint)


def test_either_the_key_or_the_weights_tell_a_victor(tmp_path: Path) -> None:
    by_weights = make_victor(tmp_path / "by-weights", mm_pool_size=None)
    by_key = make_victor(tmp_path / "by-key", weights=without_own(golden_weights(VICTOR)))
    for source in (by_weights, by_key):
        locate_checkpoint(source)
        assert open_original(source).metadata.visual_norm == "l2"


def test_crocs_own_siglip_checkpoint_goes_there_and_back_and_what_is_lost_is_said(tmp_path: Path) -> None:
    source = make_own(tmp_path / "own")
    said = write(source, tmp_path / "victor", to="llava")
    assert any(
        "vision tower's last layer and pooling head, which nothing depends on: left out" in line for line in said
    )
    assert len(said) == 2, said  # and where the tower lies
    names = set(load_file(tmp_path / "victor" / "model.safetensors"))
    assert names == set(without_own(golden_weights(VICTOR)))
    config = json.loads((tmp_path / "victor" / "config.json").read_text())
    wanted = {"model_type": "llava_qwen", "mm_pool_size": 1, "mm_vision_select_layer": -2, "vocab_size": NUM_TOKENS}
    assert {key: config[key] for key in wanted} == wanted
    assert_same_model(source, tmp_path / "victor")
    write(tmp_path / "victor", tmp_path / "stock", allow_loss=True)
    assert_same_model(source, tmp_path / "stock")


def test_crocs_own_clip_checkpoint_keeps_its_whole_tower(tmp_path: Path) -> None:
    source = make_own(tmp_path / "own", tower="clip")
    [said] = write(source, tmp_path / "victor", to="llava")
    assert said.startswith("note: mm_vision_tower is ")
    again = open_original(tmp_path / "victor")
    assert (again.config.vision_config.num_hidden_layers, again.config.vision_feature_layer) == (3, -2)
    assert_same_model(source, tmp_path / "victor")


def test_what_the_layout_has_no_place_for_lies_beside_and_is_said(tmp_path: Path) -> None:
    source = make_own(tmp_path / "own", resampling="tower", system_prompt="Be brief.", image_aspect="pad")
    said = write(source, tmp_path / "victor", to="llava")
    assert any("resizes pictures bicubically and this model's are resized by bilinear" in line for line in said)
    assert any("no place for this model's chat template" in line for line in said)
    assert read_metadata(tmp_path / "victor").system_prompt == "Be brief."
    assert_same_model(source, tmp_path / "victor")
    write(tmp_path / "victor", tmp_path / "stock", allow_loss=True)
    assert_same_model(source, tmp_path / "stock")
    assert "image_resampling" not in read_metadata(tmp_path / "stock").extra


def test_pool_and_head_of_stage_1_5_go_along_and_a_head_that_the_layout_lacks_is_left_out(tmp_path: Path) -> None:
    source = make_own(tmp_path / "own")
    state = {"pool.weight": torch.ones(5, 32), "head.resize.weight": torch.eye(32), "head.resize.bias": torch.ones(32)}
    save_file(state, source / "croc_training_state.safetensors", {"format": "pt"})
    write(source, tmp_path / "victor", to="llava")
    weights = load_file(tmp_path / "victor" / "model.safetensors")
    assert torch.equal(weights["model.token_pool"], state["pool.weight"])
    assert torch.equal(weights["img_head.weight"], state["head.resize.weight"])
    assert json.loads((tmp_path / "victor" / "config.json").read_text())["mm_pool_size"] == 5
    bert = state | {"head.layer.x.weight": torch.ones(2)}
    save_file(bert, source / "croc_training_state.safetensors", {"format": "pt"})
    said = write(source, tmp_path / "other", to="llava")
    assert any("head of stage 1.5" in line and "left out" in line for line in said)


def test_rows_that_qwen_came_with_stay(tmp_path: Path) -> None:
    source = make_own(tmp_path / "own", vocab_size=400)
    write(source, tmp_path / "victor", to="llava")
    assert len(load_file(tmp_path / "victor" / "model.safetensors")["lm_head.weight"]) == 400
    tokens = json.loads((tmp_path / "victor" / "tokenizer.json").read_text())["added_tokens"]
    assert "<image>" not in {token["content"] for token in tokens}
    assert_same_model(source, tmp_path / "victor")


def test_a_qwen_without_the_norm_is_no_victor(tmp_path: Path) -> None:
    source = make_own(tmp_path / "own", visual_norm="none")
    with pytest.raises(UsageError, match=r"not qwen2 with siglip_vision_model and visual_norm none"):
        write(source, tmp_path / "victor", to="llava")


def test_a_tower_outside_and_a_projector_alone_take_their_parts_from_elsewhere(tmp_path: Path) -> None:
    own = make_own(tmp_path / "own")
    write(own, tmp_path / "whole", to="llava", original=OriginalOptions(vision_tower=str(tmp_path / "tower")))
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    inside = "model.vision_tower."
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(inside)}
    save_file(kept, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    (tmp_path / "whole" / "croc.json").unlink()
    assert open_original(tmp_path / "whole").config.vision_config.num_hidden_layers == 2
    assert_same_model(own, tmp_path / "whole")

    stage_1 = tmp_path / "stage-1"
    stage_1.mkdir()
    shutil.copy(tmp_path / "whole" / "config.json", stage_1)
    projector = {name: tensor for name, tensor in kept.items() if "mm_projector" in name}
    torch.save(projector, stage_1 / "mm_projector.bin")
    opened = open_original(stage_1, OriginalOptions(base=str(tmp_path / "llm")))
    assert (opened.metadata.template, opened.metadata.visual_norm) == ("plain", "l2")
    assert torch.equal(
        opened.weights["model.multi_modal_projector.linear_1.weight"], kept["model.mm_projector.0.weight"]
    )


def test_the_tower_of_victor_is_known_by_the_end_of_its_path(tmp_path: Path) -> None:
    name = "/their/disk/SigLIP2/siglip2-so400m-patch14-384"
    found = find_tower(name, tmp_path, aspect="pad", needs_weights=False, say=lambda _: None)
    whole = found.as_victor([], aspect="squeeze", resampling="bicubic")
    assert (found.config.num_hidden_layers, whole.config.num_hidden_layers) == (27, 26)
    assert (whole.config.image_size // whole.config.patch_size) ** 2 == 729
    assert (whole.image_processor.size["height"], list(whole.image_processor.image_mean)) == (384, [0.5] * 3)


def test_the_golden_checkpoint_is_what_the_code_saves() -> None:
    assert len(golden_weights(VICTOR)) == 73
    assert sum(file.stat().st_size for file in (GOLDEN / VICTOR).iterdir()) < 1e6
