import pytest

from croc_cli.ablation.tables import DATA_ONLY, TABLES, choose_tables
from croc_cli.benchmarks.registry import NAMES
from croc_cli.errors import UsageError
from croc_cli.recipe.find import recipe_names


def test_every_recipe_below_ablations_is_a_row_and_every_row_is_a_recipe() -> None:
    rows = {row.recipe for table in TABLES.values() for row in table.rows}
    assert rows == {name.removeprefix("ablations/") for name in recipe_names() if name.startswith("ablations/")}


def test_every_table_ends_with_the_data_by_itself_and_claims_speak_of_its_rows() -> None:
    for table in TABLES.values():
        assert table.rows[-1] == DATA_ONLY
        names = {row.recipe for row in table.rows}
        assert all({claim.above, claim.below} <= names for claim in table.claims)
        assert set(table.benchmarks) <= set(NAMES)


def test_what_the_paper_claims_is_what_its_own_numbers_say() -> None:
    for table in TABLES.values():
        for claim in table.claims:
            if claim.of_the_paper and claim.measure == "score":
                above, below = table.row(claim.above).paper_mean, table.row(claim.below).paper_mean
                assert above is not None
                assert below is not None
                assert above > below, (table.name, claim)


def test_the_papers_full_method_has_the_same_numbers_in_every_table() -> None:
    full = (
        "pool-size-2048",
        "mask-ratio-0.75",
        "matching-hungarian",
        "attention-mixed",
        "captions-detailed",
        "with-align",
    )
    numbers = [dict(row.paper) for table in TABLES.values() for row in table.rows if row.recipe in full]
    assert numbers == [{"gqa": 64.2, "textvqa": 60.4, "mmbench": 67.6, "seedbench": 64.1, "mmstar": 37.7}] * len(full)
    both = TABLES["objectives"].row("objectives-both").paper
    assert {name: both[name] for name in numbers[0]} == numbers[0]


def test_means_leave_out_the_benchmark_that_is_no_percentage() -> None:
    mean = TABLES["objectives"].row("objectives-none").paper_mean
    assert mean == pytest.approx((62.0 + 66.8 + 58.2 + 85.9 + 64.3 + 58.3 + 58.6 + 33.3) / 8)


def test_an_unknown_table_names_the_known_ones() -> None:
    assert len(choose_tables("all")) == 7
    with pytest.raises(UsageError) as error:
        choose_tables("pool")
    assert error.value.hint is not None
    assert error.value.hint.startswith("one of pool-size, mask-ratio")
