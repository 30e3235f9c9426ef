import csv
import re
from pathlib import Path

import pytest

from croc_cli.ablation.layout import as_json, caption, markdown, our_rows, page_table, paper_rows, text, write_ablation
from croc_cli.ablation.results import TableResult, claim_sentence, collect, format_difference, unmatched
from croc_cli.ablation.stages import StageStore
from croc_cli.ablation.statistics import Mean
from croc_cli.ablation.tables import TABLES, Claim
from tests.ablation.runs import finish_row, row_run

NEAREST = {0: 0.70, 1: 0.72, 2: 0.74}
HUNGARIAN = {0: 0.80, 1: 0.83, 2: 0.84}


def matching(folder: Path, *, seeds: tuple[int, ...] = (0, 1, 2)) -> TableResult:
    store = StageStore(folder)
    runs = []
    for seed in seeds:
        for name, mean, loss in (
            ("matching-nearest", NEAREST[seed], 1.0),
            ("matching-hungarian", HUNGARIAN[seed], 1.0 + 0.1 * (-1) ** seed),
        ):
            runs.append(row_run(name, seed))
            finish_row(store, runs[-1], mean=mean, loss=loss)
        runs.append(row_run("objectives-data-only", seed))  # has not run
    return collect(TABLES["matching"], runs, store, base="nano")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TableResult:
    return matching(tmp_path_factory.mktemp("ablation"))


def test_rows_stand_in_the_papers_order_with_means_and_intervals(result: TableResult) -> None:
    rows = our_rows(result)
    assert rows[0][1:] == ["existence", "colour", "mean", "captions"]
    assert [row[0] for row in rows[1:]] == ["Nearest Neighbors", "Hungarian Matching", "data only"]
    assert rows[1][3] == "72.0 ± 5.0"
    assert rows[3][3] == "–"


def test_steps_and_samples_are_said_once_where_all_rows_have_the_same(result: TableResult) -> None:
    recipe = row_run("matching-nearest").recipe
    stages = (recipe.align, recipe.reconstruct, recipe.finetune)
    steps = " / ".join(f"{stage.max_steps or 0:,}" for stage in stages)
    samples = " / ".join(f"{(stage.max_steps or 0) * stage.batch.global_size:,}" for stage in stages)
    assert caption(result).endswith(f"Every row has {steps} steps and {samples} samples in stages 1 / 1.5 / 2.")


def test_rows_that_differ_in_steps_have_columns_for_them(tmp_path: Path) -> None:
    runs = [row_run(row.recipe) for row in TABLES["alignment"].rows]
    found = collect(TABLES["alignment"], runs, StageStore(tmp_path), base="nano")
    recipe = runs[0].recipe
    steps = f"{recipe.reconstruct.max_steps:,} / {recipe.finetune.max_steps:,}"
    head, without, *_ = our_rows(found)
    assert [head[-2:], without[0], without[-2]] == [["steps", "samples"], "Stage 1.5 alone", f"– / {steps}"]
    assert caption(found).endswith("Steps and samples: stages 1 / 1.5 / 2.")
    table = page_table(found)
    assert [len(row) for row in table.rows] == [sum(count for _, count in table.groups)] * len(table.rows)


def test_the_papers_numbers_stand_beside_as_such(result: TableResult) -> None:
    rows = paper_rows(result)
    assert rows[0][0].startswith("paper, 7B")
    assert rows[2][1:] == ["64.2", "60.4", "67.6", "64.1", "37.7", "58.8"]
    assert rows[3][1:] == ["–"] * 6


def test_a_claim_whose_interval_is_clear_of_zero_is_decided(result: TableResult) -> None:
    sentence = claim_sentence(result, Claim("matching-hungarian", "matching-nearest"))
    assert sentence == (
        "Hungarian Matching above Nearest Neighbors in the mean score (the paper at 7B: +1.6 points in the mean of its"
        " benchmarks): same order as in the paper; here +10 points, 95 % interval [8.9, 12] over 3 seeds."
    )
    reverse = claim_sentence(result, Claim("matching-nearest", "matching-hungarian"))
    assert "other order than in the paper; here -10 points" in reverse


def test_a_claim_that_seeds_do_not_agree_on_is_open(result: TableResult) -> None:
    sentence = claim_sentence(result, Claim("matching-hungarian", "matching-nearest", "caption_loss"))
    assert "not distinguishable at this size" in sentence


def test_a_claim_of_a_lower_loss_holds_where_the_loss_is_lower(tmp_path: Path) -> None:
    store, runs = StageStore(tmp_path), []
    for seed in (0, 1, 2):
        for name, loss in (("matching-hungarian", 1.0 + 0.01 * seed), ("matching-nearest", 2.0)):
            runs.append(row_run(name, seed))
            finish_row(store, runs[-1], loss=loss)
    found = collect(TABLES["matching"], runs, store, base="nano")
    sentence = claim_sentence(found, Claim("matching-hungarian", "matching-nearest", "caption_loss"))
    assert sentence == (
        "Hungarian Matching below Nearest Neighbors in the caption loss at the end of stage 1.5 (the paper shows it in"
        " a figure at 7B): same order as in the paper; here -0.99 nats, 95 % interval [-1, -0.97] over 3 seeds."
    )
    reverse = claim_sentence(found, Claim("matching-nearest", "matching-hungarian", "caption_loss"))
    assert "other order than in the paper; here +0.99 nats" in reverse


