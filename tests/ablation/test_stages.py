from pathlib import Path

from croc_cli.ablation.stages import StageStore, open_links
from croc_cli.ablation.tables import TABLES
from croc_cli.run_dir import StageDir, read_json, write_json
from tests.ablation.runs import finish_plain_run, finish_row, row_run


def hashes(name: str, seed: int = 0) -> dict[str, str]:
    return {link.stage: link.hash for link in row_run(name, seed).links}


def test_rows_share_the_stages_that_come_to_the_same_and_no_others() -> None:
    nearest, hungarian, mixed = (hashes(n) for n in ("matching-nearest", "matching-hungarian", "attention-mixed"))
    assert hungarian == mixed
    assert nearest["align"] == hungarian["align"]
    assert {stage for stage in nearest if nearest[stage] != hungarian[stage]} == {"reconstruct", "finetune", "eval"}
    assert set(hashes("matching-nearest", 1).values()).isdisjoint(nearest.values())


def test_the_same_stage_after_another_start_is_another_stage() -> None:
    assert hashes("no-align")["reconstruct"] != hashes("with-align")["reconstruct"]


def test_all_tables_together_run_each_stage_once(tmp_path: Path) -> None:
    runs = [row_run(row.recipe) for table in TABLES.values() for row in table.rows]
    stages = [link.stage for link, _ in open_links(runs, StageStore(tmp_path)).values()]
    assert {stage: stages.count(stage) for stage in stages} == {
        **{"align": 1, "reconstruct": 15, "finetune": 16, "eval": 16}
    }


def test_finished_stages_are_found_and_a_rows_folder_looks_like_a_run(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    run = row_run("matching-hungarian")
    finish_row(store, run)
    assert open_links([run], store) == {}
    assert [link.stage for link, _ in open_links([row_run("matching-nearest")], store).values()] == [
        *("reconstruct", "finetune", "eval")
    ]
    folder = store.link_row(run)
    assert sorted(path.name for path in folder.iterdir()) == ["align", "benchmarks", "finetune", "reconstruct"]
    assert (folder / "align").resolve() == store.home(run.links[0]).stage("align").root.resolve()
    assert store.link_row(run) == folder  # again, over the old links


def test_stages_of_other_runs_serve_by_what_they_are_not_by_their_name(tmp_path: Path) -> None:
    finish_plain_run(tmp_path / "whatever", row_run("matching-hungarian"))
    store = StageStore(tmp_path / "ablation", reuse=[tmp_path / "whatever"])
    assert open_links([row_run("pool-size-2048")], store) == {}
    assert len(open_links([row_run("pool-size-1")], store)) == 3
    assert len(open_links([row_run("pool-size-2048", seed=1)], store)) == 4


def test_a_stage_that_started_from_other_weights_serves_nobody(tmp_path: Path) -> None:
    folder = finish_plain_run(tmp_path / "run", row_run("matching-hungarian"))
    checkpoint = StageDir(folder / "finetune").latest_checkpoint()
    assert checkpoint is not None
    metadata = read_json(checkpoint / "croc.json")
    write_json(checkpoint / "croc.json", metadata | {"start": {"path": "", "weights_sha256": "others"}})
    todo = open_links([row_run("matching-hungarian")], StageStore(tmp_path / "ablation", reuse=[folder]))
    assert [link.stage for link, _ in todo.values()] == ["finetune", "eval"]


def test_an_unfinished_stage_of_another_run_serves_nobody(tmp_path: Path) -> None:
    folder = finish_plain_run(tmp_path / "run", row_run("matching-hungarian"))
    StageDir(folder / "align").summary_file.unlink()
    todo = open_links([row_run("matching-hungarian")], StageStore(tmp_path / "ablation", reuse=[folder]))
    assert len(todo) == 4
