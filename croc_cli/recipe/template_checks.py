"""What stages say of their templates, pictures and assignments: does it fit together?"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from croc_cli.files import read_bytes
from croc_cli.names import IMAGE_TOKEN, StageName
from croc_cli.recipe.issues import Issue
from croc_cli.recipe.schema import AspectName, ReconstructStage, StageRecipe

_LABELLED = ("qwen_1_5", "plain")
"""Templates whose trained tokens can be chosen."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
_NEVER_IN_A_SYSTEM_PROMPT = (IMAGE_TOKEN, "<|im_start|>", "<|im_end|>")


def template_issues(stage: StageName, section: StageRecipe, *, llm: Path | None) -> Iterator[Issue]:
    """Yield what of a stage's template options its template does not take.

    Args:
        stage: Which one.
        section: What it says.
        llm: Folder of the LLM, where it is on this machine.
    """
    template = (stage, "template")
    if section.template == "qwen_1_5" and llm is not None and _lacks(llm, "<|im_start|>"):
        message = f"qwen_1_5 writes <|im_start|>, which the tokenizer in {llm} lacks; use vicuna_v1 or chat_template"
        yield Issue(template, message, related=(("model", "llm"),))
    if section.system_prompt is not None and section.template != "qwen_1_5":
        message = f"is for template qwen_1_5; {section.template} brings its own system sentence; leave it out"
        yield Issue((stage, "system_prompt"), message, related=(template,))
    for token in _NEVER_IN_A_SYSTEM_PROMPT:
        if token in (section.system_prompt or ""):
            yield Issue((stage, "system_prompt"), f"holds {token}, which the template itself writes; leave that out")
    if section.template in _LABELLED:
        return
    fits = f"is for templates {' and '.join(_LABELLED)}, not {section.template}; leave it out"
    if section.trained_tokens != "answers":
        yield Issue((stage, "trained_tokens"), f"{section.trained_tokens} {fits}", related=(template,))
    if section.control_tokens_in_text:
        yield Issue((stage, "control_tokens_in_text"), fits, related=(template,))


def matching_issues(section: ReconstructStage) -> Iterator[Issue]:
    """Yield where an assignment is to be shared that cannot be, or that nothing is assigned by."""
    if section.matching_scope == "image":
        return
    scope = ("reconstruct", "matching_scope")
    if section.batch.packing:
        message = "sample needs a row for each sample, and packing puts several into one; leave one of them out"
        yield Issue(scope, message, related=(("reconstruct", "batch", "packing"),))
    if section.matching == "nearest":
        message = "sample is for matching hungarian; by nearest each token chooses on its own; leave it out"
        yield Issue(scope, message, related=(("reconstruct", "matching"),))


def preparation_notes(aspects: Mapping[StageName, AspectName]) -> Iterator[str]:
    """Yield a note where stages that share kept features prepare pictures in different ways."""
    if len(set(aspects.values())) > 1:
        listed = ", ".join(f"{stage} {aspect}" for stage, aspect in aspects.items())
        yield (
            f"data.cache_features: image_aspect differs ({listed}), so a picture's features are computed and kept once"
            " for each"
        )


def _lacks(folder: Path, token: str) -> bool:
    """Tell whether none of a folder's tokenizer files names a control token; False where there are none."""
    files = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    try:
        return bool(files) and not any(f'"{token}"'.encode() in read_bytes(file) for file in files)
    except OSError:  # whoever opens the tokenizer says so
        return False
