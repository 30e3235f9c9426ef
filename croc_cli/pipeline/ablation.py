"""What `croc ablate` does: run the stages that rows still lack, each once, then show the tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from croc_cli.ablation.estimate import Estimate, estimate
from croc_cli.ablation.rows import row_recipe
from croc_cli.ablation.stages import ChainLink, RowRun, StageStore, chain
from croc_cli.ablation.tables import AblationTable
from croc_cli.console import result, say, show_error
from croc_cli.errors import CrocError, Interrupted, RunError, UsageError
from croc_cli.launch.devices import Machine, inspect_machine
from croc_cli.launch.joined import is_joined
from croc_cli.names import RUNS_FOLDER, STAGES, stage_name
from croc_cli.pipeline.recipe_run import run_eval
from croc_cli.pipeline.stage import StageRequest, launch_stage, prepare_stage
from croc_cli.recipe.schema import Recipe
from croc_cli.words import counted

PAGE_FOLDER = "report"


@dataclass(frozen=True)
class AblateRequest:
    """The flags of `croc ablate`.

    Attributes:
        base: Recipe that rows change.
        num_seeds: Seeds 0, 1 … of each row.
        settings: `--set` of the base.
        run_dir: The ablation's folder; None takes `runs/ablations/` and the base's name.
        reuse: Run folders whose finished stages serve as well.
        dry_run: Say what would run and for how long.
    """

    base: str
    num_seeds: int
    settings: tuple[str, ...] = ()
    run_dir: Path | None = None
    reuse: tuple[Path, ...] = ()
    dry_run: bool = False


def ablate(tables: Sequence[AblationTable], request: AblateRequest, *, stage_request: StageRequest) -> None:
    """Run and show tables.

    Args:
        tables: What was asked for.
        request: The flags.
        stage_request: Worker of the stages; its other fields are not used.

    Raises:
        UsageError: Before anything starts.
        Interrupted: The same command goes on.
        RunError: A row failed; the others ran.
    """
    if is_joined():
        raise UsageError("croc ablate starts its ranks itself; here RANK and WORLD_SIZE are set already")
    runs = planned_rows(tables, request)
    root = request.run_dir or Path(RUNS_FOLDER) / "ablations" / Path(request.base).stem
    if missing := [folder for folder in request.reuse if not folder.is_dir()]:
        raise UsageError(f"--reuse {missing[0]}: no such folder")
    store = StageStore(root, reuse=request.reuse)
    todo = estimate(runs, store)
    if request.dry_run:
        result(describe(todo, tables, runs, root))
        return
    store.claim()
    say(describe(todo, tables, runs, root))
    failed = run_rows(runs, store, stage_request)
    show(tables, runs, store, base=request.base)
    if failed:
        raise RunError(f"rows that failed: {', '.join(failed)}", hint="the same command tries them again")


def planned_rows(tables: Sequence[AblationTable], request: AblateRequest) -> list[RowRun]:
    """Return every row of the tables with every seed, once, seed by seed.

    Raises:
        RecipeError: A row does not fit the base; nothing has started.
    """
    names = list(dict.fromkeys(row.recipe for table in tables for row in table.rows))
    runs = []
    for seed in range(request.num_seeds):
        for name in names:
            recipe = row_recipe(name, base=request.base, seed=seed, settings=request.settings)
            runs.append(RowRun(name, seed, recipe, chain(recipe)))
    return runs


def describe(todo: Estimate, tables: Sequence[AblationTable], runs: Sequence[RowRun], root: Path) -> str:
    """Return how many runs it takes and about how long."""
    rows = len({run.row for run in runs})
    seeds = len({run.seed for run in runs})
    about = "nothing left to run"
    if todo.seconds:
        about = f"about {format_hours(todo.seconds)} ({todo.basis})"
    elif todo.num_stages:
        about = f"no estimate: {todo.basis}"
    return "\n".join(
        [
            f"tables       {', '.join(f'{table.name} ({table.number})' for table in tables)}",
            f"rows         {rows} × {seeds} seed{'s' if seeds > 1 else ''} = {counted(todo.num_rows, 'run')}",
            f"stages       {todo.num_stages} to run, {todo.num_done} finished ({todo.num_without_sharing} unshared)",
            f"time         {about}",
            f"folder       {root}",
        ]
    )


def format_hours(seconds: float) -> str:
    """Return a time that is an estimate: `45 minutes`, `3.9 hours`."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{max(1, round(seconds / 60))} minutes"


def run_rows(runs: Sequence[RowRun], store: StageStore, request: StageRequest) -> list[str]:
    """Run what is open of every row, and return the rows that failed."""
    machine = inspect_machine()
    failed: dict[str, str] = {}
    for number, run in enumerate(runs, start=1):
        name = f"{run.row}, seed {run.seed}"
        open_stages = [link for link in run.links if store.find(link) is None]
        if not open_stages:
            store.link_row(run)
            continue
        say(f"\n[{number}/{len(runs)}] {name}: {', '.join(link.stage for link in open_stages)}")
        try:
            for link in open_stages:
                _run_stage(link, run, store, request, machine)
        except (Interrupted, UsageError):
            raise
        except CrocError as error:
            show_error(error.message, error.hint, label=name)
            failed[name] = error.message
        store.link_row(run)
    return list(failed)


def _run_stage(link: ChainLink, run: RowRun, store: StageStore, request: StageRequest, machine: Machine) -> None:
    home = store.home(link)
    start = store.checkpoint(run, link.start)
    if link.start is not None and start is None:
        raise RunError(f"{link.stage} has nothing to start from: the stage before it left no checkpoint")
    if link.stage not in STAGES:
        run_eval(run.recipe, home, start, request=request)
        return
    asked = StageRequest(
        start=start,
        trusts_start=True,
        run_dir=home.root,
        worker=request.worker,
        through_launcher=request.through_launcher,
    )
    stage = stage_name(link.stage)
    plan_or_none = prepare_stage(run.recipe, stage, asked, machine, recipe_argument=run.recipe.name)
    if plan_or_none is not None:
        launch_stage(run.recipe, plan_or_none, fresh=False)


def show(tables: Sequence[AblationTable], runs: Sequence[RowRun], store: StageStore, *, base: str) -> None:
    """Print every table with its claims, and write the page."""
    from croc_cli.ablation.layout import text, write_ablation
    from croc_cli.ablation.results import collect

    results = [collect(table, runs, store, base=base) for table in tables]
    result("\n\n\n".join(text(one) for one in results))
    name = tables[0].name if len(tables) == 1 else "all"
    page = write_ablation(results, store.root / PAGE_FOLDER / name)
    say(f"report: {page}")
    _say_what_scores(runs, store)


def _say_what_scores(runs: Sequence[RowRun], store: StageStore) -> None:
    """Say how rows are scored whose base has no evaluation of its own."""
    waiting: dict[Path, Recipe] = {}
    for run in runs:
        if run.recipe.eval.benchmarks or not run.links:
            continue
        found = store.find(run.links[-1])
        checkpoint = found.latest_checkpoint() if found is not None else None
        if checkpoint is not None:
            waiting[checkpoint] = run.recipe
    if waiting:
        say("\nthis base has no evaluation of its own; these score its rows, and the same command then shows them:")
        for checkpoint in waiting:
            say(f"croc eval --model {checkpoint} --benchmark gqa,textvqa,mmbench,seedbench,mmstar")
