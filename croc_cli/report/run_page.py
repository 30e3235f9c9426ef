"""The page of one run, or of several side by side."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from croc_cli.launch.live import format_seconds
from croc_cli.names import STAGES
from croc_cli.recipe.stages import group_words
from croc_cli.report.composition import composition_section
from croc_cli.report.curves import MAX_RUNS, loss_figures, optimizer_figures, pool_figures
from croc_cli.report.differences import differences, recipe_differences
from croc_cli.report.findings import Limits, run_findings
from croc_cli.report.flips import FLIPS_FILE, flips_page, pairs_of, pairs_section
from croc_cli.report.labels import distinct_names
from croc_cli.report.learning import learning_figures
from croc_cli.report.metrics_reader import WINDOW
from croc_cli.report.model_figures import model_section
from croc_cli.report.page import Page, PageSection, PageTable, Panel, Strip, write_page
from croc_cli.report.run_data import RunData, read_run
from croc_cli.report.scores import accuracy_rows, benchmark_rows, percent, score_figures
from croc_cli.report.terminal import health_lines
from croc_cli.run_dir import RunDir
from croc_cli.words import counted

REPORT_FOLDER = "report"
_MAX_PICTURE_BYTES = 400_000


def write_report(
    run_dirs: Sequence[Path],
    *,
    out: Path | None = None,
    limits: Limits | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Read runs, write their page, and return its file.

    Args:
        run_dirs: Run folders.
        out: Folder of the page; None takes `report/` of the run, or beside the first of several.
        limits: From where on a figure is unusual; None for the usual ones.
        tell: Is told what is unusual in the runs, a line each.

    Raises:
        UsageError: A folder holds no run, or the page cannot be written.
    """
    runs = [read_run(folder, label=label) for folder, label in zip(run_dirs, labels(run_dirs), strict=True)]
    if out is None:
        out = run_dirs[0] / REPORT_FOLDER if len(runs) == 1 else run_dirs[0].resolve().parent / REPORT_FOLDER
    page = run_page(runs, limits=limits)
    if tell is not None:
        for text, _ in page.findings:
            tell(text)
    return write_page(page, out)


def labels(folders: Sequence[Path]) -> list[str]:
    """Return names that tell run folders apart; of the same folder twice, with numbers."""
    whole = [folder.resolve() for folder in folders]
    numbered = [f"{number}: {folder.name}" for number, folder in enumerate(whole, start=1)]
    return distinct_names([folder.as_posix() for folder in whole]) or numbered


def run_page(runs: Sequence[RunData], *, limits: Limits | None = None) -> Page:
    """Return the page of runs that were read."""
    several = len(runs) > 1
    notes = [f"{run.label}: {note}" if several else note for run in runs for note in run.notes]
    drawn = list(runs[:MAX_RUNS])
    if len(runs) > MAX_RUNS:
        notes.append(f"figures show the first {MAX_RUNS} of {len(runs)} runs; tables show all")
    page = Page(
        title=" · ".join(run.label for run in drawn) if several else _name(runs[0]),
        lead=f"{counted(len(runs), 'run')} side by side." if several else _lead(runs[0]),
        tiles=[] if several else _tiles(runs[0]),
        warnings=[*differences(runs), *notes] if several else notes,
        made_from=[str(run.root) for run in runs],
    )
    pairs, pair_notes = pairs_of(runs)
    if pairs:
        page.others[FLIPS_FILE] = flips_page(runs, pairs)
    page.sections = [
        PageSection("Training", tables=_stage_tables(runs)),
        _answers(runs, drawn),
        pairs_section(pairs, pair_notes),
        PageSection(
            "Losses",
            "Thin: as logged. Thick: a running mean." if not several else "",
            figures=loss_figures(drawn),
        ),
        *([] if several else [PageSection("What the run learns", figures=learning_figures(runs[0]))]),
        PageSection(
            "The token pool",
            "Masked visual tokens are replaced by tokens of the pool; a pool of which few are used is wasted.",
            figures=pool_figures(drawn),
        ),
        *([] if several else [model_section(runs[0].root)]),
        PageSection("Optimizer and speed", figures=optimizer_figures(drawn)),
        composition_section(drawn),
        _recipes(runs),
    ]
    page.findings = _findings(runs, limits, shown={one.name for part in page.sections for one in part.figures})
    return page


def _findings(runs: Sequence[RunData], limits: Limits | None, *, shown: Collection[str]) -> list[tuple[str, str]]:
    """Return what is unusual in runs, each with the name of its chart where the page shows it."""
    found = [(run.label, finding) for run in runs for finding in run_findings(run, limits)]
    return [
        (f"{label}: {one.text}" if len(runs) > 1 else one.text, one.chart if one.chart in shown else "")
        for label, one in found
    ]


def _name(run: RunData) -> str:
    name = str(run.recipe.get("name") or run.label)
    return name if name == run.label else f"{name} in {run.label}"


