"""`croc data stats` and `croc data export`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from croc_cli.commands import complete
from croc_cli.names import DEFAULT_RECIPE
from croc_cli.words import counted

if TYPE_CHECKING:
    from croc_cli.sources.verify.stats import DataStats

STATS_EPILOG = "Example: croc data stats data/mixes/croc1.5m --out stats"
EXPORT_EPILOG = "Example: croc data export data/mixes/croc1.5m croc1.5m.json"
PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="A mix's folder, or a data file or folder")]
ImageFolderOption = Annotated[
    Path | None,
    typer.Option("--image-folder", metavar="DIR", help="Folder that image paths start from; a mix stores its own"),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        autocompletion=complete.recipes,
        help="Recipe whose tokenizer and template count tokens",
    ),
]
StageOption = Annotated[
    str, typer.Option("--stage", metavar="STAGE", help="Stage of the recipe: align, reconstruct or finetune")
]


def stats(
    path: PathArgument,
    image_folder: ImageFolderOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Also write a page with figures, and a PNG, to this folder"),
    ] = None,
    recipe: RecipeOption = None,
    stage: StageOption = "finetune",
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON")] = False,
) -> None:
    """Show what data is made of: sources, folders, questions, lengths, writing, picture sizes."""
    from croc_cli.console import result, say
    from croc_cli.progress import work_line
    from croc_cli.sources.verify.stats import collect_stats

    tokens = None
    if recipe is not None:
        from croc_cli.console import with_warnings
        from croc_cli.pipeline.tokens import row_tokens
        from croc_cli.recipe.load import load_recipe

        check_stage(stage)
        tokens = row_tokens(with_warnings(load_recipe(recipe or DEFAULT_RECIPE)).recipe, stage)
    with work_line("rows") as line:
        found = collect_stats(path, image_folder=image_folder, tokens=tokens, progress=line)
    table = stats_table(found)
    if as_json:
        result(json.dumps(stats_values(found), indent=2, ensure_ascii=False))
    else:
        widths = [max(len(row[column]) for row in table) for column in range(2)]
        result("\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {more}".rstrip() for name, value, more in table))
    if out is not None:
        from croc_cli.report.data_page import write_data_page

        say(f"page: {write_data_page(found, table, out)}")


def check_stage(stage: str) -> None:
    """Raise UsageError where the stage is unknown."""
    from croc_cli.errors import UsageError
    from croc_cli.names import STAGES

    if stage not in STAGES:
        raise UsageError(f"--stage {stage}: unknown stage", hint=f"one of {', '.join(STAGES)}")


def stats_table(found: "DataStats") -> list[list[str]]:
    """Return the counts as a table of three columns: what, how many, and what part of the rows that is."""
    from croc_cli.sources.verify.stats import quantiles

    good = max(found.rows - found.bad, 1)
    rows = [["rows", f"{found.rows:,}", ""]]
    if found.bad:
        rows.append(["  with errors, not counted below", f"{found.bad:,}", "croc data verify names them"])
    for title, counts in (
        ("source", found.sources),
        ("folder", {name or "text alone": number for name, number in found.folders.items()}),
        ("writing", found.writing),
        ("questions", {str(number): rows for number, rows in found.turns.items()}),
    ):
        ordered = sorted(counts.items(), key=lambda entry: -entry[1])
        rows += [[f"{title} {name}", f"{number:,}", f"{number / good:.1%}"] for name, number in ordered[:12]]
        if len(ordered) > 12:
            rest = sum(number for _, number in ordered[12:])
            rows.append([f"{title}: {len(ordered) - 12} others", f"{rest:,}", f"{rest / good:.1%}"])
    about = "" if found.exact else ", about"
    for title, values in (
        (f"tokens{about}", found.tokens),
        ("tokens of the question, about", found.question_tokens),
        ("tokens of the answers, about", found.answer_tokens),
        ("shorter side in pixels", [min(size) for size in found.sizes]),
        ("longer side in pixels", [max(size) for size in found.sizes]),
    ):
        if values:
            half, most, nearly, largest = quantiles(values)
            rows.append([title, f"{half:,}", f"90 % up to {most:,}, 99 % up to {nearly:,}, at most {largest:,}"])
    return rows


def stats_values(found: "DataStats") -> dict[str, object]:
    """Return the counts as plain values."""
    from croc_cli.sources.verify.stats import quantiles

    names = ("median", "p90", "p99", "max")
    lengths = {
        "tokens": found.tokens,
        "question_tokens": found.question_tokens,
        "answer_tokens": found.answer_tokens,
        "shorter_side_pixels": [min(size) for size in found.sizes],
    }
    return {
        "path": str(found.path),
        "rows": found.rows,
        "rows_with_errors": found.bad,
        "sources": dict(found.sources),
        "folders": dict(found.folders),
        "writing": dict(found.writing),
        "questions": {str(number): rows for number, rows in sorted(found.turns.items())},
        "tokens_are_exact": found.exact,
        **{name: dict(zip(names, quantiles(values), strict=True)) for name, values in lengths.items()},
    }


def export(
    mix: Annotated[Path, typer.Argument(metavar="MIX", help="A mix's folder")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A .json, .jsonl or .parquet file")],
) -> None:
    """Write a mix for other programs: LLaVA JSON, JSONL or parquet."""
    from croc_cli.console import result
    from croc_cli.progress import work_line
    from croc_cli.sources.mix.export import export_mix, exported_images
    from croc_cli.sources.read.index import MixFolder

    with work_line("rows") as line:
        rows = export_mix(mix, out, progress=line)
    opened = MixFolder(mix)
    result(f"{out}: {counted(rows, 'row')}; image paths start from {opened.data_root}")
    if (images := exported_images(opened, out)) is not None:
        result(f"images that lay in tables or tars are files now, in {images}")
