"""`croc data verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.options import MOST_PROCESSES, SetOption
from croc_cli.files import own_path
from croc_cli.names import looks_like_path
from croc_cli.words import counted

if TYPE_CHECKING:
    from croc_cli.names import StageName
    from croc_cli.recipe.schema import Recipe
    from croc_cli.sources.verify.verify import StageCheck, VerifyReport

EPILOG = "Example: croc data verify data/mixes/croc1.5m --deep"
NUM_SHOWN = 20
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="PATH|RECIPE",
        autocompletion=complete.recipes_or_files,
        help="A mix's folder, a data file, or a recipe",
    ),
]


def verify(
    target: TargetArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image; resumes where it stopped")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write a clean copy beside the data; never change it in place")
    ] = False,
    image_folder: Annotated[
        Path | None,
        typer.Option("--image-folder", metavar="DIR", help="Folder that image paths start from; a mix stores its own"),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="STAGE", help="With a recipe: only this stage's data; default: all")
    ] = None,
    assignments: SetOption = None,
    perceptual: Annotated[
        bool, typer.Option("--perceptual", help="With --deep: also find images that look alike")
    ] = False,
    eval_folder: Annotated[
        Path | None,
        typer.Option("--eval-data", metavar="DIR", help="Evaluation sets; default: eval in the data root"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=MOST_PROCESSES, metavar="N", help="Decoding processes; default: all cores"
        ),
    ] = None,
) -> None:
    """Check data before it is trained on; with errors the exit code is 2."""
    from croc_cli.console import result, say_next
    from croc_cli.errors import EXIT_USAGE
    from croc_cli.progress import work_line
    from croc_cli.sources.verify.verify import verify_mix

    is_good, cleaned = True, None
    for path, folder, check in targets(target, stage, assignments or [], image_folder, deep=deep):
        with work_line("done") as line:
            report = verify_mix(
                path,
                deep=deep,
                fix=fix,
                image_folder=folder,
                workers=workers,
                perceptual=perceptual,
                eval_folder=eval_folder,
                stage=check,
                progress=line,
            )
        result(describe_report(report, deep=deep, fix=fix, stage=check.name if check is not None else None))
        is_good = is_good and (report.ok or report.clean_path is not None)
        if report.clean_path is not None:
            cleaned, image_folder = report.clean_path, image_folder or report.image_root
    if not is_good:
        raise typer.Exit(EXIT_USAGE)
    if command := next_command(target, image_folder, cleaned):
        say_next(command)


def next_command(target: str, image_folder: Path | None, cleaned: Path | None) -> str | None:
    """Return the command that follows a check that went well: training of a recipe, a recipe for a file.

    Args:
        target: What was checked.
        image_folder: Where image paths start.
        cleaned: The clean copy, where one was needed: a recipe must name it before it can be run.
    """
    import shlex

    path = own_path(target)
    if is_recipe(path):
        return shlex.join(["croc", "run", target]) if cleaned is None else None
    if (path / "manifest.json").is_file():
        return None
    data = target if cleaned is None else str(cleaned)
    return shlex.join(["croc", "init", "--data", data, *(["--images", str(image_folder)] if image_folder else [])])


def is_recipe(path: Path) -> bool:
    """Tell whether an argument names a recipe: a YAML file, or what is neither a file nor written like a path."""
    return path.suffix in (".yaml", ".yml") or not (path.exists() or looks_like_path(str(path)))


def targets(
    target: str, stage: str | None, assignments: list[str], image_folder: Path | None, *, deep: bool
) -> "list[tuple[Path, Path | None, StageCheck | None]]":
    """Return (path, image folder, what its stage asks of it) of everything that is to be checked."""
    from croc_cli.errors import UsageError

    path = own_path(target)
    if not is_recipe(path):
        if not path.exists():
            raise UsageError(f"{target} does not exist", hint="name a mix, a data file or a recipe")
        return [(path, image_folder, None)]
    from croc_cli.console import with_warnings
    from croc_cli.recipe.load import load_recipe, with_overrides
    from croc_cli.recipe.schema import ScenesData

    recipe = with_warnings(load_recipe(target, overrides=with_overrides({}, assignments))).recipe
    found: list[tuple[Path, Path | None, StageCheck | None]] = [
        entry
        for name in _stages(recipe, stage)
        if not isinstance(recipe.data.source(name), ScenesData)
        for entry in [stage_target(recipe, name, deep=deep)]
    ]
    if not found:
        raise UsageError(
            f"recipe {recipe.name} draws its data as it trains; there are no files to check",
            hint="name a mix or a data file",
        )
    return found


def recipe_data(target: str, stage: str | None) -> "tuple[Recipe, Path, Path | None, StageName]":
    """Return a recipe, one stage's data and its image folder, and the stage: the given one, else the last with files.

    Raises:
        UsageError: There is no such recipe, or its data is not there.
    """
    from croc_cli.errors import RecipeError, UsageError
    from croc_cli.recipe.load import load_recipe
    from croc_cli.recipe.schema import ScenesData

    try:
        recipe = load_recipe(target).recipe
    except RecipeError as error:
        if "/" in target and Path(target).suffix not in (".yaml", ".yml"):
            raise UsageError(f"{target} does not exist", hint="name a mix, a data file or a recipe") from error
        raise
    stages = [name for name in _stages(recipe, stage) if not isinstance(recipe.data.source(name), ScenesData)]
    if not stages:
        raise UsageError(
            f"recipe {recipe.name} draws its data as it trains; there are no files to show",
            hint="name a mix or a data file",
        )
    path, folder, _ = stage_target(recipe, stages[-1], deep=False)
    return recipe, path, folder, stages[-1]


def _stages(recipe: "Recipe", stage: str | None) -> "list[StageName]":
    from croc_cli.errors import UsageError
    from croc_cli.names import STAGES

    if stage is not None and stage not in STAGES:
        raise UsageError(f"--stage {stage}: unknown stage", hint=f"one of {', '.join(STAGES)}")
    return [name for name in STAGES if (recipe.stage(name).enabled if stage is None else name == stage)]


def stage_target(recipe: "Recipe", stage: "StageName", *, deep: bool) -> "tuple[Path, Path | None, StageCheck]":
    """Return a stage's data, its image folder where it is not a mix, and what the stage makes of its rows."""
    from croc_cli.launch.requirements import check_data
    from croc_cli.recipe.paths import data_path
    from croc_cli.recipe.schema import LlavaJsonData
    from croc_cli.sources.mix.recipe_mix import mix_folder
    from croc_cli.sources.verify.verify import StageCheck

    check_data(recipe, stage)
    section, source = recipe.stage(stage), recipe.data.source(stage)
    tokens = None
    if deep:
        from croc_cli.pipeline.tokens import row_tokens

        tokens = row_tokens(recipe, stage)
    check = StageCheck(section.template, section.image_aspect, section.max_length, tokens, stage)
    if isinstance(source, LlavaJsonData):
        return data_path(recipe.data.root, source.path), data_path(recipe.data.root, source.image_folder), check
    return mix_folder(recipe, stage), None, check


