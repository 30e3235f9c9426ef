"""What `croc eval` does: read the questions, have ranks answer what is open, gather, score, show."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.console import result, say, say_next, show_error
from croc_cli.errors import CrocError, RunError, UsageError
from croc_cli.files import own_path
from croc_cli.launch.devices import inspect_machine
from croc_cli.launch.job import find_free_port, run_job
from croc_cli.launch.layout import resolve_layout
from croc_cli.launch.plan import (
    WORKER,
    LaunchPlan,
    launch_environment,
    launcher_command,
    worker_arguments,
    worker_command,
)
from croc_cli.launch.run_lock import RunLock
from croc_cli.launch.stage_state import find_start
from croc_cli.names import BENCHMARKS, RUNS_FOLDER
from croc_cli.pipeline.hub_model import fetched
from croc_cli.place import claim_benchmarks
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import LaunchRecipe, Recipe
from croc_cli.run_dir import RunDir, StageDir, read_json

if TYPE_CHECKING:
    from croc_cli.benchmarks.base import Benchmark, Record
    from croc_cli.benchmarks.compare import TableFormat
    from croc_cli.benchmarks.judge import Judge

STAGE = BENCHMARKS
DATA_ROOTS = (Path("data/eval"), Path("playground/data/eval"))
"""Where benchmark files are looked for; the second is where LLaVA's guide puts them."""


@dataclass(frozen=True)
class EvalRequest:
    """The flags of `croc eval`.

    Attributes:
        model: Folder or hub id; None takes the recipe's newest finetuned checkpoint.
        data: Root of the benchmark files; None takes the first of DATA_ROOTS that is there.
        run_dir: Run folder; None takes the one that the model lies in, or one of its name.
        batch_size: Questions answered at once; None = as the recipe says.
        partial: Score incomplete answers.
        limit: Ask and score about so many questions of each benchmark alone, spread over all of them.
        dry_run: Say what would be asked, change nothing.
        form: Of the table; None prints no table.
        worker: Python module that is one rank.
        through_launcher: Start ranks with DeepSpeed's launcher.
    """

    model: str | None = None
    data: Path | None = None
    run_dir: Path | None = None
    batch_size: int | None = None
    partial: bool = False
    limit: int | None = None
    dry_run: bool = False
    form: "TableFormat | None" = "text"
    worker: str = WORKER
    through_launcher: bool = True


def data_root(given: Path | None, *, needed: bool = True) -> Path:
    """Return the root of the benchmark files.

    Args:
        given: What `--data` names.
        needed: Whether any benchmark has files; without, a folder that is not there will do.

    Raises:
        UsageError: There is none.
    """
    for root in (given,) if given is not None else DATA_ROOTS:
        if root.is_dir():
            return root
    if not needed:
        return given or DATA_ROOTS[0]
    looked = " or ".join(str(root) for root in ((given,) if given is not None else DATA_ROOTS))
    raise UsageError(
        f"no benchmark files: {looked} is not a folder",
        hint="--data ROOT names the folder with pope/, gqa/ and so on; `croc eval list` says what goes where",
    )


def needs_files(chosen: "Sequence[Benchmark]") -> bool:
    """Tell whether one of the benchmarks reads files."""
    return not all(benchmark.is_drawn for benchmark in chosen)


def run_folder_of(model: Path | str, given: Path | None) -> RunDir:
    """Return the run folder of scores: the given one, the one that a checkpoint lies in, or one of the model's name."""
    if given is not None:
        return RunDir(given)
    path = Path(model)
    if path.parent.name == "checkpoints" and path.name.startswith("step-"):
        return RunDir(path.parent.parent.parent)
    return RunDir(Path(RUNS_FOLDER) / f"eval-{path.name or 'model'}")


