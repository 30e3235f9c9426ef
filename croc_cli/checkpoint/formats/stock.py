"""The names under which stock LLaVAs are saved, and those under which broken saves have put them."""

import re

_SAVED_NAMES = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("model.vision_tower.vision_model.", "model.vision_tower."),
)
_WRAPPERS = r"(?:(?:module|_orig_mod|base_model|model)\.)*"
_REPAIRED = (
    (re.compile(rf"{_WRAPPERS}(?:language_model\.{_WRAPPERS})?lm_head\."), "lm_head."),
    (re.compile(rf"{_WRAPPERS}language_model\.{_WRAPPERS}"), "model.language_model."),
    (re.compile(rf"{_WRAPPERS}vision_tower\.(?:vision_tower\.|vision_model\.|model\.)*"), "model.vision_tower."),
    (re.compile(rf"{_WRAPPERS}multi_modal_projector\."), "model.multi_modal_projector."),
)


def stock_model_name(name: str) -> str:
    """Return a weight's name in `LlavaForConditionalGeneration`, given any under which transformers reads it."""
    return next((new + name[len(old) :] for old, new in _SAVED_NAMES if name.startswith(old)), name)


def repaired_name(name: str) -> str:
    """Return a weight's name in `LlavaForConditionalGeneration`, whatever levels a save has put before it.

    Under ZeRO-3, transformers 5 wrote `language_model.model.model.embed_tokens.weight`; engines and compilers leave
    their own levels, such as `module.`.
    """
    for pattern, new in _REPAIRED:
        if found := pattern.match(name):
            return new + name[found.end() :]
    return name
