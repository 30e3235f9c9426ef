"""What a stage of ViCToR's makes of its settings: loader, processor, croc.json, and the way to its code's layout."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from croc_cli.chat.session import prompt_builder
from croc_cli.checkpoint.convert import ConvertRequest, convert
from croc_cli.checkpoint.formats.original_load import OriginalOptions
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.data.sample import Turn
from croc_cli.errors import RunError
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.names import IGNORE_INDEX, STAGES
from croc_cli.recipe.schema import Recipe
from croc_cli.worker.build import build_stage
from croc_cli.worker.preflight import check_end_tokens, end_tokens_saved
from tests.worker import harness
from tests.worker.test_tower_stages import tiny

SIDE = 56
FP32 = {"precision": "fp32", "zero_stage": 0, "gradient_checkpointing": False, "max_steps": 1}


@pytest.fixture(scope="module")
def recipe(home: Path) -> Recipe:
    values = tiny("victor-code-7b", home).model_dump(mode="json")
    return Recipe.model_validate(values | {stage: values[stage] | FP32 for stage in STAGES})


@pytest.fixture(scope="module")
def aligned(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    stage_dir = harness.train(recipe, "align", tmp_path_factory.mktemp("run"), start=None)
    checkpoint = stage_dir.latest_checkpoint()
    assert checkpoint is not None
    return checkpoint


def test_stage_1_squeezes_pictures_bicubically_and_saves_a_processor_that_does(aligned: Path) -> None:
    model = load_for_inference(aligned)
    about = model.metadata
    assert (about.template, about.image_aspect, about.visual_norm) == ("plain", "squeeze", "l2")
    picture = Image.effect_noise((90, 41), 90).convert("RGB")
    pixels = model.processor(images=picture, text="<image>", return_tensors="pt")["pixel_values"][0]
    squeezed = torch.tensor(list(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).getdata())) / 255
    torch.testing.assert_close(pixels, ((squeezed - 0.5) / 0.5).T.reshape(3, SIDE, SIDE), atol=1e-6, rtol=0)


def test_stage_2_trains_what_victors_code_trains_and_its_checkpoint_is_asked_the_same_way(
    recipe: Recipe, aligned: Path, tmp_path: Path
) -> None:
    parts = build_stage(recipe, "finetune", start=aligned, weights=aligned, rank=0, num_ranks=1, chat_template=None)
    assert parts.settings.means_per_micro_batch
    assert parts.module.model.shares_assignment is False, "stage 2 has no pool"
    # the newline after <|im_end|> is trained too, and is not what ends an answer
    check_end_tokens(parts, end_tokens_saved(parts.module.model.llava.generation_config), template="qwen_1_5")
    with pytest.raises(RunError, match=r"no answer ends with an end token: .* ends them with '<\|im_end\|>'"):
        check_end_tokens(parts, [5], template="qwen_1_5")
    tokenizer = parts.processor.tokenizer
    batch = next(batch for batch in parts.loader[0] if bool(batch.image_is_real.any()))
    row = int(batch.image_rows[0])
    ids, labels = batch.input_ids[row], batch.labels[row]
    trained = tokenizer.decode(ids[1:][labels[1:] != IGNORE_INDEX])
    frame = "\n<|im_end|>\n<|im_start|>\n\n<|im_end|>\n<|im_start|>assistant\nnoise number "
    assert trained.startswith(frame), "lone newlines and control tokens, also those of system and user"
    assert tokenizer.decode(ids).startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")

    checkpoint = harness.train(recipe, "finetune", tmp_path, start=aligned).latest_checkpoint()
    assert checkpoint is not None
    model = load_for_inference(checkpoint)
    assert (model.metadata.template, model.metadata.system_prompt) == ("qwen_1_5", "You are a helpful assistant.")
    turns = [Turn("human", "<image>\nWhat is this?")]
    prompt = prompt_builder(model)(turns, num_images=1)
    assert prompt == evaluation_encoder(model).encode_prompt(turns)
    assert ids.tolist()[: len(prompt)] == prompt
    size = model.processor.image_processor.size
    assert (size["shortest_edge"], model.processor.image_processor.resample) == (SIDE, Image.Resampling.BICUBIC)

    said: list[str] = []
    tower = OriginalOptions(vision_tower=recipe.model.vision_tower)
    convert(ConvertRequest(str(checkpoint), tmp_path / "llava_qwen", to="llava", original=tower), say=said.append)
    again = load_for_inference(tmp_path / "llava_qwen")
    inputs = model.processor(images=Image.new("RGB", (60, 40)), text="<image> What?", return_tensors="pt")
    with torch.no_grad():
        first, second = (one.llava(**inputs).logits[..., : len(tokenizer) - 1] for one in (model, again))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)
    assert not [line for line in said if line.startswith("warning")]
