"""Where an answer looks: its attention to the visual tokens of one picture, for the page's overlay."""

from typing import Any

import torch

from croc_cli.checkpoint.load import LoadedModel
from croc_cli.eval.attention import attention_of_answer, token_kinds
from croc_cli.serve.prompt import Prompt
from croc_cli.serve.protocol import ApiError


def look(model: LoadedModel, prompt: Prompt, answer: str) -> dict[str, Any]:
    """Return the attention of an answer's tokens to each picture: the computation of `croc report attention`.

    Args:
        model: The model.
        prompt: What was asked.
        answer: What was answered.

    Returns:
        `pictures`: for each picture its grid [h][w] of shares, mean over the answer's tokens, layers and heads;
        `share`: the part of the attention that all visual tokens get together.

    Raises:
        ApiError: 400 where there is no picture or no answer.
    """
    if not prompt.pixels or not answer.strip():
        raise ApiError(400, "attention needs a picture and an answer", param="answer")
    llava, tokenizer = model.llava, model.processor.tokenizer
    answer_ids = tokenizer(answer, add_special_tokens=False).input_ids
    ids = torch.tensor([[*prompt.ids, *answer_ids]], device=llava.device)
    pixels = torch.cat(prompt.pixels).to(llava.device, llava.dtype)
    weights = attention_of_answer(model, ids, pixels, num_answer=len(answer_ids)).mean(dim=0)
    kinds = token_kinds(prompt.ids, llava.config.image_token_id, num_answer=len(answer_ids))
    visual = weights[torch.tensor([kind == "v" for kind in kinds])]
    patch = model.processor.patch_size
    grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    shares = visual.reshape(len(prompt.pixels), *grid)
    return {"pictures": shares.tolist(), "share": float(visual.sum())}
