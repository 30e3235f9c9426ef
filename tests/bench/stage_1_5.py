"""Stage 1.5 at three sizes: step time, peak memory and the assignment's share, beside a plain step of the same model.

A step is forward and backward of one micro-batch, without optimizer. The baseline is what finetuning does with the same
batch: causal attention, nothing replaced, no reconstruction. Weights are random and pictures are smooth noise, so that
visual tokens resemble each other, as real ones do: the solver is slowest then.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from croc_cli.model.lmm import MultimodalModel
from croc_cli.model.token_pool import TokenPool, initialise_pool
from croc_cli.objectives.caption import caption_loss_sum
from croc_cli.objectives.reconstruction import reconstruction_loss_sum

STEPS = 5
WARM_UP = 2


@dataclass(frozen=True)
class Size:
    """One row of the table.

    Args:
        name: What the sizes are taken from.
        image_size: Side in pixels.
        patch_size: Side of a patch in pixels.
        width: D, hidden size of the LLM.
        num_layers: Of the LLM.
        pool_size: N.
        batch: Samples of a micro-batch, one image each.
        text: Text tokens of a sample.
    """

    name: str
    image_size: int
    patch_size: int
    width: int
    num_layers: int
    pool_size: int
    batch: int
    text: int


SIZES = (
    Size("nano", 72, 12, 192, 4, 256, 16, 64),
    Size("CLIP-B/16", 224, 16, 384, 4, 1024, 4, 128),
    Size("CLIP-L/14-336", 336, 14, 512, 4, 2048, 2, 128),
)


def main() -> None:
    """Print one row a size; each is measured in a process of its own, for its peak memory."""
    print(
        f"{'size':14} {'n':>4} {'m':>4} {'N':>5} {'D':>5} {'matching':>10} {'step ms':>8} {'plain ms':>9} {'ratio':>6} "
        f"{'assign ms/image':>16} {'share':>6} {'peak MB':>8} {'plain MB':>9}"
    )
    for size in SIZES:
        plain = _in_process(size, None)
        for matching in ("hungarian", "nearest"):
            figures = _in_process(size, matching)
            step, before = figures["step"], plain["step"]
            print(
                f"{size.name:14} {figures['n']:4.0f} {figures['m']:4.0f} {size.pool_size:5} {size.width:5} "
                f"{matching:>10} "
                f"{1000 * step:8.1f} {1000 * before:9.1f} {step / before:6.2f} "
                f"{1000 * figures['assignment'] / size.batch:16.2f} {figures['assignment'] / step:6.1%} "
                f"{figures['peak'] / 1e6:8.0f} {plain['peak'] / 1e6:9.0f}",
                flush=True,
            )


def _in_process(size: Size, matching: str | None) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(size, matching, sender))
    process.start()
    sender.close()
    figures: dict[str, float] = receiver.recv()
    process.join()
    return figures


def _measure(size: Size, matching: str | None, sender: Any) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = _build(size, matching).to(device)
    batch = {name: tensor.to(device) for name, tensor in _batch(size, model).items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, assignments = [], []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        output = model(**batch)
        loss = caption_loss_sum(output.logits, output.labels) / len(output.labels) + output.zero
        if matching is not None:
            weight = batch["image_is_real"]
            found = reconstruction_loss_sum(output.visual_hidden, output.visual_targets, batch["masked"], weight)
            loss = loss + 10 * found.total / size.batch
        loss.backward()
        loss.item()
        model.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - started)
        assignments.append(output.solver_seconds)
    if device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated())
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
        peak = float((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)
    sender.send(
        {
            "n": float(model.num_visual_tokens),
            "m": float(batch["masked"][0].sum()),
            "step": statistics.median(times[WARM_UP:]),
            "assignment": statistics.median(assignments[WARM_UP:]),
            "peak": peak,
        }
    )


def _build(size: Size, matching: str | None) -> MultimodalModel:
    """Return the model, its pool filled with visual tokens of other pictures; a plain one where `matching` is None."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=size.image_size,
        patch_size=size.patch_size,
    )
    text = LlamaConfig(
        vocab_size=4096,
        hidden_size=size.width,
        intermediate_size=3 * size.width,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.width // 64,
        max_position_embeddings=2048,
    )
    llava = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=4095))
    llava.model.vision_tower.requires_grad_(False)
    num_visual = (size.image_size // size.patch_size) ** 2
    if matching is None:
        return MultimodalModel(llava, num_visual_tokens=num_visual)
    pool = TokenPool(size.pool_size, size.width)
    model = MultimodalModel(llava, num_visual_tokens=num_visual, pool=pool, matching=matching, attention_kind="mixed")
    num_images = -(-size.pool_size // num_visual) + 1
    tokens = [model.encode_images(_pictures(size, 1)).detach()[0] for _ in range(num_images)]
    initialise_pool(pool.weight, torch.cat(tokens), "sampled")
    return model


def _batch(size: Size, model: MultimodalModel) -> dict[str, Tensor]:
    n = model.num_visual_tokens
    input_ids = torch.randint(1, 4000, (size.batch, n + size.text))
    labels = input_ids.clone()
    labels[:, : n + size.text // 4] = -100
    input_ids[:, 1 : n + 1] = model.llava.config.image_token_id
    masked = torch.zeros(size.batch, n, dtype=torch.bool)
    for row in masked:
        row[torch.randperm(n)[: round(0.75 * n)]] = True
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "pixel_values": _pictures(size, size.batch),
        "image_is_real": torch.ones(size.batch, dtype=torch.bool),
        "image_rows": torch.arange(size.batch),
        "masked": masked,
    }


def _pictures(size: Size, count: int) -> Tensor:
    """Return [count, 3, H, W] smooth noise."""
    coarse = torch.randn(count, 3, 6, 6)
    return torch.nn.functional.interpolate(coarse, size=(size.image_size,) * 2, mode="bicubic")


if __name__ == "__main__":
    main()
