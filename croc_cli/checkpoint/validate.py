"""The one check of a stock folder before anything of it is loaded: each of its files, and whether they fit together.

Headers, config and processor are read every time. The values of weights are looked through once, and the hashes of
weights files computed once, until a file changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, GenerationConfig, LlavaConfig, LlavaProcessor
from transformers.quantizers import AutoHfQuantizer

from croc_cli.checkpoint.fit import check_saved, model_weights
from croc_cli.checkpoint.locate import check_checkpoint, read_headers, saved_files
from croc_cli.checkpoint.metadata import DAMAGED, CheckpointMetadata, read_metadata, read_object, verify_hashes
from croc_cli.checkpoint.values import check_files
from croc_cli.errors import CrocError, UsageError, one_line
from croc_cli.model.opening import opening
from croc_cli.model.vocabulary import checked_token_ids
from croc_cli.names import TRAINING_STATE_FILE


@dataclass(frozen=True)
class CheckedParts:
    """What of a stock folder is small, opened; its weights are sound.

    Args:
        config: The model's.
        processor: Its processor.
        end_ids: Tokens at which generation ends, by generation_config.json; None where it does not say.
        metadata: What croc.json says.
    """

    config: LlavaConfig
    processor: LlavaProcessor
    end_ids: int | list[int] | None
    metadata: CheckpointMetadata


def validate_checkpoint(folder: Path) -> CheckedParts:
    """Check every file of a stock LLaVA that is opened later.

    Raises:
        UsageError: Something is missing, damaged or does not fit; the file, and of weights the tensor, is named.
    """
    check_checkpoint(folder)
    parts = open_small_parts(folder)
    if getattr(parts.config, "quantization_config", None) is None:
        headers = read_headers(folder)
        own = model_weights(parts.config, folder / "config.json", num_saved=len(headers))
        check_saved(folder, headers, own, parts.config)
    state = folder / TRAINING_STATE_FILE
    check_files([*saved_files(folder), *([state] if state.is_file() else [])])
    verify_hashes(folder)
    return parts


def open_small_parts(folder: Path) -> CheckedParts:
    """Open config, processor and generation config of a stock folder, and check that they fit each other.

    Raises:
        UsageError: One of them is damaged, or they belong to different models.
    """
    config_file, generation_file = folder / "config.json", folder / "generation_config.json"
    metadata = read_metadata(folder)
    with naming(config_file):
        config = LlavaConfig.from_pretrained(folder)
    if (quantisation := getattr(config, "quantization_config", None)) is not None:
        _check_quantisation(quantisation, config_file)
    end_ids = None
    if generation_file.is_file():
        with naming(generation_file):
            end_ids = checked_token_ids(
                GenerationConfig.from_pretrained(folder).eos_token_id, config.text_config.vocab_size
            )
    with naming(folder, look_into=("*.json",)):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, backend="pil")
        if not isinstance(processor, LlavaProcessor):
            raise ValueError(f"its processor is a {type(processor).__name__}, expected a LlavaProcessor")
    _check_processor(processor, config, folder)
    return CheckedParts(config, processor, end_ids, metadata)


@contextmanager
def naming(where: Path, *, look_into: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn whatever a library raises on a checkpoint's damaged file into one line that names it; see `opening`.

    Args:
        where: File or folder that is opened.
        look_into: Patterns of JSON files in a folder, the first unreadable of which is named instead.

    Raises:
        UsageError: In place of any other exception.
    """
    with opening(str(where), hint=DAMAGED):
        try:
            yield
        except CrocError:
            raise
        except Exception:
            for pattern in look_into:
                for file in sorted(where.glob(pattern)):
                    read_object(file)
            raise


def _check_quantisation(values: Any, config_file: Path) -> None:
    """Raise UsageError where a quantised model's package is missing, or its settings are not what they should be."""
    try:
        AutoHfQuantizer.from_config(values, pre_quantized=True).validate_environment(device_map=None)
    except Exception as error:
        method = values.get("quant_method") if isinstance(values, dict) else values
        raise UsageError(
            f"{config_file}: quantization_config asks for {method!r}, which cannot be used here: {one_line(error)}",
            hint="install its package, or use the checkpoint that was quantised",
        ) from error


def _check_processor(processor: LlavaProcessor, config: LlavaConfig, folder: Path) -> None:
    """Raise UsageError where pictures or tokens of the processor are none that the model takes."""
    tokenizer, vocab_size = processor.tokenizer, config.text_config.vocab_size
    image_id = tokenizer.convert_tokens_to_ids(processor.image_token)
    expected: list[tuple[str, Any, str, Any, Callable[[Any, Any], bool]]] = [
        ("the tokenizer's image token", image_id, "image_token_id", config.image_token_id, lambda a, b: a == b),
        ("the tokenizer's size", len(tokenizer), "vocab_size", vocab_size, lambda a, b: a <= b),
        ("patch_size of the processor", processor.patch_size, "patch_size", config.vision_config.patch_size, _same),
    ]
    extra = processor.num_additional_image_tokens
    if type(extra) is not int or not 0 <= extra <= 1:
        raise UsageError(
            f"{folder}: num_additional_image_tokens of the processor is {extra!r}, expected 0 or 1", hint=DAMAGED
        )
    size = getattr(processor.image_processor, "crop_size", None) or {}
    if (height := getattr(size, "get", lambda _: None)("height")) is not None:
        expected.append(("crop_size of the processor", height, "image_size", config.vision_config.image_size, _same))
    for what, found, key, wanted, fits in expected:
        if not fits(found, wanted):
            raise UsageError(
                f"{folder}: {what} is {found}, and config.json's {key} is {wanted}",
                hint="tokenizer, processor and config.json belong to different models; use files of one checkpoint",
            )


def _same(first: Any, second: Any) -> bool:
    return bool(first == second)