def evaluate(
    recipe: Recipe,
    chosen: "Sequence[Benchmark]",
    request: EvalRequest,
    *,
    launch_settings: LaunchRecipe,
    recipe_argument: str,
    judge: "Judge | None",
) -> None:
    """Answer and score benchmarks.

    Raises:
        UsageError: Before anything starts: files are missing, or the model is.
        RunError: Something failed; what went well is kept.
    """
    root = data_root(request.data, needed=needs_files(chosen))
    records = read_questions(chosen, root)
    model = request.model or _trained_model(recipe, request, recipe_argument)
    run_dir = run_folder_of(model, request.run_dir)
    stage_dir = run_dir.stage(STAGE)
    if request.dry_run:
        costs = describe_costs(chosen, records, stage_dir, limit=request.limit)
        result(f"model: {model}\nanswers: {stage_dir.predictions}\n{costs}")
        return
    task: dict[str, Any] = {
        "model": model,
        "model_sha256": weights_identity(model),
        "data": str(root.resolve()),
        "benchmarks": [benchmark.name for benchmark in chosen],
        "variants": {benchmark.name: benchmark.variant for benchmark in chosen if benchmark.variant},
        "batch_size": request.batch_size or recipe.eval.batch_size,
        "limit": request.limit,
    }
    settled = recipe.model_copy(update={"launch": launch_settings})

    def answer(waiting: list[str], lock: RunLock) -> None:
        # Fetched once and with a bar: ranks would each fetch for themselves, and wait for one another in silence.
        _answer(settled, stage_dir, task | {"benchmarks": waiting}, fetched(model), request, lock=lock)

    answer_and_score(chosen, records, root, run_dir, task, request, judge=judge, answer=answer)


def read_questions(chosen: "Sequence[Benchmark]", root: Path) -> "dict[str, list[Record]]":
    """Return the questions of benchmarks by name, and say where they are not all of a split.

    Raises:
        UsageError: A file is missing or damaged.
    """
    records = {benchmark.name: benchmark.read(root) for benchmark in chosen}
    for benchmark in chosen:
        if benchmark.variant is None and (found := len(records[benchmark.name])) != benchmark.size:
            say(f"note: {benchmark.name}: {found:,} questions here; its split {benchmark.split} has {benchmark.size:,}")
    return records


def answer_and_score(
    chosen: "Sequence[Benchmark]",
    records: "Mapping[str, Sequence[Record]]",
    root: Path,
    run_dir: RunDir,
    task: Mapping[str, Any],
    request: EvalRequest,
    *,
    judge: "Judge | None",
    answer: Callable[[list[str], RunLock], None],
) -> None:
    """Have what is open answered, gather the answers whatever happens, and score them.

    Args:
        chosen: The benchmarks.
        records: Their questions.
        root: Where their files are.
        run_dir: Gets answers and scores.
        task: `model`, `model_sha256`, `limit`: what the answers depend on.
        request: The flags.
        judge: Scores the answers of benchmarks that need one.
        answer: Answers the benchmarks of a list of names, those with open questions.
    """
    from croc_cli.benchmarks.predictions import merge_shards

    stage_dir = run_dir.stage(STAGE)
    claim_benchmarks(stage_dir)
    # The lock is the benchmarks' own: a checkpoint of a run that still trains can be scored.
    with RunLock(RunDir(stage_dir.root), doing="croc eval", say=say, claims=False) as lock:
        if waiting := _claim(chosen, records, stage_dir, task):
            try:
                answer(waiting, lock)
            finally:
                for benchmark in chosen:
                    merge_shards(stage_dir.predictions, benchmark, records[benchmark.name])
        score_all(
            chosen,
            stage_dir,
            root,
            model=task,
            partial=request.partial,
            limit=request.limit,
            judge=judge,
            form=request.form,
        )
    if request.form is not None:
        say_next(shlex.join(["croc", "report", str(run_dir.root)]))


