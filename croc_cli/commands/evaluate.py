"""`croc eval`: answer and score benchmarks, score again, list them, compare runs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.groups import DEFAULT_COMMAND, DefaultGroup
from croc_cli.commands.options import MOST, DryRunOption, RanksOption, SetOption
from croc_cli.files import own_path
from croc_cli.names import DEFAULT_RECIPE, JUDGE_KEY_VARIABLE
from croc_cli.redact import read_key

if TYPE_CHECKING:
    from croc_cli.benchmarks.compare import TableFormat
    from croc_cli.benchmarks.judge import Judge
    from croc_cli.recipe.schema import JudgeRecipe, Recipe

eval_app = typer.Typer(
    cls=DefaultGroup,
    help="Score a checkpoint on the paper's benchmarks and more: croc eval [RECIPE] --model DIR --benchmark pope,gqa.",
    epilog="Example: croc eval --model runs/croc-7b/finetune/checkpoints/step-00005198 --benchmark all",
)

BenchmarkOption = Annotated[
    str,
    typer.Option(
        "--benchmark",
        "-b",
        metavar="NAMES",
        autocompletion=complete.benchmarks,
        help="Comma-separated names, or all; see croc eval list",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="ROOT", help="Folder of benchmark files; default: data/eval or playground/data/eval"
    ),
]
VariantOption = Annotated[
    list[str] | None,
    typer.Option("--variant", metavar="NAME=VARIANT", help="Use another rule, prompt or split; see croc eval list"),
]
PartialOption = Annotated[bool, typer.Option("--partial", help="Score incomplete answers and show the share answered")]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, max=MOST, metavar="N", help="Ask only N questions of each benchmark, evenly spread"),
]
FormatOption = Annotated[str, typer.Option("--format", metavar="FORM", help="text, md, json or csv")]
JudgeUrlOption = Annotated[
    str | None, typer.Option("--judge-url", metavar="URL", help="OpenAI-compatible endpoint; key in CROC_JUDGE_API_KEY")
]
JudgeModelOption = Annotated[str | None, typer.Option("--judge-model", metavar="NAME", help="Name of the judge model")]
PAIRED_TITLE = "The second run less the first, on the questions that both have:"
FORMS: "tuple[TableFormat, ...]" = ("text", "md", "json", "csv")


@eval_app.command(DEFAULT_COMMAND, hidden=True)
def predict(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", autocompletion=complete.recipes, help="Recipe whose model and launch settings to use"
        ),
    ] = None,
    benchmark: BenchmarkOption = "all",
    variant: VariantOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="DIR|ID",
            autocompletion=complete.checkpoints,
            help="A LLaVA checkpoint; default: the recipe's",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Ask an OpenAI-compatible server; key in CROC_EVAL_API_KEY"),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option("--served-model", metavar="NAME", help="The model's name on the server")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", min=1, max=1024, metavar="N", help="Requests to the server at once; default: 8"),
    ] = None,
    data: DataOption = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Folder for answers and scores")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, max=MOST, metavar="N", help="Questions answered at once")
    ] = None,
    ranks: RanksOption = None,
    assignments: SetOption = None,
    judge_url: JudgeUrlOption = None,
    judge_model: JudgeModelOption = None,
    partial: PartialOption = False,
    limit: LimitOption = None,
    form: FormatOption = "text",
    dry_run: DryRunOption = False,
) -> None:
    """Answer benchmarks with a model, resume where it stopped, and score the answers."""
    from croc_cli.benchmarks.registry import choose
    from croc_cli.console import with_warnings
    from croc_cli.pipeline.benchmarks import STAGE, EvalRequest, evaluate, run_folder_of
    from croc_cli.recipe.load import load_recipe, with_overrides
    from croc_cli.recipe.schema import LaunchRecipe

    table = _checked_form(form)
    _check_served(
        url,
        {"--served-model": served_model, "--concurrency": concurrency},
        {"--model": model, "--gpus": ranks, "--batch-size": batch_size},
    )
    name = recipe or DEFAULT_RECIPE
    flags = {
        "launch.num_ranks": (ranks, "--gpus"),
        "judge.base_url": (judge_url, "--judge-url"),
        "judge.model": (judge_model, "--judge-model"),
    }
    loaded = with_warnings(load_recipe(name, overrides=with_overrides(flags, assignments or ())))
    settings = loaded.recipe.eval
    chosen = choose(benchmark, settings.variants | _variants(variant), scenes=settings)
    request = EvalRequest(model, data, run_dir, batch_size, partial, limit, dry_run, table)
    if url is not None:
        from croc_cli.pipeline.served import ServedRequest, evaluate_served

        served = ServedRequest(url, served_model, concurrency or ServedRequest.concurrency)
        judge = _judge(loaded.recipe.judge, own_path(loaded.recipe.runs_folder))
        evaluate_served(loaded.recipe, chosen, request, served, judge=judge)
        return
    # A model of its own needs nothing of a recipe; where it runs is then up to this machine.
    launch = loaded.recipe.launch if recipe else LaunchRecipe(num_ranks=ranks or "auto")
    folder = run_folder_of(model, run_dir).stage(STAGE).root if model else own_path(loaded.recipe.runs_folder)
    judge = _judge(loaded.recipe.judge, folder)
    if model is not None and own_path(model).is_dir():
        from croc_cli.checkpoint.locate import check_checkpoint

        check_checkpoint(own_path(model))
    evaluate(loaded.recipe, chosen, request, launch_settings=launch, recipe_argument=name, judge=judge)


@eval_app.command(epilog="Example: croc eval score runs/croc-7b --benchmark pope")
def score(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR|FILE",
            autocompletion=complete.runs,
            help="A run folder, or an answer file of LLaVA, lmms-eval or yours",
        ),
    ],
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            "-b",
            metavar="NAMES",
            autocompletion=complete.benchmarks,
            help="Default: all answered benchmarks",
        ),
    ] = None,
    variant: VariantOption = None,
    data: DataOption = None,
    judge_url: JudgeUrlOption = None,
    judge_model: JudgeModelOption = None,
    partial: PartialOption = False,
    limit: LimitOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="With FILE: folder for results.json and items/")
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Score saved answers again; needs no model, and never changes the answers."""
    from croc_cli.benchmarks.registry import EVERY, choose
    from croc_cli.errors import UsageError
    from croc_cli.pipeline.benchmarks import STAGE, data_root, needs_files, score_all
    from croc_cli.recipe.schema import JudgeRecipe
    from croc_cli.run_dir import RunDir, read_json

    table = _checked_form(form)
    if path.is_file():
        _score_file(path, benchmark, variant, data, out, (judge_url, judge_model), partial, limit, table)
        return
    if out is not None:
        raise UsageError(
            f"--out goes with an answer file, and {path} is none", hint="scores of a run stay in its folder"
        )
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder", hint="a run folder, or a file of answers")
    stage_dir = RunDir(path).stage(STAGE)
    answered = [name for name in EVERY if any(stage_dir.predictions.glob(f"{name}.*jsonl"))]
    if not answered:
        raise UsageError(f"{path} holds no answers", hint="croc eval with --model and --benchmark makes them")
    saved = _saved_recipe(stage_dir.recipe_file)
    variants = _saved_variants(stage_dir.root) | _variants(variant)
    chosen = choose(benchmark or ",".join(answered), variants, scenes=saved.eval if saved else None)
    model = read_json(stage_dir.predictions / f"{chosen[0].name}.made_by.json")
    settings = saved.judge if saved else JudgeRecipe()
    changes = {"base_url": judge_url, "model": judge_model}
    settings = settings.model_copy(update={name: value for name, value in changes.items() if value is not None})
    judge = _judge(settings, stage_dir.root)
    limit = limit or _saved_limit(stage_dir.root)
    root = data_root(data, needed=needs_files(chosen))
    score_all(chosen, stage_dir, root, model=model, partial=partial, limit=limit, judge=judge, form=table)


