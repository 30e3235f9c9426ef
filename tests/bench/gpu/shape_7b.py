"""Forward and backward of one micro-batch at 7B shape, stage 1.5 beside stage 2, unpacked and packed.

CLIP-L/14-336 and a Llama of 4096 × 32 layers with random weights in bf16; 576 visual and 165 to 275 text tokens a
sample, so that lengths differ from step to step; no optimizer step. Real tokens are counted, padding is not. Useful
operations: 6 a trained parameter of the LLM and token (no recomputation counted), attention over pairs that see each
other, and the frozen tower forwards. Pictures are noise (distinct tokens) or of one colour (flat), where the exact
solver is slowest.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from croc_cli.data.micro_batch import MicroBatch
from croc_cli.data.packing import describe_packing, pack_rows, round_up
from croc_cli.data.places import find_places
from croc_cli.model.assignment import PendingAssignment
from croc_cli.model.attention_kernel import choose_attention
from croc_cli.model.compile_layers import compile_layers
from croc_cli.model.lmm import MultimodalModel
from croc_cli.model.recompute import enable_recomputation
from croc_cli.model.token_pool import TokenPool
from croc_cli.objectives.settings import ObjectiveSettings
from croc_cli.train.stage_module import StageModule
from tests.bench.gpu.card import describe, device, matrix_peak, seconds_of

STEPS, WARM_UP = 8, 3
TEXT = (165, 275)
LENGTHS = 128
"""Lengths are rounded up to a multiple of it, as croc does on a GPU."""


@dataclass(frozen=True)
class Shape:
    """The sizes of the model: side and patch of a picture, tower, LLM, pool."""

    image_size: int = 336
    patch_size: int = 14
    tower_width: int = 1024
    tower_layers: int = 24
    width: int = 4096
    inner: int = 11008
    layers: int = 32
    heads: int = 32
    vocabulary: int = 32064
    pool: int = 2048

    @property
    def num_visual(self) -> int:
        """n, visual tokens of an image."""
        return (self.image_size // self.patch_size) ** 2


TINY = Shape(28, 7, 32, 2, 64, 128, 2, 4, 512, 32)


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    samples: int
    reconstructs: bool
    packed: bool = False
    compiled: bool = True
    recomputation: str = "none"
    flat: bool = False


VARIANTS = (
    Variant("stage 1.5, not compiled, recomputed", 4, True, compiled=False, recomputation="full"),
    Variant("stage 1.5, compiled, recomputed", 4, True, recomputation="full"),
    Variant("stage 1.5, compiled, every second recomputed", 8, True, recomputation="alternate"),
    Variant("stage 1.5, compiled", 8, True),
    Variant("stage 1.5, compiled, flat pictures", 8, True, flat=True),
    Variant("stage 1.5, compiled, packed", 8, True, packed=True),
    Variant("stage 2, compiled", 8, False),
    Variant("stage 2, compiled, packed", 8, False, packed=True),
)


def main(*, tiny: bool = False) -> None:
    """Print a row a variant, and stage 1.5 against stage 2 at equal tokens."""
    place = device(tiny=tiny)
    peak = matrix_peak(place, side=512 if tiny else 8192)
    print(describe(place, peak))
    print(
        f"{'variant':46} {'samples':>7} {'ms':>8} {'tokens/s':>9} {'TFLOP/s':>8} {'of peak':>8} {'padding':>8}"
        f" {'waits':>6} {'solver':>7} {'GB':>6}"
    )
    speeds = {}
    for variant in VARIANTS:
        shape = TINY if tiny else Shape()
        try:
            figures = measure(shape, variant, place)
        except torch.OutOfMemoryError:
            print(f"{variant.name:46} {variant.samples:7}  out of memory", flush=True)
            continue
        speeds[variant.name] = figures["tokens"]
        print(
            f"{variant.name:46} {variant.samples:7} {1000 * figures['step']:8.0f} {figures['tokens']:9,.0f}"
            f" {figures['flops'] / 1e12:8.1f} {figures['flops'] / peak:8.1%} {figures['padding']:8.1%}"
            f" {figures['wait']:6.1%} {figures['solver']:7.1%} {figures['gigabytes']:6.1f}",
            flush=True,
        )
    if {"stage 1.5, compiled", "stage 2, compiled"} <= speeds.keys():
        ratio = speeds["stage 2, compiled"] / speeds["stage 1.5, compiled"]
        print(f"stage 1.5 against stage 2 at equal tokens: {ratio:.2f} ×")


def measure(shape: Shape, variant: Variant, place: torch.device) -> dict[str, float]:
    """Return a variant's median step, real tokens and useful operations a second, and shares of a step."""
    torch.manual_seed(0)
    if place.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place)
    module = build(shape, variant, place)
    steps = [batch.pin_memory() if place.type == "cuda" else batch for batch in batches(shape, variant)]
    one = torch.ones((), device=place)
    ready = begun(module, steps[0], place)
    times, waits, solver, tokens, flops, padding = [], [], [], 0, 0.0, []
    for number, batch in enumerate(steps):
        found: list[tuple[float, float]] = []
        following: list[Begun] = []

        def step(
            number: int = number,
            ready: Begun = ready,
            found: list[tuple[float, float]] = found,
            following: list[Begun] = following,
        ) -> None:
            if number + 1 < len(steps):  # as within an optimizer step: no weight changes between micro-batches
                following.append(begun(module, steps[number + 1], place))
            loss, parts = module(
                ready.batch, token_weight=one * 1e-3, image_weight=one * 1e-3, assignment=ready.assignment
            )
            loss.backward()
            found.append((parts.wait_seconds, parts.solver_seconds))

        seconds = seconds_of(step, place)
        ready = following[0] if following else ready
        module.zero_grad(set_to_none=True)
        if number < WARM_UP:
            continue
        lengths = [int(length) for length in lengths_of(batch)]
        times.append(seconds)
        waits.append(found[0][0] / seconds)
        solver.append(found[0][1] / seconds)
        tokens += sum(lengths)
        flops += sum(operations(shape, variant, length) for length in lengths)
        padding.append(1 - sum(lengths) / batch.input_ids.numel())
    used = torch.cuda.max_memory_allocated(place) / 1e9 if place.type == "cuda" else 0.0
    return {
        "step": statistics.median(times),
        "tokens": tokens / sum(times),
        "flops": flops / sum(times),
        "padding": statistics.mean(padding),
        "wait": statistics.mean(waits),
        "solver": statistics.mean(solver),
        "gigabytes": used,
    }


