"""Which questions of benchmarks a stage answers on the way, by `eval.during`."""

from pathlib import Path
from typing import TYPE_CHECKING

from croc_cli.errors import UsageError
from croc_cli.pipeline.benchmarks import data_root, needs_files
from croc_cli.recipe.schema import Recipe
from croc_cli.words import counted

if TYPE_CHECKING:
    from croc_cli.benchmarks.base import Benchmark, Record


def asked_on_the_way(recipe: Recipe) -> "list[tuple[Benchmark, list[Record]]]":
    """Return the benchmarks of `eval.during`, each with the questions that are asked; none where there are none.

    Raises:
        UsageError: A name is unknown, files are missing or damaged, or training has no way to score a benchmark.
    """
    if not recipe.eval.during.benchmarks:
        return []
    try:
        return _asked(recipe)
    except UsageError as error:
        hint = (error.hint or "").replace("--data ROOT", "--set eval.during.data=ROOT")
        raise UsageError(f"eval.during: {error.message}", hint=hint or None) from error


def _asked(recipe: Recipe) -> "list[tuple[Benchmark, list[Record]]]":
    from croc_cli.benchmarks.matching import limit_records
    from croc_cli.benchmarks.registry import choose

    during = recipe.eval.during
    chosen = choose(",".join(during.benchmarks), recipe.eval.variants, scenes=recipe.eval)
    if judged := [benchmark.name for benchmark in chosen if benchmark.needs_judge]:
        raise UsageError(
            f"a judge model scores {judged[0]}, and training does not wait for one",
            hint=f"leave it out; `croc eval --benchmark {judged[0]}` scores checkpoints",
        )
    root = data_root(Path(during.data) if during.data is not None else None, needed=needs_files(chosen))
    asked = []
    for benchmark in chosen:
        records = benchmark.read(root)
        if any(record.answer is None for record in records):
            others = ", ".join(benchmark.variants) or "none"
            raise UsageError(
                f"the labels of {benchmark.name}'s split {benchmark.split} are at its server",
                hint=f"leave it out, or choose a split with labels in eval.variants; its variants: {others}",
            )
        asked.append((benchmark, limit_records(benchmark, records, during.limit) if during.limit else records))
    return asked


def check_on_the_way(recipe: Recipe) -> str | None:
    """Return what will be asked on the way, in a sentence; None where nothing is.

    Raises:
        UsageError: See `asked_on_the_way`.
    """
    asked = asked_on_the_way(recipe)
    if not asked:
        return None
    listed = " and ".join(f"{counted(len(records), 'question')} of {benchmark.name}" for benchmark, records in asked)
    return f"the ranks answer {listed} every {counted(recipe.eval.during.every, 'step')}"
