"""What a recipe may say about a conversation template beside its name; plain words, which every room may take."""

from typing import Final, Literal, NamedTuple

TrainedTokensName = Literal["answers", "turns"]


class TemplateOptions(NamedTuple):
    """How a template lays conversations out, where it leaves a choice.

    Args:
        system_prompt: System sentence of `qwen_1_5`; None for the template's own.
        trained_tokens: `answers`: an answer and the token that ends it. `turns`: the whole turn that answers, and
            wherever they stand the control tokens of turns and each lone newline (deepglint/Victor, `preprocess_qwen`).
        control_tokens_in_text: Control tokens that a training row spells out count as such, as in the same code;
            prompts never read them from what users write.
    """

    system_prompt: str | None = None
    trained_tokens: TrainedTokensName = "answers"
    control_tokens_in_text: bool = False


NO_OPTIONS: Final = TemplateOptions()
"""Every template as croc has it."""
