"""The figures of a run that need its model: pictures with masked patches, and the attention mask of a real sample."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from croc_cli.checkpoint.metadata import weights_sha256
from croc_cli.checkpoint.opened import load_training_state, without_prefix
from croc_cli.checkpoint.validate import naming
from croc_cli.data.dataset import Dataset
from croc_cli.data.image import BadImageError, open_image, process_images
from croc_cli.data.processor_template import chat_template_for
from croc_cli.data.sample import Sample, Turn
from croc_cli.demo.dataset import SceneDataset
from croc_cli.errors import RunError, UsageError
from croc_cli.eval.masked_pictures import (
    MaskedInputs,
    PatchGallery,
    mosaic,
    nearest_tokens,
    picture_of,
    run_masked,
    write_captions,
)
from croc_cli.model.attention_mask import build_attention_mask
from croc_cli.model.lmm import MultimodalOutput
from croc_cli.names import IGNORE_INDEX, IMAGE_TOKEN, TRAINING_STATE_FILE
from croc_cli.objectives.reconstruction import normalise_targets, position_distances
from croc_cli.recipe.load import load_resolved
from croc_cli.recipe.schema import Recipe, ScenesData
from croc_cli.run_dir import StageDir, write_json
from croc_cli.worker.build import StageParts, build_masking, build_stage
from croc_cli.worker.device import chosen_device

STAGE = "figures"
NUM_PICTURES = 3
NUM_GALLERY = 60
"""Other pictures whose patches show what a token would look like."""
_CAPTION_TOKENS = 96
_SHOWN_PIXELS = 216


@torch.inference_mode()
def run_figures(stage_dir: StageDir, *, start: Path | None) -> None:
    """Write `figures.json` and its pictures into the folder of the figures, from a checkpoint of stage 1.5.

    Raises:
        UsageError: No checkpoint was given, or the data has no picture.
    """
    if start is None:
        raise UsageError("figures need a checkpoint of the reconstruct stage")
    recipe = load_resolved(stage_dir.recipe_file)
    device = chosen_device(recipe.launch.device)
    parts = load_parts(recipe, start, device=device)
    samples, held_out = pick_samples(recipe, parts.loader.dataset, count=NUM_PICTURES + NUM_GALLERY)
    shown = samples[:NUM_PICTURES]
    content: dict[str, Any] = {
        "checkpoint": str(start),
        "checkpoint_sha256": weights_sha256(start),
        "held_out": held_out,
        "attention": attention_of(recipe, parts, shown[0]),
    }
    if parts.module.model.pool is not None:
        content |= draw_pictures(recipe, parts, shown, samples[NUM_PICTURES:], stage_dir.root, device=device)
    write_json(stage_dir.root / "figures.json", content)
    write_json(stage_dir.summary_file, {"finished": True, "stage": STAGE, "checkpoint": str(start)})


def load_parts(recipe: Recipe, start: Path, *, device: str) -> StageParts:
    """Return the reconstruct stage as it was trained, with the pool and head of a checkpoint, ready to run.

    Raises:
        RunError: The checkpoint lies without its pool.
    """
    template = chat_template_for(recipe.reconstruct.template, recipe.reconstruct.system_prompt)
    parts = build_stage(recipe, "reconstruct", start=start, weights=start, rank=0, num_ranks=1, chat_template=template)
    model = parts.module.model
    saved = load_training_state(start)
    for prefix, module in model.training_parts().items():
        own = without_prefix(saved, prefix)
        if not own and any(True for _ in module.parameters()):
            raise RunError(f"{start} lies without its token pool", hint="the checkpoint that training saved has it")
        with naming(start / TRAINING_STATE_FILE):
            module.load_state_dict(own)
        module.to(model.llava.dtype)
    model.to(device).eval()
    return parts


def pick_samples(recipe: Recipe, dataset: Dataset, *, count: int) -> tuple[list[Sample], bool]:
    """Return samples with one picture that opens, and whether they are held out from training.

    Drawn scenes have a split that is never trained on; of other data, the first samples are taken.

    Raises:
        UsageError: There is none.
    """
    source = recipe.data.reconstruct
    held_out = isinstance(source, ScenesData)
    if isinstance(source, ScenesData):
        dataset = SceneDataset(source.task, num_samples=count, seed=recipe.reconstruct.seed, split="test")
    found: list[Sample] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        if len(sample.images) != 1 or len(sample.turns) < 2:
            continue
        try:
            open_image(sample.images[0])
        except BadImageError:
            continue
        found.append(sample)
        if len(found) == count:
            break
    if not found:
        raise UsageError("the data of the reconstruct stage has no picture that opens")
    return found, held_out


def attention_of(recipe: Recipe, parts: StageParts, sample: Sample) -> dict[str, Any]:
    """Return the attention mask that the LLM gets for a sample: T letters of what each token is, T rows of 0 and 1."""
    llava = parts.module.model.llava
    encoded = parts.loader.encoder.encode(sample.turns, num_images=1)
    ids, labels = torch.tensor([encoded.input_ids]), torch.tensor([encoded.labels])
    is_visual = ids == llava.config.image_token_id
    is_label = labels != IGNORE_INDEX
    config = llava.config.text_config.__class__.from_dict(llava.config.text_config.to_dict())
    config._attn_implementation = "sdpa"  # the one kernel whose mask is a matrix of booleans
    mask = build_attention_mask(
        config,
        torch.zeros(1, ids.shape[1], 1),
        torch.ones_like(ids),
        kind=recipe.reconstruct.attention,
        is_visual=is_visual,
        is_label=is_label,
    )
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    dense = causal if recipe.reconstruct.attention == "causal" else mask.expand(1, 1, length, length)[0, 0]
    kinds = ["v" if visual else "a" if label else "i" for visual, label in zip(is_visual[0], is_label[0], strict=True)]
    return {
        "kind": recipe.reconstruct.attention,
        "sample": sample.id,
        "tokens": "".join(kinds),
        "rows": ["".join(map(str, row)) for row in dense.int().tolist()],
    }


def draw_pictures(
    recipe: Recipe, parts: StageParts, shown: Sequence[Sample], others: Sequence[Sample], folder: Path, *, device: str
) -> dict[str, Any]:
    """Save the panels of each picture, and return what belongs beside them."""
    model = parts.module.model
    inputs, masked = masked_inputs(recipe, parts, shown, device=device)
    output = run_masked(model, inputs)
    pictures = [_shown(parts, pixels) for pixels in inputs.pixel_values]
    gallery = gallery_of(parts, others or shown, device=device)
    tokenizer = parts.processor.tokenizer
    written = write_captions(model, inputs, end_ids=[tokenizer.eos_token_id], max_tokens=_CAPTION_TOKENS)
    explained = explained_shares(parts, output, masked) if parts.module.objectives.reconstruction_weight > 0 else None
    entries = []
    for index, sample in enumerate(shown):
        places = masked[index].nonzero().flatten().tolist()
        panels = panels_of(parts, output, gallery, pictures[index], index, places, predicted=explained is not None)
        files = {}
        for name, panel in panels.items():
            files[name] = f"{name}-{index}.png"
            panel.save(folder / files[name])
        assert output.assignment is not None
        entries.append(
            {
                "sample": sample.id,
                "files": files,
                "masked": places,
                "pool_tokens": output.assignment[index][: len(places)].tolist(),
                "explained": None if explained is None else [round(v, 4) for v in explained[index][places].tolist()],
                "request": shown[0].turns[0].text.replace(IMAGE_TOKEN, "").strip(),
                "written": tokenizer.decode(written[index], skip_special_tokens=True).strip(),
                "truth": sample.turns[1].text,
            }
        )
    side = gallery.side
    return {"side": side, "pool_size": model.pool.num_tokens if model.pool else 0, "pictures": entries}


def masked_inputs(
    recipe: Recipe, parts: StageParts, samples: Sequence[Sample], *, device: str
) -> tuple[MaskedInputs, Tensor]:
    """Return the prompts of samples with their masks, and the masks [I, n] bool; all ask what the first one asks."""
    n = parts.num_visual_tokens
    first = samples[0].turns[0]
    prompt = parts.loader.encoder.encode_prompt([Turn("human", first.text)], num_images=1)
    masking = build_masking(recipe, "reconstruct", num_steps=1)
    assert masking is not None
    draw = partial(masking.at_the_end().draw, n, seed=recipe.reconstruct.seed, step=0, image_index=0)
    masks = [draw(sample_id=sample.id) for sample in samples]
    masked = torch.stack([torch.from_numpy(mask) for mask in masks])
    pixels = process_images([open_image(sample.images[0]) for sample in samples], parts.processor.image_processor)
    ids = torch.tensor([prompt] * len(samples))
    return MaskedInputs(ids.to(device), pixels.to(device), masked.to(device)), masked


def gallery_of(parts: StageParts, samples: Sequence[Sample], *, device: str) -> PatchGallery:
    """Return the patches of pictures with their visual tokens."""
    tokens, pictures = [], []
    for sample in samples:
        pixels = process_images([open_image(sample.images[0])], parts.processor.image_processor)
        tokens.append(parts.module.model.encode_images(pixels.to(device)))
        pictures.append(_shown(parts, pixels[0]))
    return PatchGallery(torch.cat(tokens), pictures)


def panels_of(
    parts: StageParts,
    output: MultimodalOutput,
    gallery: PatchGallery,
    picture: Image.Image,
    index: int,
    places: Sequence[int],
    *,
    predicted: bool,
) -> dict[str, Image.Image]:
    """Return the panels of one picture: as it is, with holes, with pool tokens, and with what the LLM put back.

    A token is shown as the patch, of other pictures, whose own visual token lies nearest to it.
    """
    pool = parts.module.model.pool
    assert pool is not None
    assert output.assignment is not None
    taken = output.assignment[index][: len(places)].to(pool.weight.device)
    by_pool = nearest_tokens(pool.weight[taken], gallery.tokens)
    side = gallery.side
    panels = {
        "picture": picture,
        "masked": mosaic(picture, side, dict.fromkeys(places)),
        "pool": mosaic(
            picture, side, {place: gallery.patch(token) for place, token in zip(places, by_pool, strict=True)}
        ),
    }
    if predicted:
        target = parts.module.objectives.target
        wanted = normalise_targets(gallery.tokens.float(), target)
        back = nearest_tokens(output.visual_hidden[index][list(places)], wanted)
        panels["reconstructed"] = mosaic(
            picture, side, {place: gallery.patch(token) for place, token in zip(places, back, strict=True)}
        )
    return panels


def explained_shares(parts: StageParts, output: MultimodalOutput, masked: Tensor) -> Tensor:
    """Return [I, n], 1 − distance / distance of the mean masked token, position by position, as the objective measures.

    One is perfect, zero as good as the mean, below zero worse.
    """
    settings = parts.module.objectives
    wanted = normalise_targets(output.visual_targets.float(), settings.target)
    mean = wanted[masked.to(wanted.device)].mean(dim=0)

    found = position_distances(output.visual_hidden.float(), wanted, settings)
    of_mean = position_distances(mean.expand_as(wanted), wanted, settings)
    return (1 - found / of_mean.clamp(min=1e-8)).cpu()


def _shown(parts: StageParts, pixels: Tensor) -> Image.Image:
    """Return what the tower sees of a picture, at a size that a page shows; a whole number of pixels a patch."""
    processor = parts.processor.image_processor
    picture = picture_of(pixels, processor.image_mean, processor.image_std)
    factor = max(1, _SHOWN_PIXELS // picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
