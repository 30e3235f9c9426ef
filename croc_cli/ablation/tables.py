"""The paper's ablations (arXiv:2410.14332v3, Tables 4a to 4f and 5): rows, its 7B numbers, its claims."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from croc_cli.errors import UsageError

Measure = Literal["score", "caption_loss", "pool_use"]
"""What a claim compares: the mean score, the caption loss at the end of stage 1.5, or the pool's use there."""
FIVE = ("gqa", "textvqa", "mmbench", "seedbench", "mmstar")
NINE = ("gqa", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn", "seedbench", "mmstar")
OTHER_SCALE = frozenset({"mme", "ocrbench"})
"""Benchmarks whose scores are no percentages; means over benchmarks leave them out."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        recipe: Its recipe below `ablations/`.
        label: As the paper calls it.
        paper: The paper's numbers by benchmark; empty where the paper has no such row.
    """

    recipe: str
    label: str
    paper: Mapping[str, float]

    @property
    def paper_mean(self) -> float | None:
        """Mean of the paper's numbers, in points; None without any."""
        kept = [value for name, value in self.paper.items() if name not in OTHER_SCALE]
        return sum(kept) / len(kept) if kept else None


@dataclass(frozen=True)
class Claim:
    """That one row stands above another.

    Args:
        above: Recipe of the row that should be better: have the higher value, of a loss the lower.
        below: Recipe of the other.
        measure: What is compared.
        of_the_paper: Whether the paper says so; else it is a question that the paper leaves open.
    """

    above: str
    below: str
    measure: Measure = "score"
    of_the_paper: bool = True


@dataclass(frozen=True)
class AblationTable:
    """One table of the paper.

    Args:
        name: As `croc ablate` calls it.
        number: Its number in the paper, such as `Table 4c`.
        title: What varies.
        benchmarks: The paper's columns.
        rows: In the paper's order; the row `data only` follows them.
        claims: What is asked of the rows.
    """

    name: str
    number: str
    title: str
    benchmarks: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]

    def row(self, recipe: str) -> Row:
        """Return the row of a recipe."""
        return next(row for row in self.rows if row.recipe == recipe)


DATA_ONLY = Row("objectives-data-only", "data only", {})
"""The caption objective on the same samples, for as many steps: what the extra data does by itself."""


def _table(
    name: str,
    number: str,
    title: str,
    rows: Mapping[str, tuple[str, tuple[float, ...]]],
    claims: tuple[Claim, ...],
    benchmarks: tuple[str, ...] = FIVE,
) -> AblationTable:
    made = [
        Row(recipe, label, dict(zip(benchmarks, numbers, strict=True))) for recipe, (label, numbers) in rows.items()
    ]
    return AblationTable(name, number, title, benchmarks, (*made, DATA_ONLY), claims)


_CROC = (64.2, 60.4, 67.6, 64.1, 37.7)