@eval_app.command("list", epilog="Example: croc eval list --data data/eval")
def list_benchmarks(data: DataOption = None, form: FormatOption = "text") -> None:
    """List the benchmarks: split, size, metric, and whether their files are here."""
    from croc_cli.benchmarks.compare import format_rows
    from croc_cli.benchmarks.registry import benchmarks
    from croc_cli.console import result, say
    from croc_cli.pipeline.benchmarks import DATA_ROOTS

    table = _checked_form(form)
    root = data or next((folder for folder in DATA_ROOTS if folder.is_dir()), DATA_ROOTS[0])
    notes: list[str] = []
    rows = [["name", "benchmark", "split", "questions", "metric", "scored by", "variants", "files"]]
    for one in benchmarks().values():
        by = "a judge model" if one.needs_judge else "its server" if one.hidden_labels else "croc"
        lacking = one.lacks(root)
        lacking_files = [name for name in lacking if not name.endswith("/")]
        is_here = not lacking_files and (root / one.folder).is_dir() and (not lacking or len(lacking) < len(one.layout))
        if is_here and lacking:
            notes.append(f"{one.name}: no pictures in {root / one.folder / lacking[0].split('|')[0]}")
        elif not is_here and not one.is_drawn:
            notes.append(f"{one.name}: {root / one.folder} lacks {', '.join(lacking).replace('|', ' or ')}")
        rows.append(
            [
                one.name,
                one.title,
                one.split,
                f"{one.size:,}",
                one.metric,
                by,
                ", ".join(one.variants) or "–",
                "drawn by croc" if one.is_drawn else "here" if is_here else f"croc data fetch eval:{one.name}",
            ]
        )
    result(format_rows(rows, table))
    for note in notes:
        say(note)


