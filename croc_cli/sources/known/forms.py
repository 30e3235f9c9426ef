"""How the catalogue's sources are read: which columns are the question, which the answer.

Instruction and input are joined by a line end where there is an input, without any "### Instruction" around them, since
the chat template is the wrapper. Answers are stripped only where a set is known to start them with empty lines: in
program code leading spaces matter.
"""

from typing import Any, Final

_ALPACA: Final[dict[str, Any]] = {"human": ("instruction", "input"), "gpt": ("output",)}
_CAULDRON: Final[dict[str, Any]] = {"image": "images", "conversations": "texts"}
_CAULDRON_CHOICES: Final[dict[str, Any]] = {**_CAULDRON, "answer_prefix": "Answer: "}

SOURCE_COLUMNS: Final[dict[str, dict[str, Any]]] = {
    "mathinstruct": {"human": ("instruction",), "gpt": ("output",)},
    "alpaca": _ALPACA,
    "belle": {"human": ("instruction", "input"), "gpt": ("output", "target"), "strip": True},
    "open-platypus": _ALPACA,
    "code-alpaca": _ALPACA,
    "firefly": {"human": ("input",), "gpt": ("target",)},
    "webqa": {"human": ("input",), "gpt": ("output",)},
    "dolly": {"human": ("instruction", "context"), "gpt": ("response",)},
    "metamath": {"human": ("query",), "gpt": ("response",)},
    "goat": {"human": ("instruction",), "gpt": ("output",)},  # its `input` repeats the question as an expression
    "lima": {"conversations": "conversations"},
    "laion-gpt4v": {"image": "image", "gpt": ("caption",), "prompt": "Describe this image in detail."},
    "synthdog-en": {
        "image": "image",
        "gpt": ("ground_truth.gt_parse.text_sequence",),
        "prompt": "Read the text in this image.",
    },
    "recap-cc3m": {  # its first turn is `<image>` alone; the prompt is LLaVA-NeXT's for these captions
        "image": "image",
        "gpt": ("conversations.1.value",),
        "prompt": "Please generate detailed descriptions of the given image.",
    },
    "llava-next-779k": {"image": "image", "conversations": "conversations"},
    "cauldron-ai2d": _CAULDRON_CHOICES,
    "cauldron-iconqa": _CAULDRON_CHOICES,
    "cauldron-raven": _CAULDRON_CHOICES,
    "cauldron-intergps": _CAULDRON_CHOICES,
}


def source_columns(catalog_name: str) -> dict[str, Any]:
    """Return the columns of a catalogue's source, as arguments of `Columns`; empty where it is LLaVA's own form."""
    known = SOURCE_COLUMNS.get(catalog_name)
    if known is None and catalog_name.startswith("cauldron-"):
        known = _CAULDRON
    return dict(known or {})