def _lead(run: RunData) -> str:
    description = str(run.recipe.get("description") or "").rstrip(".")
    done = [name for name in STAGES if name in run.stages and run.stages[name].finished]
    said = f"{description}. " if description else ""
    return said + (f"Finished: {', '.join(done)}." if done else "No stage is finished yet.")


def _tiles(run: RunData) -> list[tuple[str, str]]:
    tiles = []
    if run.mean_accuracy is not None:
        blind = run.scenes.get("best_blind")
        numbers = [v for v in blind.values() if isinstance(v, float | int)] if isinstance(blind, dict) else []
        beside = f", {percent(sum(numbers) / len(numbers))} % blind" if numbers else ""
        tiles.append((f"{percent(run.mean_accuracy)} %", f"right answers{beside}"))
    if (recall := run.scenes.get("caption_recall")) is not None:
        tiles.append((f"{percent(recall)} %", "of objects named with their colour"))
    health = run.stages["reconstruct"].health if "reconstruct" in run.stages else {}
    if (share := health.get("pool_window_share")) is not None:
        tiles.append((f"{100 * share:.0f} %", "of the pool in use at the end"))
    if (explained := health.get("explained_share")) is not None:
        tiles.append((f"{explained:.2f}", "explained share of the reconstruction"))
    steps = sum(stage.metrics.max_step for stage in run.stages.values())
    if steps:
        tiles.append((f"{steps:,}", "optimizer steps"))
    if run.seconds:
        tiles.append((format_seconds(run.seconds), "in all"))
    return tiles


def _stage_tables(runs: Sequence[RunData]) -> list[PageTable]:
    several = len(runs) > 1
    rows = [
        [
            *(["run"] if several else []),
            "stage",
            "trains",
            "steps",
            "time",
            "tokens/s",
            "caption loss",
            "reconstruction",
            "health",
        ]
    ]
    for run in runs:
        for name, stage in run.stages.items():
            speed = stage.metrics.curves.get("tokens_per_second")
            trains = name in STAGES
            rates = {key.removeprefix("learning_rate/") for key in stage.metrics.curves if "learning_rate/" in key}
            cells = [
                name,
                group_words(rates),
                f"{stage.metrics.max_step:,}" if stage.metrics.max_step else "",
                format_seconds(stage.seconds) if stage.seconds else "–",
                f"{sum(speed.means) / len(speed.means):,.0f}" if speed else "",
                _number(stage.metrics.recent_mean("caption_loss")) if trains else "",
                _number(stage.metrics.recent_mean("reconstruction_loss")) if trains else "",
                "; ".join(health_lines(stage.summary)) if stage.finished or not trains else "not finished",
            ]
            rows.append([*([run.label] if several else []), *cells])
    return [PageTable("stages", "stages", rows, f"Losses are means over the last {WINDOW} steps.", words_last=True)]


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else ""


def _answers(runs: Sequence[RunData], drawn: Sequence[RunData]) -> PageSection:
    tables = []
    if rows := accuracy_rows(runs):
        number = runs[0].scenes.get("num_questions")
        title = f"right answers in percent{f', {number:,} questions' if isinstance(number, int) else ''}"
        note = "Captions: share of the objects that detailed captions name with their colour."
        rule = 1 if len(runs) == 1 else None
        tables.append(PageTable("accuracy-table", title, rows, note, rule_before=rule))
    if rows := benchmark_rows(runs):
        note = "Published: arXiv:2410.14332v3. In brackets: 95 % interval over questions."
        if any("ViCToR" in cell for cell in rows[0]):
            note += " ViCToR's columns: its README, which states no protocol and leaves MMBench's language open."
        tables.append(PageTable("benchmarks", "benchmarks", rows, note))
    strips = [strip for run in runs[:1] if (strip := _example(run)) is not None]
    return PageSection("Answers", figures=score_figures(drawn), tables=tables, strips=strips)


def _example(run: RunData) -> Strip | None:
    """Return the picture and question that the evaluation kept."""
    file = RunDir(run.root).evaluation().root / Path(str(run.example.get("image") or "")).name
    try:
        content = file.read_bytes() if file.suffix == ".png" else b""
    except OSError:
        content = b""
    if not run.example.get("question") or not content or len(content) > _MAX_PICTURE_BYTES:
        return None
    words = [(label, str(run.example.get(label) or "–")) for label in ("question", "answer", "expected")]
    return Strip("example", [Panel("a picture that was never trained on", content)], words)


def _recipes(runs: Sequence[RunData]) -> PageSection:
    if len(runs) > 1:
        rows = recipe_differences(runs)
        tables = [PageTable("recipe-differences", "recipe keys", rows)] if rows else []
        return PageSection("Where the recipes differ", "Keys that decide what a stage comes to.", tables=tables)
    flat = _flat(runs[0].recipe)
    rows = [["key", "value"], *([key, value] for key, value in flat.items())]
    return PageSection(
        "Recipe", tables=[PageTable("recipe", "every key", rows, words_last=True)] if flat else [], folded=True
    )


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: "" if value is None else str(value)}
    flat: dict[str, str] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
