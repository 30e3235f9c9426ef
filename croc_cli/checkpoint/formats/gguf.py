"""The way to llama.cpp: the parts that its converters take, and the commands that turn them into GGUF files."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from croc_cli.checkpoint.formats.original_write import original_rows, save_plain_tokenizer, write_tower
from croc_cli.checkpoint.metadata import share_weights
from croc_cli.checkpoint.opened import OpenedModel
from croc_cli.errors import RunError, UsageError
from croc_cli.model.vision_tower import has_class_token

LLM_FOLDER, TOWER_FOLDER, PROJECTOR_FILE = "llm", "vision_tower", "llava.projector"
LLM_CONVERTER = Path("convert_hf_to_gguf.py")
TOWER_CONVERTER = Path("tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py")
_PENULTIMATE = -2
_TAIL_LINES = 8


@dataclass(frozen=True)
class GgufOptions:
    """Where llama.cpp is.

    Args:
        llama_cpp: Its folder; None where the user has not said.
        python: The Python that has llama.cpp's requirements; None for one in the folder's `.venv` or `venv`, or this.
    """

    llama_cpp: Path | None = None
    python: Path | None = None

    def run(self, folder: Path, opened: OpenedModel, *, say: Callable[[str], None]) -> None:
        """Run llama.cpp's converters over the parts in `folder`, or say how to where llama.cpp is not there.

        Raises:
            UsageError: The named folder is not a llama.cpp folder.
            RunError: A converter failed; the parts stay.
        """
        if self.llama_cpp is None:
            say("llama.cpp was not named (--llama-cpp DIR), so the parts are written; with it, the commands are:")
            for command in gguf_commands(folder, opened, llama_cpp=Path("llama.cpp"), python=Path("python")):
                say("  " + shlex.join(command))
            return
        for command in gguf_commands(folder, opened, llama_cpp=self.llama_cpp, python=self._python(self.llama_cpp)):
            say("running: " + shlex.join(command))
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-_TAIL_LINES:])
                raise RunError(
                    f"llama.cpp's converter failed with exit code {done.returncode}: {tail}",
                    hint=f"the parts are in {folder}; llama.cpp pins what its converters run with in "
                    "tools/mtmd/requirements.txt: --converter-python names a Python that has it",
                )

    def check(self) -> None:
        """Raise UsageError where the named folder is not a llama.cpp folder, or the named Python is not there."""
        if self.python is not None and not self.python.is_file():
            raise UsageError(
                f"{self.python} is not a Python interpreter", hint="--converter-python takes the file of one"
            )
        if self.llama_cpp is not None and not (self.llama_cpp / LLM_CONVERTER).is_file():
            raise UsageError(
                f"{self.llama_cpp} is not a llama.cpp folder: it has no {LLM_CONVERTER}",
                hint="git clone https://github.com/ggml-org/llama.cpp",
            )

    def _python(self, llama_cpp: Path) -> Path:
        names = [llama_cpp / name / "bin" / "python" for name in (".venv", "venv")]
        if self.python is not None:
            return self.python.absolute()
        return next((python for python in names if python.exists()), Path(sys.executable))


def gguf_commands(folder: Path, opened: OpenedModel, *, llama_cpp: Path, python: Path) -> list[list[str]]:
    """Return the commands that make `llm-f16.gguf` and `mmproj-model-f16.gguf` in `folder`."""
    processor = opened.processor.image_processor
    numbers = [
        ("--image-mean", processor.image_mean),
        ("--image-std", processor.image_std),
    ]
    llm = [str(python), str(llama_cpp / LLM_CONVERTER), str(folder / LLM_FOLDER)]
    tower = [str(python), str(llama_cpp / TOWER_CONVERTER), "-m", str(folder / TOWER_FOLDER), "--clip-model-is-vision"]
    return [
        [*llm, "--outtype", "f16", "--outfile", str(folder / "llm-f16.gguf")],
        [
            *tower,
            *("--llava-projector", str(folder / PROJECTOR_FILE), "--output-dir", str(folder)),
            *(word for flag, values in numbers for word in (flag, *map(str, values))),
        ],
    ]


def write_gguf(
    opened: OpenedModel, folder: Path, *, final: Path, options: GgufOptions, say: Callable[[str], None]
) -> None:
    """Write the LLM, the vision tower and the projector apart, as llama.cpp's converters take them.

    Raises:
        UsageError: llama.cpp has no such model, or its folder is none.
    """
    options.check()
    if opened.metadata.visual_norm != "none":
        raise UsageError(
            "this model L2-normalises its visual tokens, which llama.cpp cannot express",
            hint="croc chat and croc eval open it as it is",
        )
    if not has_class_token(opened.config.vision_config):
        raise UsageError(
            f"llama.cpp's converter for LLaVA takes CLIP towers, not {opened.config.vision_config.model_type}"
        )
    if opened.config.vision_feature_select_strategy != "default":
        raise UsageError("llama.cpp's LLaVA leaves the class token out, and this model takes it")
    _write_llm(opened, folder / LLM_FOLDER)
    _write_chat_template(opened, folder / LLM_FOLDER, say=say)
    write_tower(opened, folder / TOWER_FOLDER)
    _tell_feature_layer(opened, folder / TOWER_FOLDER)
    _write_projector(opened, folder / PROJECTOR_FILE)
    for part in (LLM_FOLDER, TOWER_FOLDER):
        share_weights(folder / part)
    say(f"parts for llama.cpp: {final / LLM_FOLDER}, {final / TOWER_FOLDER}, {final / PROJECTOR_FILE}")


def _write_chat_template(opened: OpenedModel, folder: Path, *, say: Callable[[str], None]) -> None:
    """Put the checkpoint's chat template where llama.cpp's converter looks for it, so that the GGUF file carries it.

    llama.cpp puts its own mark in the place of each picture before it applies the template, as a part of the text.
    """
    template = opened.processor.chat_template or opened.processor.tokenizer.chat_template
    if not isinstance(template, str):
        say(
            "this checkpoint has no chat template, so the GGUF file will have none:"
            " llama.cpp takes one by --chat-template"
        )
        return
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8")) | {"chat_template": template}
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_llm(opened: OpenedModel, folder: Path) -> None:
    folder.mkdir()
    num_rows, start = original_rows(opened), "model.language_model."
    weights = {
        "model." + name.removeprefix(start) if name.startswith(start) else name: tensor
        for name, tensor in opened.weights.items()
        if name.startswith((start, "lm_head."))
    }
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = weights[name][:num_rows]
    text = opened.config.text_config
    if text.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rope = dict(getattr(text, "rope_parameters", None) or {})
    values = text.to_dict() | {"architectures": [_architecture(text.model_type)], "vocab_size": num_rows}
    if "rope_theta" in rope:  # where transformers 4, which llama.cpp pins, looks for it
        values["rope_theta"] = rope["rope_theta"]
    (folder / "config.json").write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")
    save_plain_tokenizer(opened, folder, num_rows=num_rows)


def _architecture(model_type: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])


def _tell_feature_layer(opened: OpenedModel, folder: Path) -> None:
    """Name the tower's layer where it is not the last but one, which the converter takes by itself; and its dtype."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (layer := opened.config.vision_feature_layer) != _PENULTIMATE:
        config["vision_feature_layer"] = layer
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tower = safetensors.torch.load_file(folder / "model.safetensors")
    floats = {name: tensor.float() for name, tensor in tower.items()}  # the converter cannot take bf16 into numpy
    safetensors.torch.save_file(floats, folder / "model.safetensors", metadata={"format": "pt"})


def _write_projector(opened: OpenedModel, file: Path) -> None:
    start, layers = "model.multi_modal_projector.", {"linear_1": "0", "linear_2": "2"}
    projector = {
        "model.mm_projector." + layers[layer] + "." + kind: opened.weights[f"{start}{layer}.{kind}"].float().clone()
        for layer in layers
        for kind in ("weight", "bias")
    }
    torch.save(projector, file)