@dataclass(frozen=True)
class Begun:
    """A micro-batch on its device, and its assignment, which is being solved."""

    batch: MicroBatch
    assignment: PendingAssignment | None


def begun(module: StageModule, batch: MicroBatch, place: torch.device) -> Begun:
    """Move a micro-batch and begin its assignment; the frozen tower's features are kept for its forward pass."""
    moved = batch.to(place)
    if batch.masked is None:
        return Begun(moved, None)
    features, assignment = module.model.begin_assignment(
        moved.pixel_values, batch.masked, batch.image_is_real, batch.image_rows
    )
    return Begun(replace(moved, pixel_values=features), assignment)


def build(shape: Shape, variant: Variant, place: torch.device) -> StageModule:
    """Return the model of a stage with random weights on its device, in bf16."""
    vision = CLIPVisionConfig(
        hidden_size=shape.tower_width,
        intermediate_size=4 * shape.tower_width,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=max(1, shape.tower_width // 64),
        image_size=shape.image_size,
        patch_size=shape.patch_size,
    )
    text = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=8192,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=shape.vocabulary - 1)
    kind = "mixed" if variant.reconstructs else "causal"
    choice = choose_attention("auto", kind=kind, on_gpu=place.type == "cuda", config=text, packed=variant.packed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with place:
            llava = LlavaForConditionalGeneration(config)
            pool = TokenPool(shape.pool, shape.width) if variant.reconstructs else None
    finally:
        torch.set_default_dtype(before)
    llava.train()
    llava.model.vision_tower.requires_grad_(False).eval()
    llava.model.language_model.set_attn_implementation(choice.kernel)
    enable_recomputation(llava, variant.recomputation)
    if pool is not None:
        with torch.no_grad():
            nn.init.normal_(pool.weight)
    if variant.compiled and place.type == "cuda":
        compile_layers(llava.model.language_model.layers, say=lambda line: print(f"note: {line}", flush=True))
    model = MultimodalModel(llava, num_visual_tokens=shape.num_visual, pool=pool, attention_kind=kind)
    weight = 10.0 if variant.reconstructs else 0.0
    return StageModule(model, ObjectiveSettings(reconstruction_weight=weight))


def batches(shape: Shape, variant: Variant) -> Iterator[MicroBatch]:
    """Yield micro-batches whose texts differ in length from step to step, on the host."""
    generator = torch.Generator().manual_seed(0)
    low, high = TEXT if shape.width > TINY.width else (8, 16)
    for _ in range(WARM_UP + STEPS):
        texts = torch.randint(low, high + 1, (variant.samples,), generator=generator).tolist()
        yield make_batch(shape, variant, [shape.num_visual + 1 + text for text in texts], generator)


def make_batch(shape: Shape, variant: Variant, lengths: list[int], generator: torch.Generator) -> MicroBatch:
    """Return a micro-batch of samples of these lengths: a first token, an image, and text whose end is trained."""
    n, token = shape.num_visual, shape.vocabulary - 1
    if variant.packed:
        rows = pack_rows(lengths, row_tokens=sum(lengths), multiple=1)
    else:
        rows = [[sample] for sample in range(len(lengths))]
    length = round_up(max(sum(lengths[sample] for sample in row) for row in rows), LENGTHS)
    input_ids = torch.zeros(len(rows), length, dtype=torch.int64)
    labels = torch.full_like(input_ids, -100)
    samples = torch.full_like(input_ids, len(lengths))
    attention_mask = torch.zeros_like(input_ids)
    order = [sample for row in rows for sample in row]
    for row, own in enumerate(rows):
        start = 0
        for sample in own:
            end = start + lengths[sample]
            input_ids[row, start:end] = torch.randint(1, token, (lengths[sample],), generator=generator)
            input_ids[row, start + 1 : start + 1 + n] = token
            labels[row, start + 1 + n : end] = input_ids[row, start + 1 + n : end]
            samples[row, start:end] = order.index(sample)
            attention_mask[row, start:end] = 1
            start = end
    image_rows = torch.tensor([row for row, own in enumerate(rows) for _ in own])
    masked = torch.zeros(len(lengths), n, dtype=torch.bool)
    for one in masked:
        one[torch.randperm(n, generator=generator)[: round(0.75 * n)]] = True
    ordered = [lengths[sample] for sample in order]
    places = find_places(
        input_ids,
        labels,
        image_rows,
        image_token_id=token,
        num_visual_tokens=n,
        samples=samples if variant.packed else None,
    )
    return MicroBatch(
        input_ids=input_ids,
        labels=labels,
        attention_mask=attention_mask,
        pixel_values=_pictures(shape, len(lengths), generator, flat=variant.flat).to(torch.bfloat16),
        image_is_real=torch.ones(len(lengths), dtype=torch.bool),
        image_rows=image_rows,
        masked=masked if variant.reconstructs else None,
        sample_ids=[str(sample) for sample in order],
        sources=["bench"] * len(lengths),
        num_images=[1] * len(lengths),
        num_samples=len(lengths),
        num_truncated=0,
        num_dropped=0,
        bad_images=[],
        places=places,
        packing=describe_packing(ordered, sizes=[len(own) for own in rows], length=length) if variant.packed else None,
    )


def lengths_of(batch: MicroBatch) -> list[int]:
    """Return the tokens of each sample."""
    if batch.packing is None:
        return [int(length) for length in batch.attention_mask.sum(dim=1)]
    bounds = batch.packing.boundaries.tolist()
    real = batch.attention_mask.flatten()
    return [end - start for start, end in pairwise(bounds) if real[start]]


def operations(shape: Shape, variant: Variant, length: int) -> float:
    """Return the useful operations of a sample, forwards and backwards."""
    layer = 4 * shape.width**2 + 3 * shape.width * shape.inner
    matrices = (
        6 * length * (shape.layers * layer + shape.width * shape.vocabulary * (length - shape.num_visual) / length)
    )
    seen = length**2 / 2 + (shape.num_visual**2 / 2 if variant.reconstructs else 0)
    attention = 3 * 4 * seen * shape.width * shape.layers
    tower = 2 * shape.num_visual * shape.tower_layers * 12 * shape.tower_width**2
    return float(matrices + attention + tower)


def _pictures(shape: Shape, count: int, generator: torch.Generator, *, flat: bool) -> Tensor:
    """Return [count, 3, H, W]: noise, or one colour a picture with a little noise."""
    noise = torch.randn(count, 3, shape.image_size, shape.image_size, generator=generator)
    return noise if not flat else torch.randn(count, 3, 1, 1, generator=generator) + 1e-3 * noise


if __name__ == "__main__":
    main()
