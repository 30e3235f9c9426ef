"""From a recipe's data section to the specification of a stage's mix: presets, catalogue and paths settled."""

from pathlib import Path

from croc_cli.errors import RecipeError, UsageError
from croc_cli.files import own_path
from croc_cli.names import STAGES, StageName
from croc_cli.place import put_text
from croc_cli.recipe.find import SUFFIXES
from croc_cli.recipe.load import dump_recipe, load_resolved
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.schema import DataRecipe, MixData, Recipe, SourceRecipe
from croc_cli.sources.known.catalog import find_source
from croc_cli.sources.known.forms import source_columns
from croc_cli.sources.known.record import fetched_commit
from croc_cli.sources.mix.presets import lay_over, read_preset
from croc_cli.sources.read.spec import MIX_FOLDER, MixSpec, RowFilter, SourceSpec

RECIPE_NAME = "recipe.yaml"
"""File in a mix's folder with the recipe that it was made for."""


def mix_name(recipe: Recipe, stage: StageName) -> str:
    """Return the name of a stage's mix: the preset's, as long as the recipe changes nothing of it, else its own."""
    data = _mix(recipe, stage)
    if data.preset is not None and not data.sources:
        return Path(data.preset).stem if data.preset.endswith(SUFFIXES) else data.preset
    return f"{recipe.name}-{stage}"


def mix_folder(recipe: Recipe, stage: StageName) -> Path:
    """Return the folder of a stage's mix.

    Raises:
        RecipeError: The stage's data is not a mix.
    """
    data = _mix(recipe, stage)
    if data.path is None:
        return own_path(recipe.data.root) / MIX_FOLDER / mix_name(recipe, stage)
    return _path_of(recipe.data, data.path)


def _path_of(data: DataRecipe, path: str) -> Path:
    """Return a path by the rule of `recipe.paths`; below data.root where nothing is there yet, as a mix to be made."""
    found = data_path(data.root, path)
    return found if found.exists() else own_path(data.root) / path


def recipe_sources(recipe: Recipe, stage: StageName) -> dict[str, SourceRecipe]:
    """Return the enabled sources of a stage's mix by name, the preset's with the recipe's own laid over them.

    Raises:
        RecipeError: The stage's data is not a mix, its preset does not exist, or it has no sources.
    """
    data = _mix(recipe, stage)
    sources = read_preset(data.preset)[1] if data.preset is not None else {}
    own = {name: source.model_dump(exclude_defaults=True) for name, source in data.sources.items()}
    found = {name: SourceRecipe.model_validate(keys) for name, keys in lay_over(sources, own).items()}
    enabled = {name: source for name, source in found.items() if source.enabled}
    if not enabled:
        raise RecipeError(f"data.{stage} has no sources", hint="give it a preset, or sources of your own")
    return enabled


def listed_rows(recipe: Recipe, stage: StageName) -> int | None:
    """Return the rows of a stage's mix by recipe and catalogue; None where a source's own data would have to say."""
    if not isinstance(recipe.data.source(stage), MixData):
        return None
    total = 0
    for name, source in recipe_sources(recipe, stage).items():
        rows = find_source(source.source or name, recipe.data.catalogs).rows if source.path is None else None
        if source.count is None and (rows is None or source.filters.model_dump(exclude_defaults=True)):
            return None
        total += source.count if source.count is not None else round((rows or 0) * (source.fraction or 1))
    return total


def mix_spec(recipe: Recipe, stage: StageName) -> MixSpec:
    """Return what a stage's mix is made of.

    Raises:
        RecipeError: The stage's data is not a mix, or a source is neither a path nor in the catalogue.
    """
    data = _mix(recipe, stage)
    sources = tuple(_source(name, source, recipe.data) for name, source in recipe_sources(recipe, stage).items())
    return MixSpec(
        mix_name(recipe, stage),
        sources,
        own_path(recipe.data.root),
        seed=data.seed,
        drop_duplicates=data.drop_duplicates,
    )


def _source(name: str, source: SourceRecipe, data: DataRecipe) -> SourceSpec:
    if source.count is not None and source.fraction is not None:
        raise RecipeError(f"source {name}: count and fraction are given both", hint="leave one out")
    columns = source.columns.model_dump(exclude_defaults=True) if source.columns is not None else {}
    known = None
    if source.path is None:
        known = find_source(source.source or name, data.catalogs)
        if known.annotation is None:
            raise RecipeError(
                f"source {name}: {known.name} has images alone, no rows", hint="`croc data sources` lists"
            )
    root = own_path(data.root)
    image_root = _path_of(data, source.image_root) if source.image_root is not None else None
    if image_root is None and known is not None and known.image_root is not None:
        image_root = root / known.image_root
    return SourceSpec(
        name=name,
        path=_path_of(data, str(source.path)) if known is None else root / str(known.annotation),
        format=source.format,
        image_root=image_root,
        columns=columns or (source_columns(known.name) if known is not None else {}),
        count=source.count,
        fraction=source.fraction,
        seed=source.seed,
        filter=RowFilter(**source.filters.model_dump()),
        max_dropped=source.max_dropped,
        catalog=known.name if known is not None else None,
        revision=(fetched_commit(root, known.name) or known.revision) if known is not None else None,
        licence=known.licence if known is not None else None,
        expected_rows=known.rows if known is not None and not known.unverified else None,
    )


def keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Keep the recipe that a mix was made for in the mix's folder."""
    put_text(folder / RECIPE_NAME, dump_recipe(recipe))


def recipe_of_mix(folder: Path) -> tuple[Recipe, StageName | None] | None:
    """Return the recipe that a mix was made for, and the stage where it is plain; None where that is not known."""
    try:
        recipe = load_resolved(folder / RECIPE_NAME)
        name = folder.resolve().name.removesuffix("-clean")
        mixed = [stage for stage in STAGES if isinstance(recipe.data.source(stage), MixData)]
        named = [stage for stage in mixed if mix_folder(recipe, stage).name == name]
    except UsageError:
        return None
    stages = named or mixed
    return recipe, stages[0] if len(stages) == 1 else None


def _mix(recipe: Recipe, stage: StageName) -> MixData:
    data = recipe.data.source(stage)
    if not isinstance(data, MixData):
        kind = "nothing" if data is None else f"of kind {data.kind}"
        raise RecipeError(
            f"data.{stage} of recipe {recipe.name} is {kind}, so there is no mix to make",
            hint="a mix has `kind: mix` and a preset or sources",
        )
    return data
