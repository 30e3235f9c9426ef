"""From a recipe's `held_out` to what is measured, and to what is left to train on."""

import copy

import numpy as np
import torch

from croc_cli.data.collate import Collator
from croc_cli.data.dataset import Dataset, LlavaJsonDataset, MixDataset
from croc_cli.data.held_out import HeldOutLoader
from croc_cli.data.packing import RowLimit
from croc_cli.data.subset import Subset
from croc_cli.demo.dataset import SceneDataset
from croc_cli.names import StageName
from croc_cli.recipe.held_out import steps_between_measurements
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.verify.held_out import held_out_rows
from croc_cli.train.collectives import num_ranks, rank
from croc_cli.train.held_out import HeldOutMeasure
from croc_cli.train.position import POSITION
from croc_cli.train.stage_module import StageModule


def trained_part(dataset: Dataset, recipe: Recipe, stage: StageName) -> Dataset:
    """Return what is left of a stage's samples once the held-out ones are taken out."""
    with POSITION.working("drawing held-out samples", "drew held-out samples", opaque=True):
        rows = held_out_rows(recipe, stage)
    if rows is None:
        return dataset
    numbers = dataset.row_numbers if isinstance(dataset, LlavaJsonDataset) else np.arange(len(dataset))
    return Subset(dataset, (~np.isin(numbers, rows.kept_out)).nonzero()[0])


def held_out_dataset(recipe: Recipe, stage: StageName, *, num_visual_tokens: int) -> Dataset | None:
    """Return a stage's held-out samples in the order of their draw; None without any.

    Of drawn scenes they are those that follow the stage's own, so the stage itself stays as it is.
    """
    source, root, reading = recipe.data.source(stage), recipe.data.root, recipe.data.image_reading
    held = source.held_out if source is not None else None
    if source is None or held is None:
        return None
    if held.path is not None:
        folder = data_path(root, held.image_folder or "")
        return LlavaJsonDataset(data_path(root, held.path), folder, reading=reading)
    rows = held_out_rows(recipe, stage)
    if isinstance(source, MixData) and rows is not None:
        mix = MixDataset(mix_folder(recipe, stage), num_visual_tokens=num_visual_tokens, reading=reading)
        return Subset(mix, rows.measured)
    if isinstance(source, LlavaJsonData) and rows is not None:
        file, folder = data_path(root, source.path), data_path(root, source.image_folder)
        return Subset(LlavaJsonDataset(file, folder, reading=reading), rows.measured)
    assert not isinstance(source, MixData | LlavaJsonData)
    own, count = source.num_samples, held.count or 0
    scenes = SceneDataset(
        source.task,
        num_samples=own + count,
        seed=recipe.stage(stage).seed,
        split="train",
        text_only_share=source.text_only_share,
        brief=source.brief,
    )
    return Subset(scenes, np.arange(own, own + count))


def row_limit(recipe: Recipe, stage: StageName) -> RowLimit | None:
    """Return how long rows of a stage are into which samples are packed; None without packing."""
    tokens = recipe.stage(stage).row_tokens
    return None if tokens is None else RowLimit(tokens, f"{stage}.batch.row_tokens")


def held_out_measure(
    recipe: Recipe, stage: StageName, module: StageModule, collator: Collator, *, device: torch.device
) -> HeldOutMeasure | None:
    """Return what measures a stage's held-out loss; None without held-out samples.

    Args:
        recipe: The resolved recipe.
        stage: The stage.
        module: The training module.
        collator: The stage's; of a cache of features, which holds those of trained pictures, nothing is read.
        device: Where the module is.
    """
    dataset = held_out_dataset(recipe, stage, num_visual_tokens=collator.num_visual_tokens)
    if dataset is None:
        return None
    own = copy.copy(collator)
    own.features = None
    own.masking = own.masking.at_the_end() if own.masking is not None else None
    loader = HeldOutLoader(
        dataset,
        own,
        micro_size=recipe.stage(stage).batch.micro_size,
        rank=rank(),
        num_ranks=num_ranks(),
        num_workers=recipe.data.num_workers,
        packing=row_limit(recipe, stage),
    )
    every = steps_between_measurements(recipe.stage(stage), len(dataset))
    return HeldOutMeasure(module, loader, every=every, device=device)