def open_questions(
    stage_dir: StageDir,
    benchmark: "Benchmark",
    asked: "Sequence[Record]",
    *,
    limit: int | None,
    model_sha256: str,
) -> "list[Record]":
    """Return the questions that a model has not answered yet; each once, even if the data ask it twice."""
    from croc_cli.benchmarks.matching import limit_records
    from croc_cli.benchmarks.predictions import saved_rows

    made_by = read_json(stage_dir.predictions / f"{benchmark.name}.made_by.json")
    is_same = made_by.get("model_sha256") == model_sha256
    is_same = is_same and made_by.get("prompts") == benchmark.prompts.get("prompts")
    rows = saved_rows(stage_dir.predictions, benchmark, asked) if is_same else []
    done = {benchmark.row_key(row) for row in rows if row["text"] is not None}
    wanted = limit_records(benchmark, asked, limit) if limit else asked
    return list({record.key: record for record in wanted if record.key not in done}.values())


def _trained_model(recipe: Recipe, request: EvalRequest, recipe_argument: str) -> str:
    folder = RunDir(own_path(recipe.runs_folder) / recipe.name if request.run_dir is None else request.run_dir)
    start = find_start(recipe, folder, "eval", given=None, recipe_argument=recipe_argument)
    if start is None:
        raise UsageError(f"recipe {recipe.name} enables no stage", hint="--model DIR scores any LLaVA checkpoint")
    return str(start)


def _claim(
    chosen: "Sequence[Benchmark]",
    records: "Mapping[str, Sequence[Record]]",
    stage_dir: StageDir,
    task: Mapping[str, Any],
) -> list[str]:
    """Gather what earlier runs have answered, and return the benchmarks with open questions."""
    from croc_cli.benchmarks.matching import fits, limit_records
    from croc_cli.benchmarks.predictions import claim, merge_shards, questions_sha256, saved_rows

    waiting = []
    for benchmark in chosen:
        asked = records[benchmark.name]
        made_by = {
            "model": task["model"],
            "model_sha256": task["model_sha256"],
            "questions_sha256": questions_sha256(asked),
            "max_new_tokens": benchmark.max_new_tokens,
            "decoding": "greedy",
            **benchmark.prompts,
        }

        def same_questions(benchmark: "Benchmark" = benchmark, asked: "Sequence[Record]" = asked) -> bool:
            return fits(benchmark, asked, saved_rows(stage_dir.predictions, benchmark, asked))

        if (aside := claim(stage_dir.predictions, benchmark.name, made_by, fits=same_questions)) is not None:
            say(f"{benchmark.name}: answers of another model or to other questions are kept in {aside}")
        rows = merge_shards(stage_dir.predictions, benchmark, asked)
        done = {benchmark.row_key(row) for row in rows if row["text"] is not None}
        wanted = limit_records(benchmark, asked, task["limit"]) if task["limit"] else asked
        answered = sum(record.key in done for record in wanted)
        if answered < len(wanted):
            waiting.append(benchmark.name)
        if answered:
            say(f"{benchmark.name}: {answered:,} of {len(wanted):,} questions are answered already")
    return waiting


def _answer(
    recipe: Recipe, stage_dir: StageDir, task: dict[str, Any], model: Path, request: EvalRequest, *, lock: RunLock
) -> None:
    plan = plan_benchmarks(recipe, stage_dir, model, request)
    say(f"benchmarks: {plan.layout.describe()}, in {stage_dir.root}")
    run_job(plan, recipe_yaml=dump_recipe(recipe), task=task, lock=lock)


def plan_benchmarks(
    recipe: Recipe, stage_dir: StageDir, model: Path, request: EvalRequest, *, planning: bool = False
) -> LaunchPlan:
    """Return the plan of answering: the ranks that a stage of the recipe has.

    Args:
        recipe: With the launch settings.
        stage_dir: Folder of answers and scores.
        model: Checkpoint, or hub id.
        request: The flags.
        planning: For a dry run.
    """
    layout = resolve_layout(recipe.launch, inspect_machine(), fits_cpu=True, planning=planning)
    port = recipe.launch.master_port or find_free_port()
    arguments = worker_arguments(stage_dir, STAGE, model)
    if request.through_launcher:
        command = launcher_command(recipe, layout, stage_dir, request.worker, arguments, master_port=port)
    else:
        command = worker_command(arguments, worker=request.worker)
    return LaunchPlan(STAGE, stage_dir, model, layout, command, launch_environment(layout, master_port=port))


