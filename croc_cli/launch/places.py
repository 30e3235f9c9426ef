"""Which files and folders that a recipe names are not there."""

from collections.abc import Iterator
from pathlib import Path

from croc_cli.files import own_path
from croc_cli.names import STAGES, StageName
from croc_cli.recipe.load import argument_of
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe
from croc_cli.sources.mix.recipe_mix import mix_folder, mix_spec, recipe_sources
from croc_cli.sources.read.manifest import MANIFEST_NAME


def missing_places(recipe: Recipe) -> list[str]:
    """Return what a recipe names and what is not there, one line each, with the path that was looked at."""
    found: list[str] = []
    for key, name in (("vision_tower", recipe.model.vision_tower), ("llm", recipe.model.llm)):
        if name.startswith(("/", "./", "../", "~")) and not own_path(name).is_dir():
            found.append(f"model.{key}: there is no folder {_shown(own_path(name))}")
    for file in recipe.data.catalogs:
        if not own_path(file).is_file():
            found.append(f"data.catalogs: there is no file {_shown(own_path(file))}")
    for stage in STAGES:
        if recipe.stage(stage).enabled:
            found += _of_stage(recipe, stage)
    if (hosts := recipe.launch.hostfile) is not None and not own_path(hosts).is_file():
        found.append(f"launch.hostfile: there is no file {_shown(own_path(hosts))}")
    return found


def _of_stage(recipe: Recipe, stage: StageName) -> Iterator[str]:
    source = recipe.data.source(stage)
    if isinstance(source, LlavaJsonData):
        file = data_path(recipe.data.root, source.path)
        folder = data_path(recipe.data.root, source.image_folder)
        if not file.is_file():
            yield f"data.{stage}.path: there is no file {_shown(file)}"
        if not folder.is_dir():
            yield f"data.{stage}.image_folder: there is no folder {_shown(folder)}"
    elif isinstance(source, MixData):
        folder = mix_folder(recipe, stage)
        if (folder / MANIFEST_NAME).is_file():
            return
        own = {name for name, entry in recipe_sources(recipe, stage).items() if entry.path is not None}
        for entry in mix_spec(recipe, stage).sources:
            if entry.name in own and not entry.path.exists():
                yield f"data.{stage}.sources.{entry.name}.path: there is nothing at {_shown(entry.path)}"
            if entry.name in own and entry.image_root is not None and not entry.image_root.is_dir():
                yield f"data.{stage}.sources.{entry.name}.image_root: there is no folder {_shown(entry.image_root)}"
        yield (
            f"data.{stage}: there is no mix in {_shown(folder)} yet;"
            f" `croc data prepare {argument_of(recipe)} --stage {stage}` makes it"
        )


def _shown(path: Path) -> Path:
    return path.absolute()
