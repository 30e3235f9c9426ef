"""`croc data fetch`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.data_sources import CatalogOption
from croc_cli.commands.options import SetOption
from croc_cli.files import own_path

if TYPE_CHECKING:
    from croc_cli.recipe.schema import Recipe
    from croc_cli.sources.fetch.fetch import FetchOptions, Outcome
    from croc_cli.sources.fetch.plan import Plan, PlannedSource

EPILOG = "Example: croc data fetch --recipe croc-7b --dry-run"
DATA_ROOT = "data"
RootOption = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="Data root; default: the recipe's data.root, or data")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation")]
PlanOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan; fetch nothing")]
WithoutOption = Annotated[
    list[str] | None, typer.Option("--without", metavar="SOURCE", help="Skip this source. Repeatable")
]
SamLinksOption = Annotated[
    Path | None, typer.Option("--sam-links", metavar="FILE", help="Links file from SA-1B's request form")
]
SamTarsOption = Annotated[
    Path | None, typer.Option("--sam-tars", metavar="DIR", help="Folder of SA-1B tars downloaded elsewhere")
]
KeepOption = Annotated[bool, typer.Option("--keep-archives", help="Keep archives after unpacking")]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Retry failed URLs, regardless of earlier attempts")]


def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Names from croc data sources")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="RECIPE", autocompletion=complete.recipes, help="All sources that a recipe needs"
        ),
    ] = None,
    root: RootOption = None,
    catalog: CatalogOption = None,
    without: WithoutOption = None,
    sam_links: SamLinksOption = None,
    sam_tars: SamTarsOption = None,
    keep_archives: KeepOption = False,
    retry_failed: RetryOption = False,
    assignments: SetOption = None,
    dry_run: PlanOption = False,
    yes: YesOption = False,
) -> None:
    """Download sources and their images; keep finished files, resume partial ones."""
    from croc_cli.console import result, with_warnings
    from croc_cli.errors import RunError, UsageError
    from croc_cli.recipe.load import load_recipe, with_overrides
    from croc_cli.sources.fetch.fetch import FetchOptions
    from croc_cli.sources.fetch.plan import make_plan, sources_by_name

    if bool(names) == bool(recipe):
        raise UsageError("name sources, or a recipe with --recipe", hint="`croc data sources` lists the sources")
    if recipe is not None:
        loaded = with_warnings(load_recipe(recipe, overrides=with_overrides({}, assignments or ()))).recipe
        plan = recipe_plan(loaded, root=root, catalogs=catalog or (), without=without or ())
    else:
        place = root or Path(DATA_ROOT)
        plan = make_plan(sources_by_name(names or (), catalogs=catalog or (), without=without or ()), place)
    result(describe_plan(plan))
    if dry_run:
        return
    confirm(plan, yes=yes)
    options = FetchOptions(sam_links, sam_tars, keep_archives, retry_failed)
    outcomes = fetch_all(plan, options)
    result(describe_outcomes(plan, outcomes))
    if lacking := missing(outcomes):
        raise RunError(
            f"{len(lacking)} of {len(plan.sources)} sources are not complete",
            hint="run the same command again to fetch the rest",
        )


def recipe_plan(recipe: "Recipe", *, root: Path | None, catalogs: Sequence[Path], without: Sequence[str]) -> "Plan":
    """Return the plan of all that a recipe needs, and what a smaller mix would save."""
    from croc_cli.recipe.schema import MixData
    from croc_cli.sources.fetch.plan import make_plan, sources_of_recipe
    from croc_cli.sources.known.source import SamTars

    found = sources_of_recipe(recipe, catalogs=(*catalogs, *recipe.data.catalogs), without=without)
    plan = make_plan(found, root or own_path(recipe.data.root))
    reconstruct = recipe.data.reconstruct
    if not (isinstance(reconstruct, MixData) and reconstruct.preset == "croc1.5m"):
        return plan
    sam = [planned for planned in plan.sources if any(isinstance(file, SamTars) for file in planned.source.files)]
    savings = [(f"--set data.reconstruct.preset=croc1.5m-nosam does without {one.source.name}", one) for one in sam]
    return make_plan(found, plan.root, savings=[(text, one.download_bytes) for text, one in savings if not one.done])


def fetch_all(plan: "Plan", options: "FetchOptions") -> list["Outcome"]:
    """Fetch what a plan has left, source by source, and return what came of every file."""
    from croc_cli.progress import open_progress
    from croc_cli.sources.fetch.fetch import fetch_source
    from croc_cli.sources.known.record import locked

    outcomes = []
    with locked(plan.root), open_progress() as progress:
        for planned in plan.sources:
            outcomes += fetch_source(planned.source, plan.root, options=options, progress=progress)
    return outcomes


def confirm(plan: "Plan", *, yes: bool) -> None:
    """Ask before anything large.

    Raises:
        UsageError: It does not fit on the disk, or there is no terminal to ask at.
        typer.Exit: The user said no.
    """
    from croc_cli.console import say
    from croc_cli.errors import UsageError
    from croc_cli.progress import size_text

    if all(planned.done for planned in plan.sources):
        return
    if not plan.fits:
        raise UsageError(
            f"it takes up to {size_text(plan.peak_bytes)} of disk, and {size_text(plan.free_bytes)} are free",
            hint="--root names another disk; --without leaves a source out",
        )
    if yes or not plan.asks:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"{_download_text(plan)} are to be downloaded, and there is no terminal to ask at",
            hint="--yes skips the question",
        )
    if not typer.confirm("Go ahead?", err=True):
        say("nothing was fetched")
        raise typer.Exit(1)


def describe_plan(plan: "Plan") -> str:
    """Return the plan as a table with totals and what a person has to do."""
    from croc_cli.progress import size_text

    rows = [("source", "to download", "rows", "licence")]
    rows += [
        (p.source.name, _left_text(p), f"{p.source.rows:,}" if p.source.rows else "–", _terms(p)) for p in plan.sources
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() for row in rows]
    lines += [
        "",
        f"into {plan.root}: {_download_text(plan)} to download, {size_text(plan.disk_bytes)} more on disk"
        f" (up to {size_text(plan.peak_bytes)} while archives are unpacked), {size_text(plan.free_bytes)} free",
    ]
    lines += [f"{planned.source.name}: {note}" for planned in plan.sources for note in planned.notes]
    lines += [f"{text}, which saves {size_text(saved)}" for text, saved in plan.savings]
    return "\n".join(lines)


def describe_outcomes(plan: "Plan", outcomes: Sequence["Outcome"]) -> str:
    """Return what is here now and what is missing, source by source."""
    lines = []
    for planned in plan.sources:
        mine = [outcome for outcome in outcomes if outcome.source == planned.source.name]
        bad = [outcome for outcome in mine if outcome.state in ("failed", "by hand", "incomplete")]
        if not bad:
            states = {outcome.state for outcome in mine}
            lines.append(f"{planned.source.name}: {'fetched' if 'fetched' in states else 'was here'}")
        for outcome in bad:
            lines.append(f"{planned.source.name}: {outcome.state}: {outcome.message or outcome.file}")
            lines += [f"  {outcome.hint}"] if outcome.hint else []
    return "\n".join(lines)


def missing(outcomes: Sequence["Outcome"]) -> list[str]:
    """Return the sources that lack something which a further call, or a person, can bring."""
    return list(dict.fromkeys(outcome.source for outcome in outcomes if outcome.is_missing))


def _left_text(planned: "PlannedSource") -> str:
    from croc_cli.progress import size_text

    if planned.done:
        return "here"
    if planned.is_exact:
        return size_text(planned.download_bytes)
    return f"> {size_text(planned.download_bytes)}" if planned.download_bytes else "unknown"


def _terms(planned: "PlannedSource") -> str:
    source = planned.source
    flags = [
        name for name, is_set in (("non-commercial", source.non_commercial), ("GPT text", source.gpt_derived)) if is_set
    ]
    return source.licence + (f" [{', '.join(flags)}]" if flags else "")


def _download_text(plan: "Plan") -> str:
    from croc_cli.progress import size_text

    is_exact = all(planned.is_exact or planned.done for planned in plan.sources)
    return f"{'' if is_exact else 'over '}{size_text(plan.download_bytes)}"