def test_a_claim_about_a_row_that_has_not_run_says_so(result: TableResult) -> None:
    claim = Claim("matching-hungarian", "objectives-data-only", of_the_paper=False)
    assert claim_sentence(result, claim).endswith("(the paper has no such row): has not run.")


def test_a_row_without_stage_1_5_is_compared_too(tmp_path: Path) -> None:
    store, runs = StageStore(tmp_path), []
    for seed in (0, 1, 2):
        for name, mean in (("objectives-both", HUNGARIAN[seed]), ("objectives-none", NEAREST[seed])):
            runs.append(row_run(name, seed))
            finish_row(store, runs[-1], mean=mean)
    table = collect(TABLES["objectives"], runs, store, base="nano")
    sentence = claim_sentence(table, Claim("objectives-both", "objectives-none"))
    assert "same order as in the paper; here +10 points" in sentence


def test_one_seed_leaves_every_claim_open(tmp_path: Path) -> None:
    sentence = claim_sentence(matching(tmp_path, seeds=(0,)), TABLES["matching"].claims[0])
    assert "not distinguishable at this size; here +10 points with one seed, which has no interval" in sentence


def test_rows_with_other_steps_or_samples_are_named(result: TableResult, tmp_path: Path) -> None:
    assert unmatched(result) == []
    runs = [row_run(row.recipe) for row in TABLES["objectives"].rows]
    found = unmatched(collect(TABLES["objectives"], runs, StageStore(tmp_path), base="nano"))
    [sentence] = found
    own, others = re.findall(r"([\d,]+) steps", sentence)
    assert sentence.startswith("neither is not matched: ")
    recipe = row_run("objectives-both").recipe
    assert int(others.replace(",", "")) - int(own.replace(",", "")) == recipe.reconstruct.max_steps


def test_the_page_has_the_table_its_claims_and_its_figures(result: TableResult, tmp_path: Path) -> None:
    page = write_ablation([result], tmp_path / "page")
    content = page.read_text()
    for needed in (
        "Table 4c",
        "72.0 ± 5.0",
        'colspan="6">paper, 7B<',
        "same order as in the paper",
        "(Fig. 6)",
        "(Fig. 7)",
    ):
        assert needed in content
    assert "not scored yet: data only (seed 0, 1, 2)" in content
    head, *rows = csv.reader((tmp_path / "page" / "matching.csv").read_text().splitlines())
    assert [head[0], head[3], head[5], head[-1]] == ["row", "mean (nano)", "GQA (paper, 7B)", "mean (paper, 7B)"]
    assert [rows[1][0], rows[1][3], rows[1][5], rows[1][-1]] == ["Hungarian Matching", "82.3 ± 5.2", "64.2", "58.8"]
    assert as_json(result)["rows"][1]["measures"]["score"] == {"0": 0.8, "1": 0.83, "2": 0.84}
    assert (tmp_path / "page" / "matching.json").is_file()
    assert (tmp_path / "page" / "matching.md").read_text() == markdown(result)


def test_markdown_has_the_papers_mean_as_its_last_column_and_every_claim(result: TableResult) -> None:
    title, _, *table = markdown(result).splitlines()
    assert title == "**Table 4c: how masked tokens get their pool tokens**"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:5]]
    assert [row[-1] for row in cells if not row[0].startswith("-")] == ["paper, 7B", "57.2", "58.8", "–"]
    assert [row[0] for row in cells[2:]] == ["Nearest Neighbors", "Hungarian Matching", "data only"]
    sentences = [claim_sentence(result, claim) for claim in result.table.claims]
    notes = ["not scored yet: data only (seed 0, 1, 2)"]
    assert [line.removeprefix("- ") for line in table if line.startswith("- ")] == sentences + notes
    assert "mean over seeds 0, 1, 2" in table[-1]


def test_a_pool_whose_size_follows_the_base_is_named_with_both_sizes(tmp_path: Path) -> None:
    runs = [row_run(row.recipe) for row in TABLES["pool-size"].rows]
    rows = collect(TABLES["pool-size"], runs, StageStore(tmp_path), base="nano").rows
    assert [one.label for one in rows] == ["1", "576 (here 36)", "2048 (here 128)", "4096 (here 256)", "data only"]


def test_the_terminal_has_both_halves_and_the_sentences(result: TableResult) -> None:
    lines = text(result).splitlines()
    assert lines[0] == "Table 4c: how masked tokens get their pool tokens"
    assert any(line.startswith("paper, 7B: ") for line in lines)
    assert sum("in the paper" in line for line in lines) >= 1
    assert "not scored yet: data only (seed 0, 1, 2)" in lines


def test_a_difference_that_rounding_alone_made_is_none() -> None:
    assert format_difference(Mean(1.4e-14, 1e-15, 2), " points") == "+0 points, 95 % interval [0, 0] over 2 seeds"
    assert format_difference(Mean(-1e-14, None, 1), " points") == "+0 points with one seed, which has no interval"
    assert format_difference(Mean(-0.00078, 0.022, 2), " nats").startswith(
        "-0.00078 nats, 95 % interval [-0.023, 0.021]"
    )
