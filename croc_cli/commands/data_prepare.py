"""`croc data prepare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from croc_cli.commands.data_fetch import (
    KeepOption,
    RetryOption,
    SamLinksOption,
    SamTarsOption,
    WithoutOption,
    YesOption,
    confirm,
    describe_outcomes,
    describe_plan,
    fetch_all,
    missing,
    recipe_plan,
)
from croc_cli.commands.data_mix import StageOption, make_mix, mix_stages
from croc_cli.commands.options import RecipeArgument, SetOption
from croc_cli.files import own_path
from croc_cli.names import DEFAULT_RECIPE, StageName

if TYPE_CHECKING:
    from croc_cli.recipe.schema import Recipe
    from croc_cli.sources.fetch.fetch import FetchOptions
    from croc_cli.sources.fetch.plan import Plan
    from croc_cli.sources.verify.verify import VerifyReport

EPILOG = "Example: croc data prepare croc-7b --set data.reconstruct.preset=croc1.5m-nosam --dry-run"
DeepOption = Annotated[bool, typer.Option("--deep", help="Decode every image when the mixes are checked")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be fetched and mixed; change nothing")]


def prepare(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    stage: StageOption = None,
    assignments: SetOption = None,
    without: WithoutOption = None,
    sam_links: SamLinksOption = None,
    sam_tars: SamTarsOption = None,
    keep_archives: KeepOption = False,
    retry_failed: RetryOption = False,
    deep: DeepOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Fetch, mix and check all that a recipe trains on, resuming where it stopped."""
    from croc_cli.console import result, with_warnings
    from croc_cli.errors import UsageError
    from croc_cli.recipe.load import load_recipe, with_overrides
    from croc_cli.sources.fetch.fetch import FetchOptions

    loaded = with_warnings(load_recipe(recipe, overrides=with_overrides({}, assignments or ()))).recipe
    stages = mix_stages(loaded, stage)
    plan = recipe_plan(_only(loaded, stages), root=None, catalogs=(), without=without or ())
    result(describe_plan(plan))
    if dry_run:
        for name in stages:
            make_mix(loaded, name, dry_run=True)
        return
    confirm(plan, yes=yes)
    _fetch(plan, FetchOptions(sam_links, sam_tars, keep_archives, retry_failed))
    reports = []
    for name in stages:
        folder = make_mix(loaded, name)
        report = _verify(loaded, name, folder, deep=deep)
        if report is not None:
            reports.append(report)
    wrong = [report for report in reports if not report.ok]
    if wrong:
        raise UsageError(
            f"{len(wrong)} of {len(stages)} mixes have errors: {', '.join(str(report.path) for report in wrong)}",
            hint=f"`croc data verify {wrong[0].path} --fix` writes a copy without the rows that have them",
        )
    result(f"ready: `croc run {recipe}` trains on {', '.join(stages)}")


def _only(recipe: "Recipe", stages: list[StageName]) -> "Recipe":
    """Return a recipe with the stages switched off that are not meant, so that their sources are not fetched."""
    from croc_cli.names import STAGES

    off: dict[str, object] = {
        name: recipe.stage(name).model_copy(update={"enabled": name in stages}) for name in STAGES
    }
    return recipe.model_copy(update=off)


def _fetch(plan: "Plan", options: "FetchOptions") -> None:
    """Fetch what is missing, and say what came of it.

    Raises:
        RunError: Something is missing that the mixes need.
    """
    from croc_cli.console import result, say
    from croc_cli.errors import RunError

    if all(planned.done for planned in plan.sources) and not options.retry_failed:
        say("every source is here")
        return
    outcomes = fetch_all(plan, options)
    result(describe_outcomes(plan, outcomes))
    if lacking := missing(outcomes):
        raise RunError(
            f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not complete, so nothing was mixed",
            hint="the same command resumes from here; --without SOURCE does without one",
        )


def _verify(recipe: "Recipe", stage: StageName, folder: Path, *, deep: bool) -> "VerifyReport | None":
    """Check a mix, unless this very mix was checked before and was in order; say what was found."""
    from croc_cli.commands.data_verify import describe_report, stage_target
    from croc_cli.console import result, say
    from croc_cli.progress import work_line
    from croc_cli.run_dir import read_json, write_json
    from croc_cli.sources.known.record import FOLDER
    from croc_cli.sources.read.manifest import read_manifest
    from croc_cli.sources.verify.verify import verify_mix

    notes_file = own_path(recipe.data.root) / FOLDER / "verified.json"
    notes = read_json(notes_file)
    order = read_manifest(folder).order_sha256
    before = notes.get(str(folder), {})
    if before.get("order_sha256") == order and (before.get("deep") or not deep):
        say(f"{folder} was checked before and is in order")
        return None
    _, _, check = stage_target(recipe, stage, deep=deep)
    with work_line("done") as line:
        report = verify_mix(folder, deep=deep, stage=check, progress=line)
    result(describe_report(report, deep=deep))
    if report.ok:
        write_json(notes_file, {**notes, str(folder): {"order_sha256": order, "deep": deep}})
    return report
