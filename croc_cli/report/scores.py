"""What the models answer: accuracy by question type against blind baselines, benchmarks beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

from croc_cli.benchmarks.compare import comparison_rows, is_whole
from croc_cli.report.charts import Bars, bar_chart
from croc_cli.report.run_data import RunData
from croc_cli.report.svg import Figure

Table = list[list[str]]
_PAPERS = ("LLaVA-1.5-7B", "Croc-7B")
_VICTORS = ("ViCToR-7B", "LLaVA-1.5-13B by ViCToR", "LLaVA-NeXT-8B by ViCToR", "Ross by ViCToR")
_TICKS = (("best blind", None), ("another picture", 1), ("no picture", 4))


def score_figures(runs: Sequence[RunData]) -> list[Figure]:
    """Return accuracy by question type, with the baselines of the only run as lines across the bars."""
    scored = [(index, run) for index, run in enumerate(runs) if run.accuracy]
    if not scored:
        return []
    categories = list(dict.fromkeys(kind for _, run in scored for kind in run.accuracy))
    bars = [
        Bars(run.label if len(runs) > 1 else "its own picture", run.accuracy, colour=index) for index, run in scored
    ]
    first = scored[0][1]
    ticks = baselines(first)
    shown = ("best blind",) if len(runs) > 1 else tuple(name for name, _ in _TICKS)
    bars += [
        Bars(name, ticks[name], colour=colour, tick=True) for name, colour in _TICKS if name in ticks and name in shown
    ]
    note = (
        "Best blind: the better of the most common answer and the best rule that never reads the question."
        " An answer counts by its first word."
    )
    chart = bar_chart(
        "accuracy", "right answers by question type", bars, categories=categories, unit="accuracy", note=note, wide=True
    )
    return [chart] if chart else []


def baselines(run: RunData) -> dict[str, dict[str, float]]:
    """Return the baselines of the `scenes` benchmark by name, each by question type."""
    found: dict[str, dict[str, float]] = {}
    entries = {"best blind": run.scenes.get("best_blind")}
    given = run.scenes.get("baselines")
    entries |= (
        {str(name).replace("_", " "): values for name, values in given.items()} if isinstance(given, dict) else {}
    )
    for name, values in entries.items():
        if isinstance(values, Mapping):
            found[name] = {str(kind): float(v) for kind, v in values.items() if isinstance(v, float | int)}
    # The rows of an older run call it the swapped picture.
    if "swapped picture" in found:
        found.setdefault("another picture", found.pop("swapped picture"))
    return found


def accuracy_rows(runs: Sequence[RunData]) -> Table:
    """Return the accuracies as a table: one row for each run, then the baselines of the only one."""
    scored = [run for run in runs if run.accuracy]
    if not scored:
        return []
    kinds = list(dict.fromkeys(kind for run in scored for kind in run.accuracy))
    rows = [["", *kinds, "mean", "captions"]]
    for run in scored:
        recall = run.scenes.get("caption_recall")
        label = run.label if len(runs) > 1 else "its own picture"
        rows.append(
            [label, *(percent(run.accuracy.get(kind)) for kind in kinds), percent(run.mean_accuracy), percent(recall)]
        )
    if len(runs) == 1:
        for name, values in baselines(scored[0]).items():
            mean = sum(values.values()) / len(values) if values else None
            rows.append([name, *(percent(values.get(kind)) for kind in kinds), percent(mean), ""])
    return rows


def benchmark_rows(runs: Sequence[RunData]) -> Table:
    """Return the benchmarks that a run has scores of, with the numbers of the paper's 7B models and of ViCToR's table.

    A model of ViCToR's table is left out where it has no number of these benchmarks.
    """
    scored = [run for run in runs if run.benchmarks]
    if not scored:
        return []
    entries = {run.label: _readable(run) for run in scored}
    head, *rows = comparison_rows(entries, paper=True, models=(*_PAPERS, *_VICTORS))
    columns = slice(2, 2 + len(entries))
    kept = [row for row in rows if any(cell != "–" for cell in row[columns])]
    always = columns.stop + len(_PAPERS)
    shown = [n for n in range(len(head)) if n < always or any(row[n] != "–" for row in kept)]
    return [[row[n] for n in shown] for row in (head, *kept)]


def _readable(run: RunData) -> dict[str, Mapping[str, Any]]:
    """Return the entries of a run whose figures are figures."""
    return {name: entry for name, entry in run.benchmarks.items() if is_whole(entry)}


def percent(value: object) -> str:
    """Return a share in percent, such as `91.6`, or a dash."""
    return f"{100 * value:.1f}" if isinstance(value, float | int) else "–"
