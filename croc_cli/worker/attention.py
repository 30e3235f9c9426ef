"""Where the answers of models look, averaged over pictures (the paper's Fig. 8), for `croc report attention`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.data.image import BadImageError, PathImage
from croc_cli.data.sample import Turn
from croc_cli.errors import UsageError
from croc_cli.eval.attention import AnswerAttention, attend_to_picture
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.names import IMAGE_TOKEN
from croc_cli.run_dir import StageDir, read_json, write_json
from croc_cli.worker.device import chosen_device

STAGE = "attention"
_EXAMPLES = 4


def run_attention(stage_dir: StageDir) -> None:
    """Answer the task's question about every picture with every model, and write where the answers looked."""
    task = read_json(stage_dir.root / "task.json")
    device = chosen_device(task.get("device"))
    models = [
        attention_of_model(
            load_for_inference(name, device=device), task["images"], task["question"], num_tokens=task["num_tokens"]
        )
        for name in task["models"]
    ]
    named = [{"model": name, **found} for name, found in zip(task["models"], models, strict=True)]
    content = {"question": task["question"], "models": named}
    write_json(stage_dir.root / "attention.json", content)
    write_json(stage_dir.summary_file, {"finished": True, "stage": STAGE})


def attention_of_model(model: LoadedModel, images: Sequence[str], question: str, *, num_tokens: int) -> dict[str, Any]:
    """Return the mean attention of one model over pictures.

    Raises:
        UsageError: None of the pictures opens.
    """
    encoder = evaluation_encoder(model)
    prompt = encoder.encode_prompt([Turn("human", f"{IMAGE_TOKEN}\n{question}")])
    found: list[tuple[str, AnswerAttention]] = []
    bad: list[str] = []
    for name in images:
        picture = PathImage(Path(name), reading=model.metadata.image_reading)
        try:
            found.append((name, attend_to_picture(model, prompt, picture, max_new_tokens=num_tokens)))
        except BadImageError as error:
            bad.append(str(error))
    if not found:
        raise UsageError(f"no picture opens: {bad[0]}")
    answers = [answer for _, answer in found]
    return {
        "num_pictures": len(found),
        "bad_pictures": bad,
        "instruction": answers[0].instruction,
        **mean_over_pictures(answers),
        "examples": [{"image": name, "answer": one.answer} for name, one in found[:_EXAMPLES]],
    }


def mean_over_pictures(answers: Sequence[AnswerAttention]) -> dict[str, Any]:
    """Return the mean of each answer token's attention over the pictures whose answers are that long.

    `visual` is [R][n], `instruction` [R][q]; `shares` says what part of a token's attention goes to each kind of
    token; `counts` how many pictures are behind each row.
    """
    longest = max(len(one.weights) for one in answers)
    visual, instruction, shares, counts = [], [], [], []
    for row in range(longest):
        present = [one for one in answers if len(one.weights) > row]
        counts.append(len(present))
        visual.append(_mean([_of_kind(one, row, "v") for one in present]))
        instruction.append(_mean([_of_kind(one, row, "i") for one in present]))
        parts = {kind: _mean([_of_kind(one, row, kind).sum()[None] for one in present])[0] for kind in "vbia"}
        shares.append({"visual": parts["v"], "before": parts["b"], "instruction": parts["i"], "answer": parts["a"]})
    return {"visual": visual, "instruction_weights": instruction, "shares": shares, "counts": counts}


def _of_kind(one: AnswerAttention, row: int, kind: str) -> Tensor:
    places = torch.tensor([letter == kind for letter in one.kinds])
    return one.weights[row][places]


def _mean(rows: Sequence[Tensor]) -> list[float]:
    return [round(value, 7) for value in torch.stack(list(rows)).mean(dim=0).tolist()]