def describe_report(report: "VerifyReport", *, deep: bool, fix: bool = False, stage: str | None = None) -> str:
    """Return what a check found, the first examples of each kind, and what there is to do."""
    share = f", {report.bad_rows:,} with errors" if report.bad_rows else ""
    lines = [f"{report.path}: {counted(report.rows, 'row')}{share}"]
    if deep:
        lines[0] += f"; {counted(report.images, 'image')} decoded"
        lines[0] += f", {report.cached:,} of them before" if report.cached else ""
    if report.prefixes and (len(report.prefixes) > 1 or report.prefixes[0][2]):
        width = max(len(prefix) for prefix, _, _ in report.prefixes)
        for prefix, present, missing in report.prefixes:
            part = f", {missing:,} missing ({missing / (present + missing):.1%})" if missing else ""
            lines.append(f"  {prefix:<{width}}  {counted(present, 'image')}{part}")
    left = NUM_SHOWN
    for finding in report.findings:
        lines.append(f"{finding.level:<8} {finding.code}: {finding.count:,} × {finding.message}")
        shown = finding.examples[:left] if finding.level == "error" else finding.examples[: min(left, 3)]
        left -= len(shown)
        lines += [f"         {example}" for example in shown]
        if finding.count > len(shown) and shown and finding.level != "note":
            lines.append(f"         … {finding.count - len(shown):,} more")
        if finding.hint:
            lines.append(f"         hint: {finding.hint}")
    if not report.findings:
        lines.append("nothing is wrong with it" if deep else "nothing is wrong with it; --deep decodes its images too")
    if report.list_file is not None:
        lines.append(f"all of them: {report.list_file}")
    if report.clean_path is not None:
        lines.append(f"clean copy: {report.clean_path}; what it leaves out: {report.dropped_file}")
        lines += ["to train on it, write into the recipe:", *recipe_lines(report, stage)]
    elif fix:
        lines.append("no row has an error, so there is nothing to leave out and no copy")
    elif report.bad_rows:
        lines.append("--fix writes a copy without the rows that have errors")
    return "\n".join(lines)


def recipe_lines(report: "VerifyReport", stage: str | None) -> list[str]:
    """Return the lines of a recipe that use a clean copy, from the folder where croc is run."""
    import yaml

    source: dict[str, str] = {"path": str(report.clean_path)}
    if report.image_root is not None:
        source = {"kind": "llava_json", **source, "image_folder": str(report.image_root)}
    content = {"data": {stage or "finetune": source}}
    lines = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000).splitlines()
    if stage is None:
        lines[1] += "  # or another stage"
    return [f"  {line}" for line in lines]