def score_all(
    chosen: "Sequence[Benchmark]",
    stage_dir: StageDir,
    root: Path,
    *,
    model: Mapping[str, Any],
    partial: bool,
    limit: int | None,
    judge: "Judge | None",
    form: "TableFormat | None",
) -> None:
    """Score the saved answers, which stay as they are, write results.json and print the table, where a form is given.

    Raises:
        RunError: A benchmark could not be scored; the others are.
    """
    from croc_cli.benchmarks.compare import comparison_rows, format_rows
    from croc_cli.benchmarks.results import score_benchmark, write_results

    entries: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    for benchmark in chosen:
        try:
            if benchmark.needs_judge and judge is None:
                say(f"{benchmark.name}: answered; a judge scores it: --judge-url URL --judge-model NAME")
                continue
            entry = score_benchmark(benchmark, stage_dir, root, partial=partial, limit=limit, judge=judge)
        except CrocError as error:
            show_error(error.message, error.hint)
            failed.append(benchmark.name)
            continue
        entries[benchmark.name] = entry
        if note := entry.get("note"):
            say(f"{benchmark.name}: {note}")
        if "submission" in entry and entry["value"] is None:
            say(f"{benchmark.name}: its labels are at a server; upload {entry['submission']}")
        if (about := entry.get("judge")) and about["num_failed"]:
            failed.append(benchmark.name)
            say(f"{benchmark.name}: {about['num_failed']} judgements failed and are not in the score")
    kept = {name: model[name] for name in ("model", "model_sha256") if name in model}
    scored_before = read_json(stage_dir.results_file).get("model")
    file = write_results(stage_dir, entries, model=kept) if entries else stage_dir.results_file
    if isinstance(scored_before, dict) and scored_before.get("model") not in (None, kept.get("model")):
        say(f"the scores of {scored_before['model']} stay in {file}, under other_models")
    if entries and form is not None:
        result(format_rows(comparison_rows({stage_dir.root.parent.name: entries}, paper=False), form))
        say(f"scores with their parts are in {file}")
    if failed:
        raise RunError(f"not scored: {', '.join(failed)}", hint="the saved answers are unchanged")


def describe_costs(
    chosen: "Sequence[Benchmark]", records: "Mapping[str, Sequence[Record]]", stage_dir: StageDir, *, limit: int | None
) -> str:
    """Return a table of how many questions there are, and what a judge would be asked."""
    from croc_cli.benchmarks.compare import format_rows
    from croc_cli.benchmarks.judge import estimate
    from croc_cli.benchmarks.judged import JudgedBenchmark
    from croc_cli.benchmarks.matching import limit_records, match_answers
    from croc_cli.benchmarks.predictions import saved_rows

    rows = [["benchmark", "questions", "answered", "judge requests", "prompt tokens", "reply tokens at most"]]
    for benchmark in chosen:
        asked = records[benchmark.name]
        saved = saved_rows(stage_dir.predictions, benchmark, asked)
        answered, texts = match_answers(benchmark, asked, saved, partial=True, limit=limit)
        asked = limit_records(benchmark, asked, limit) if limit else asked
        cells = ["–", "–", "–"]
        if isinstance(benchmark, JudgedBenchmark):
            given = dict(zip((record.key for record in answered), texts, strict=True))
            costs = estimate(benchmark, asked, [given.get(record.key, "") for record in asked])
            cells = [f"{costs[name]:,}" for name in ("requests", "prompt_tokens", "reply_tokens_at_most")]
        rows.append([benchmark.name, f"{len(asked):,}", f"{len(answered):,}", *cells])
    return format_rows(rows, "text")


def weights_identity(model: str) -> str:
    """Return what tells a model from every other: the hash of a folder's weights files, or the hub id."""
    from croc_cli.checkpoint.metadata import weights_sha256

    folder = own_path(model)
    return weights_sha256(folder) if folder.is_dir() else f"hub:{model}"
