"""Two runs on the same questions: the table of paired tests, and a page of the answers that differ in their score."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.benchmarks.compare import read_scores
from croc_cli.benchmarks.paired import Item, Paired, change, flip_words, pair_runs, paired_rows, question_of
from croc_cli.benchmarks.registry import benchmarks, choose
from croc_cli.errors import CrocError
from croc_cli.names import BENCHMARKS
from croc_cli.report.page import Page, PageSection, PageTable, Panel, Strip, render
from croc_cli.report.run_data import RunData
from croc_cli.run_dir import RunDir, read_json

if TYPE_CHECKING:
    from croc_cli.benchmarks.base import Benchmark, Record
    from croc_cli.benchmarks.files import Picture

FLIPS_FILE = "answers-that-differ.html"
MOST_SHOWN = 40
"""Of a benchmark's answers that became worse, and as many of those that became better: a page of a few MB."""
_SIDE = 320
"""Pixels of a picture's longer side, about what a card is wide."""
_TEXT = (
    "Difference: mean over questions of the second run's score less the first's, in points; 95 % bootstrap interval,"
    " drawn over questions with a fixed seed. McNemar: two-sided exact test of right against wrong."
)


def pairs_of(runs: Sequence[RunData]) -> tuple[dict[str, Paired], list[str]]:
    """Return the benchmarks that two runs have on common questions, and notes; nothing for any other number of runs."""
    if len(runs) != 2:
        return {}, []
    scores: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for number, run in enumerate(runs):
        scores[str(number)] = {}
        with suppress(CrocError):  # damaged scores are a note of the run's own
            scores[str(number)] = read_scores(run.root)
    return pair_runs(scores, [run.root for run in runs])


def pairs_section(pairs: Mapping[str, Paired], notes: Sequence[str]) -> PageSection:
    """Return the table of paired tests with a link to the page of `flips_page`; empty without common questions."""
    if not pairs:
        return PageSection("The same questions")
    table = PageTable("paired", "the second run less the first", paired_rows(pairs), "; ".join(notes))
    return PageSection(
        "The same questions", _TEXT, tables=[table], link=("Look at the answers that differ", FLIPS_FILE)
    )


def flips_page(runs: Sequence[RunData], pairs: Mapping[str, Paired]) -> str:
    """Return the page of answers that differ as HTML that needs nothing else: a part to open for each way."""
    labels = [run.label for run in runs]
    sections = []
    for name, paired in pairs.items():
        pictures = _pictures([run.root for run in runs], name) if paired.worse or paired.better else None
        for way, found in (("worse", paired.worse), ("better", paired.better)):
            shown = found[:MOST_SHOWN]
            count = f"{len(shown):,} of {len(found):,}" if len(shown) < len(found) else f"{len(found):,}"
            strips = [
                _card(f"{name}-{way}-{number}", pair, labels, pictures) for number, pair in enumerate(shown, start=1)
            ]
            title = f"{benchmarks()[name].title}: {count} {way} in {labels[1]}"
            sections.append(PageSection(title, strips=strips, folded=True))
    page = Page(
        title="Answers that differ",
        lead=f"{labels[0]} and {labels[1]}, asked the same questions. Open a part to see its questions.",
        sections=sections,
        made_from=[str(run.root) for run in runs],
        is_alone=True,
    )
    return render(page, [section for section in sections if not section.empty])


def _card(name: str, pair: tuple[Item, Item], labels: Sequence[str], pictures: "Mapping[str, Record] | None") -> Strip:
    words = flip_words(pair)
    record = pictures.get(question_of(pair[0])) if pictures is not None else None
    panels = [panel for picture in record.pictures if (panel := _panel(picture))] if record is not None else []
    told = [(key, words[key]) for key in ("question", "expected")]
    told += [(labels[0], words["first"]), (labels[1], words["second"]), ("change", change(pair))]
    if not panels:
        told.insert(0, ("picture", words["picture"]))
    told.append(("id", words["question id"]))
    return Strip(name, panels, told, smooth=True)


def _panel(picture: "Picture") -> Panel | None:
    """Return a small copy of a picture; None where it does not open."""
    try:
        image = picture.open().convert("RGB")
    except (OSError, ValueError):
        return None
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return Panel(picture.name, stream.getvalue(), kind="jpeg")


def _pictures(folders: Sequence[Path], name: str) -> "dict[str, Record] | None":
    """Return a benchmark's questions by `question_of`, from where a run answered them; None where they moved."""
    for benchmark, root in _asked(folders, name):
        with suppress(CrocError, OSError):
            return {question_of(_as_item(record)): record for record in benchmark.read(root)}
    return None


def _asked(folders: Sequence[Path], name: str) -> "Iterator[tuple[Benchmark, Path]]":
    for folder in folders:
        task = read_json(RunDir(folder).stage(BENCHMARKS).root / "task.json")
        variants = task.get("variants")
        variant = variants.get(name) if isinstance(variants, dict) else None
        with suppress(CrocError):
            [benchmark] = choose(name, {name: str(variant)} if variant else None)
            if benchmark.is_drawn or isinstance(task.get("data"), str):
                yield benchmark, Path(str(task.get("data")))


def _as_item(record: "Record") -> Item:
    return {"question_id": record.question_id, "prompt": record.prompt, "expected": record.answer}
