from pathlib import Path

import pytest

from croc_cli.ablation.estimate import MEASURED, estimate
from croc_cli.ablation.stages import StageStore
from croc_cli.ablation.tables import TABLES
from tests.ablation.runs import finish_row, row_run


def test_shared_stages_count_once_at_the_measured_speed(tmp_path: Path) -> None:
    runs = [row_run(name) for name in ("matching-nearest", "matching-hungarian")]
    todo = estimate(runs, StageStore(tmp_path))
    assert (todo.num_rows, todo.num_stages, todo.num_done, todo.num_without_sharing) == (2, 7, 0, 8)
    samples = {stage: getattr(runs[0].recipe.data, stage).num_samples for stage in ("align", "reconstruct", "finetune")}
    each = samples["reconstruct"] * MEASURED["reconstruct"] + samples["finetune"] * MEASURED["finetune"]
    assert todo.seconds == pytest.approx(samples["align"] * MEASURED["align"] + 2 * (each + MEASURED["eval"]))
    assert todo.basis == "nano as measured on two cores"


def test_what_has_run_here_tells_how_long_the_rest_takes(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    finish_row(store, row_run("matching-nearest"))
    todo = estimate([row_run("matching-nearest"), row_run("matching-hungarian")], store)
    assert (todo.num_stages, todo.num_done) == (3, 4)
    recipe = row_run("matching-nearest").recipe
    steps = (recipe.reconstruct.max_steps or 0) + (recipe.finetune.max_steps or 0)
    assert todo.seconds == pytest.approx(0.5 * steps + 20)
    assert todo.basis == "stages that have run here"


@pytest.mark.parametrize(("tables", "hours"), [(("pool-size",), 1.5), (("matching",), 1.5), (tuple(TABLES), 6.0)])
def test_three_seeds_of_nano_fit_into_the_time_that_is_promised(
    tmp_path: Path, tables: tuple[str, ...], hours: float
) -> None:
    names = dict.fromkeys(row.recipe for table in tables for row in TABLES[table].rows)
    runs = [row_run(name, seed) for seed in range(3) for name in names]
    seconds = estimate(runs, StageStore(tmp_path)).seconds
    assert seconds is not None
    assert seconds < hours * 3600
