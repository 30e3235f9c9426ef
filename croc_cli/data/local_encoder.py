"""A conversation encoder from an LLM's tokenizer alone, for looking at data before any model is assembled."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.data.conversation import ConversationEncoder
from croc_cli.recipe.template_options import NO_OPTIONS, TemplateOptions

if TYPE_CHECKING:
    from croc_cli.recipe.schema import TemplateName


def local_encoder(
    llm: str | Path,
    *,
    revision: str | None,
    template: "TemplateName",
    num_visual_tokens: int,
    max_length: int,
    options: TemplateOptions = NO_OPTIONS,
) -> ConversationEncoder | None:
    """Return an encoder, or None where the tokenizer is not on this machine; asks no hub.

    Args:
        llm: Folder or hub id of the LLM.
        revision: Of the hub id.
        template: How conversations become text.
        num_visual_tokens: Tokens of an image.
        max_length: Longest sequence in tokens.
        options: What the template leaves open.
    """
    tokenizer = local_tokenizer(llm, revision=revision)
    if tokenizer is None:
        return None
    return ConversationEncoder(
        tokenizer,
        template=template,
        image_token_id=len(tokenizer),  # training adds it; any id that no text becomes will do
        num_visual_tokens=num_visual_tokens,
        max_length=max_length,
        options=options,
    )


def local_tokenizer(llm: str | Path, *, revision: str | None) -> Any | None:
    """Return an LLM's tokenizer, or None where it is not on this machine; asks no hub."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(str(llm), revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None
