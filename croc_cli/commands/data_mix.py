"""`croc data mix`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from croc_cli.commands.options import RecipeArgument, SetOption
from croc_cli.names import DEFAULT_RECIPE, STAGES, StageName
from croc_cli.words import counted

if TYPE_CHECKING:
    from croc_cli.recipe.schema import Recipe
    from croc_cli.sources.read.manifest import Manifest

EPILOG = "Example: croc data mix croc-7b --stage reconstruct"
StageOption = Annotated[
    str | None,
    typer.Option("--stage", metavar="STAGE", help="align, reconstruct or finetune; default: all with a mix"),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Rebuild even if nothing changed")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be mixed; change nothing")]


def mix(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    stage: StageOption = None,
    assignments: SetOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Build a recipe's training mixes from fetched sources and your own data."""
    from croc_cli.console import say_next, with_warnings
    from croc_cli.recipe.load import load_recipe, with_overrides

    loaded = with_warnings(load_recipe(recipe, overrides=with_overrides({}, assignments or ()))).recipe
    for name in mix_stages(loaded, stage):
        make_mix(loaded, name, force=force, dry_run=dry_run)
    if not dry_run:
        say_next(shlex.join(["croc", "data", "verify", recipe]))


def mix_stages(recipe: "Recipe", stage: str | None) -> list[StageName]:
    """Return the stages whose mixes are meant.

    Raises:
        UsageError: There is no such stage, or none of the recipe's stages trains on a mix.
    """
    from croc_cli.errors import UsageError
    from croc_cli.recipe.schema import MixData

    if stage is not None:
        if stage not in STAGES:
            raise UsageError(f"--stage {stage}: unknown stage", hint=f"one of {', '.join(STAGES)}")
        return [stage]
    found = [name for name in STAGES if recipe.stage(name).enabled and isinstance(recipe.data.source(name), MixData)]
    if not found:
        raise UsageError(
            f"recipe {recipe.name} trains on no mix",
            hint="a stage's data that is to be mixed has `kind: mix` and a preset or sources",
        )
    return found


def make_mix(recipe: "Recipe", stage: StageName, *, force: bool = False, dry_run: bool = False) -> Path:
    """Make one stage's mix unless it is there as it should be, say what it holds, and return its folder."""
    from croc_cli.console import result, say
    from croc_cli.pipeline.lengths import count_lengths
    from croc_cli.progress import work_line
    from croc_cli.sources.mix.mix import build_mix, is_current
    from croc_cli.sources.mix.recipe_mix import keep_recipe, mix_folder, mix_spec
    from croc_cli.sources.read.manifest import read_manifest

    spec, folder = mix_spec(recipe, stage), mix_folder(recipe, stage)
    if dry_run:
        lines = [f"{stage}: {folder}"]
        for source in spec.sources:
            share = f"{counted(source.count, 'row')}" if source.count is not None else "all rows"
            share = f"{source.fraction:.1%} of the rows" if source.fraction is not None else share
            lines.append(f"  {source.name}: {share} of {source.path}" + ("" if source.path.exists() else " (not here)"))
        result("\n".join(lines))
        return folder
    if not force and is_current(spec, folder):
        say(f"{stage}: the mix {folder} is up to date (--force makes it again)")
        count_lengths(recipe, stage, folder)
        result(describe_mix(read_manifest(folder), folder))
        return folder
    with work_line("rows") as line:
        manifest = build_mix(spec, folder, progress=line)
    keep_recipe(recipe, folder)
    for note in manifest.notes:
        say(f"note: {note}")
    count_lengths(recipe, stage, folder)
    result(describe_mix(manifest, folder))
    return folder


def describe_mix(manifest: "Manifest", folder: Path) -> str:
    """Return what a mix holds, as a table of its sources."""
    rows = [("source", "rows in", "left out", "rows", "licence")]
    for source in manifest.sources:
        left_out = ", ".join(f"{number:,} {reason}" for reason, number in source.dropped.items()) or "–"
        rows.append((source.name, f"{source.rows_in:,}", left_out, f"{source.rows_out:,}", source.licence or "–"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]
    total = f"{manifest.rows:,} rows: {manifest.image_rows:,} with an image, {manifest.text_rows:,} of text alone"
    repeated = f"; {manifest.duplicates:,} repeat another" if manifest.duplicates else ""
    return "\n".join([*lines, f"{total}{repeated}", f"{folder}  order {manifest.order_sha256[:12]}"])