TABLES: dict[str, AblationTable] = {
    table.name: table
    for table in (
        _table(
            "pool-size",
            "Table 4a",
            "size of the token pool",
            {
                "pool-size-1": ("1", (62.3, 56.6, 65.1, 61.3, 34.8)),
                "pool-size-576": ("576", (63.8, 58.4, 66.2, 62.5, 33.8)),
                "pool-size-2048": ("2048", _CROC),
                "pool-size-4096": ("4096", (63.9, 58.8, 66.5, 63.1, 34.7)),
            },
            (
                Claim("pool-size-576", "pool-size-1"),
                Claim("pool-size-2048", "pool-size-576"),
                Claim("pool-size-2048", "pool-size-4096"),
                Claim("pool-size-576", "pool-size-1", "caption_loss"),
                Claim("pool-size-2048", "pool-size-576", "caption_loss"),
                Claim("pool-size-4096", "pool-size-1", "caption_loss"),
            ),
        ),
        _table(
            "mask-ratio",
            "Table 4b",
            "share of visual tokens masked",
            {
                "mask-ratio-0.00": ("0.00", (63.1, 45.9, 66.1, 62.0, 33.3)),
                "mask-ratio-0.50": ("0.50", (63.8, 59.2, 67.6, 62.6, 34.6)),
                "mask-ratio-0.75": ("0.75", _CROC),
                "mask-ratio-0.90": ("0.90", (63.0, 58.2, 65.6, 62.2, 34.3)),
            },
            (
                Claim("mask-ratio-0.75", "mask-ratio-0.00"),
                Claim("mask-ratio-0.75", "mask-ratio-0.50"),
                Claim("mask-ratio-0.75", "mask-ratio-0.90"),
            ),
        ),
        _table(
            "matching",
            "Table 4c",
            "how masked tokens get their pool tokens",
            {
                "matching-nearest": ("Nearest Neighbors", (63.1, 58.9, 66.5, 62.5, 35.0)),
                "matching-hungarian": ("Hungarian Matching", _CROC),
            },
            (
                Claim("matching-hungarian", "matching-nearest"),
                Claim("matching-hungarian", "matching-nearest", "pool_use"),
            ),
        ),
        _table(
            "attention",
            "Table 4d",
            "attention in stage 1.5",
            {
                "attention-unidirectional": ("Unidirectional Attention", (63.4, 58.7, 66.6, 62.5, 35.2)),
                "attention-mixed": ("Mixed Attention", _CROC),
            },
            (Claim("attention-mixed", "attention-unidirectional"),),
        ),
        _table(
            "captions",
            "Table 4e",
            "captions of stage 1.5",
            {
                "captions-brief": ("Brief Caption", (62.5, 57.1, 66.4, 62.9, 36.1)),
                "captions-detailed": ("Detailed Caption", _CROC),
            },
            (Claim("captions-detailed", "captions-brief"),),
        ),
        _table(
            "alignment",
            "Table 4f",
            "with and without stage 1",
            {
                "no-align": ("Stage 1.5 alone", (63.2, 57.7, 64.7, 62.1, 33.1)),
                "with-align": ("Stage 1 and Stage 1.5", _CROC),
            },
            (Claim("with-align", "no-align"),),
        ),
        _table(
            "objectives",
            "Table 5",
            "the data and the objectives of stage 1.5",
            {
                "objectives-none": ("neither", (62.0, 66.8, 58.2, 85.9, 1510.7, 64.3, 58.3, 58.6, 33.3)),
                "objectives-none-more-data": (
                    "data in stage 1",
                    (62.3, 68.2, 57.0, 86.1, 1450.7, 62.0, 53.9, 60.9, 33.0),
                ),
                "objectives-reconstruction": (
                    "reconstruction alone",
                    (62.5, 68.8, 56.1, 87.1, 1458.5, 64.3, 57.6, 60.4, 33.9),
                ),
                "objectives-captions": (
                    "captions alone",
                    (63.3, 70.5, 58.5, 86.9, 1513.8, 65.9, 58.0, 62.6, 33.6),
                ),
                "objectives-both": ("both", (64.2, 70.1, 60.4, 86.9, 1526.4, 67.6, 59.7, 64.1, 37.7)),
            },
            (
                Claim("objectives-both", "objectives-none"),
                Claim("objectives-both", "objectives-none-more-data"),
                Claim("objectives-both", "objectives-reconstruction"),
                Claim("objectives-both", "objectives-captions"),
                Claim("objectives-captions", "objectives-none"),
                Claim("objectives-both", DATA_ONLY.recipe, of_the_paper=False),
            ),
            NINE,
        ),
    )
}
ALL = "all"


def choose_tables(name: str) -> list[AblationTable]:
    """Return the table of a name, or every one for `all`.

    Raises:
        UsageError: There is no such table.
    """
    if name == ALL:
        return list(TABLES.values())
    if name not in TABLES:
        raise UsageError(f"unknown ablation {name!r}", hint=f"one of {', '.join(TABLES)}, {ALL}")
    return [TABLES[name]]
