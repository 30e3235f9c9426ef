"""Where a stage starts: a given checkpoint, or the stock LLaVA assembled from the recipe's tower and LLM."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from transformers import AutoTokenizer

from croc_cli.checkpoint.metadata import LLM_TEMPLATE_KEY, CheckpointMetadata
from croc_cli.data.image import build_image_processor
from croc_cli.data.processor_template import chat_template_for
from croc_cli.data.sentencepiece_merges import repair_merges
from croc_cli.errors import CrocError, RunError, UsageError
from croc_cli.launch.prepare import assembled_of, growing_folder, is_assembled
from croc_cli.launch.weights import combine_hashes, weights_files
from croc_cli.model.build import assemble
from croc_cli.model.find import find_model
from croc_cli.model.projector import CaptionedPictures
from croc_cli.names import METADATA_FILE, StageName
from croc_cli.place import is_there
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import RunDir, StageDir, sha256_of
from croc_cli.train.collectives import gather_from_ranks
from croc_cli.train.position import POSITION
from croc_cli.worker.build import DTYPES, build_dataset
from croc_cli.worker.calibrate import captioned_batches, drawn_samples


def find_start(
    recipe: Recipe, stage_dir: StageDir, stage: StageName, *, start: Path | None, say: Callable[[str], None]
) -> Path:
    """Return the stock checkpoint folder that a stage starts from; rank 0 assembles it where there is none yet.

    Args:
        recipe: Of the run.
        stage_dir: The stage's folder.
        stage: Which one.
        start: A checkpoint that was given or that the stage before made; None to assemble one.
        say: Told of what takes time.

    Raises:
        RunError: On every rank, where it could not be assembled.
    """
    if start is not None:
        return start
    folder = RunDir(stage_dir.root.parent).init
    failure = None
    if dist.get_rank() == 0:
        try:
            ensure_assembled(recipe, stage, folder, say=say)
        except Exception as error:  # the other ranks wait below, and must hear of it
            failure = error.message if isinstance(error, CrocError) else f"{type(error).__name__}: {error}"
    if message := next((text for text in gather_from_ranks(failure) if text), None):
        raise RunError(f"the model could not be assembled from tower and LLM: {message}")
    return folder


def ensure_assembled(
    recipe: Recipe, stage: StageName, folder: Path, *, say: Callable[[str], None] = lambda _: None
) -> None:
    """Make the stock LLaVA that training starts from, unless `folder` holds it for the same parts and seed.

    One for other parts is renamed, not deleted. The folder appears complete or not at all.
    """
    section = recipe.stage(stage)
    if is_assembled(recipe, stage, folder):
        return
    if (folder / METADATA_FILE).exists():
        folder.rename(folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    elif is_there(folder):
        raise UsageError(f"{folder} exists, and croc did not create it", hint="move it away, then run it again")
    tower, llm = found_part(recipe, "vision_tower"), found_part(recipe, "llm")
    image_processor = build_image_processor(tower, section.image_aspect, resampling=recipe.model.image_resampling)

    def captioned_pictures(needed: int, tokenizer: Any) -> Iterator[CaptionedPictures]:
        say(f"the projector's first weights are fitted to up to {needed:,} pictures of data.{stage} and their captions")
        samples = drawn_samples(build_dataset(recipe, stage), seed=section.seed)
        batches = captioned_batches(samples, image_processor, tokenizer, needed)
        if (first := next(batches, None)) is None:
            raise RunError(
                f"no picture of data.{stage} opens, and model.projector_initialisation is captions",
                hint="fix the pictures, or leave model.projector_initialisation out",
            )
        looked_at = 0
        doing = ("looking at pictures and captions", "looked at pictures and captions")
        with POSITION.working(*doing, total=needed, unit="pictures", opaque=True) as moved:
            for batch in chain([first], batches):
                yield batch
                looked_at += len(batch.captions)
                moved(looked_at)

    growing = growing_folder(folder)
    shutil.rmtree(growing, ignore_errors=True)
    with POSITION.working(
        "assembling the model", "assembled the model", unit="bytes", opaque=True, measure=lambda: folder_bytes(growing)
    ):
        assemble(
            tower,
            llm,
            growing,
            seed=section.seed,
            vision_feature_layer=recipe.model.vision_feature_layer,
            image_processor=image_processor,
            chat_template=chat_template_for(section.template, section.system_prompt),
            dtype=DTYPES[section.precision],
            prepare_tokenizer=repair_merges,
            pictures=captioned_pictures if recipe.model.projector_initialisation == "captions" else None,
        )
    with POSITION.working("hashing the model", "hashed the model", opaque=True):
        files = {file.name: sha256_of(file) for file in weights_files(growing)}
    CheckpointMetadata(
        files=files,
        weights_sha256=combine_hashes(files),
        visual_norm=recipe.model.visual_norm,
        image_aspect=section.image_aspect,
        image_reading=recipe.data.image_reading,
        extra={
            "made_from": assembled_of(recipe, stage),
            LLM_TEMPLATE_KEY: AutoTokenizer.from_pretrained(llm).chat_template,
        },
    ).write(growing)
    growing.rename(folder)


def found_part(recipe: Recipe, part: Literal["vision_tower", "llm"]) -> Path:
    """Return the folder of a vision tower or an LLM, fetched from the hub where it is not here."""
    name, revision = getattr(recipe.model, part), getattr(recipe.model, f"{part}_revision")
    return find_model(
        name,
        part=part,
        revision=revision,
        fetching=lambda total, measure: POSITION.working(
            f"fetching {name}", f"fetched {name}", total=total, unit="bytes", opaque=True, measure=measure
        ),
    )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of the files right in a folder; those that vanish meanwhile do not count."""
    total = 0
    for file in folder.glob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