@eval_app.command(epilog="Example: croc eval compare runs/croc-7b runs/llava-1.5-7b --paper --format md")
def compare(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR", autocompletion=complete.runs, help="Run folders with scores")
    ],
    paper: Annotated[bool, typer.Option("--paper", help="Add published numbers: Croc's, ViCToR's, others'")] = False,
    flips: Annotated[
        int | None,
        typer.Option(
            "--flips",
            min=1,
            max=MOST,
            metavar="N",
            help="Of two runs: list N answers that got worse, N better ones",
        ),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Show the scores of runs side by side, with 95 % intervals; of two runs, with paired tests."""
    from croc_cli.benchmarks.compare import comparison_rows, format_rows, published_notes, read_scores, warnings
    from croc_cli.benchmarks.paired import flip_rows, format_flips, pair_runs, paired_rows
    from croc_cli.console import result, say
    from croc_cli.errors import UsageError

    table = _checked_form(form)
    runs = {str(folder): read_scores(folder) for folder in run_dirs}
    if flips is not None and len(runs) != 2:
        raise UsageError(
            f"--flips compares two runs, and {len(runs)} {'is' if len(runs) == 1 else 'are'} given",
            hint="such as `croc eval compare runs/a runs/b --flips 20`",
        )
    pairs, notes = pair_runs(runs, [Path(name) for name in runs]) if len(runs) == 2 else ({}, [])
    for warning in (*warnings(runs), *notes):
        say(f"warning: {warning}" if warning not in notes else f"note: {warning}")
    for note in published_notes() if paper else ():
        say(f"note: {note}")
    in_text = table in ("text", "md")
    scores = format_rows(comparison_rows(runs, paper=paper, pairs=None if in_text else pairs), table)
    if flips is None:
        tests = f"{PAIRED_TITLE}\n\n{format_rows(paired_rows(pairs), table)}" if pairs and in_text else ""
        result(f"{scores}\n\n{tests}" if tests else scores)
        return
    if not pairs:
        again = shlex.join(["croc", "eval", "score", str(run_dirs[0])])
        hint = f"scores that croc makes keep single answers: `{again}` writes them again"
        raise UsageError(f"{' and '.join(runs)} have no benchmark with answers to the same questions", hint=hint)
    changed = flip_rows(pairs, list(runs), flips)
    result(format_flips(changed) if table == "text" else format_rows(changed, table))


def _check_served(url: str | None, with_url: dict[str, object], without_url: dict[str, object]) -> None:
    """Refuse flags that go with a server alone, or with a model of one's own alone."""
    from croc_cli.errors import UsageError

    for flag, value in (with_url if url is None else without_url).items():
        if value is not None:
            reason = f"{flag} goes with --url alone" if url is None else f"{flag} does not go with --url"
            raise UsageError(reason, hint="--url asks a server, --model opens a checkpoint here")


def _checked_form(form: str) -> "TableFormat":
    from croc_cli.errors import UsageError

    if form not in FORMS:
        raise UsageError(f"--format {form}: unknown format", hint=f"one of {', '.join(FORMS)}")
    return FORMS[FORMS.index(form)]


def _variants(assignments: list[str] | None) -> dict[str, str]:
    from croc_cli.errors import UsageError

    pairs = [assignment.partition("=") for assignment in assignments or ()]
    for name, sign, variant in pairs:
        if not (name and sign and variant):
            raise UsageError(f"--variant {name}{sign}{variant}: not NAME=VARIANT", hint="such as textvqa=no-ocr")
    return {name: variant for name, _, variant in pairs}


def _saved_variants(folder: Path) -> dict[str, str]:
    """Return the variants that the saved answers were asked for in."""
    from croc_cli.run_dir import read_json

    variants = read_json(folder / "task.json").get("variants")
    return {str(name): str(value) for name, value in variants.items()} if isinstance(variants, dict) else {}


def _saved_limit(folder: Path) -> int | None:
    """Return the number of questions that the saved answers were limited to."""
    from croc_cli.run_dir import read_json

    limit = read_json(folder / "task.json").get("limit")
    return limit if isinstance(limit, int) and limit > 0 else None


def _score_file(
    file: Path,
    names: str | None,
    variant: list[str] | None,
    data: Path | None,
    out: Path | None,
    judge: tuple[str | None, str | None],
    partial: bool,
    limit: int | None,
    form: "TableFormat",
) -> None:
    from croc_cli.benchmarks.registry import choose
    from croc_cli.errors import UsageError
    from croc_cli.pipeline.answer_files import FileRequest, score_file
    from croc_cli.recipe.schema import JudgeRecipe

    if names is None:
        raise UsageError(f"{file}: say what these are answers to: --benchmark NAME", hint="`croc eval list` names them")
    chosen = choose(names, _variants(variant))
    if len(chosen) != 1:
        raise UsageError(f"--benchmark {names}: a file holds answers to one benchmark", hint="such as --benchmark pope")
    asked = _judge(JudgeRecipe(base_url=judge[0], model=judge[1]), out or file.parent)
    score_file(file, chosen[0], FileRequest(data, out, partial, limit, form), judge=asked)


def _saved_recipe(recipe_file: Path) -> "Recipe | None":
    from croc_cli.recipe.load import load_resolved

    return load_resolved(recipe_file) if recipe_file.exists() else None


def _judge(settings: "JudgeRecipe", folder: Path) -> "Judge | None":
    from croc_cli.errors import UsageError

    if settings.base_url is None and settings.model is None:
        return None
    if settings.base_url is None or settings.model is None:
        raise UsageError(
            "a judge needs --judge-url and --judge-model, or judge.base_url and judge.model in the recipe",
            hint="such as https://api.openai.com/v1 and gpt-4-0613",
        )
    from croc_cli.benchmarks.judge import Judge, check_judge_url

    check_judge_url(settings.base_url)
    read_key(JUDGE_KEY_VARIABLE)
    return Judge(
        settings.base_url,
        settings.model,
        folder / "judge_replies",
        num_workers=settings.num_workers,
        timeout=settings.timeout,
    )
