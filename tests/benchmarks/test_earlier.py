"""Run folders of earlier versions, whose scores of scenes lie in `eval`, without `parts` around them."""

from pathlib import Path

from croc_cli.ablation.stages import StageStore, chain, open_links
from croc_cli.benchmarks.earlier import scenes_entry
from croc_cli.report.run_data import read_run
from croc_cli.report.run_page import write_report
from croc_cli.report.terminal import summarise
from croc_cli.run_dir import RunDir, write_json
from tests.ablation.runs import finish_plain_run, row_run
from tests.commands.croc import croc
from tests.report.runs import SCENES, make_run


def earlier_run(folder: Path) -> Path:
    """Write a run as earlier versions laid it out."""
    run = RunDir(make_run(folder, scenes=None))
    stage = run.stage("eval")
    stage.root.mkdir()
    stage.recipe_file.write_text(run.stage("align").recipe_file.read_text())
    example = {"image": "runs/nano/eval/example.png", "question": "What colour?", "answer": "red", "expected": "red"}
    results = {"benchmarks": {"scenes": SCENES}, "example": example, "seconds": 9.0, "croc_version": "0.1.0"}
    write_json(stage.results_file, results)
    write_json(stage.summary_file, {"finished": True, "stage": "eval"})
    return folder


def test_report_and_comparison_read_them(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path / "old")
    run = read_run(folder)
    assert run.mean_accuracy == 0.8
    assert run.example["answer"] == "red"
    assert run.stages["eval"].croc_version == "0.1.0"
    assert "colour         70.0 %" in summarise(folder)
    assert "\neval" in summarise(folder)
    assert "right answers" in write_report([folder]).read_text()
    for path in (folder, folder / "eval"):
        shown = croc("eval", "compare", str(path))
        assert shown.code == 0, shown.err
        assert shown.out.splitlines()[1].split()[-1] == "80.0"


def test_an_ablation_uses_them(tmp_path: Path) -> None:
    run = row_run("matching-hungarian")
    folder = RunDir(finish_plain_run(tmp_path / "run", run))
    weights = scenes_entry(folder)
    folder.stage("benchmarks").root.rename(folder.stage("eval").root)
    write_json(folder.stage("eval").results_file, {"benchmarks": {"scenes": weights["parts"]}, "seconds": 20.0})
    store = StageStore(tmp_path / "ablation", reuse=[folder.root])
    assert open_links([run], store) == {}
    row = store.link_row(run)
    assert read_run(row).mean_accuracy == 0.8
    assert {path.name for path in row.iterdir()} == {"align", "reconstruct", "finetune", "eval"}
    assert [link.hash for link in chain(run.recipe)] == [link.hash for link in run.links]


def test_the_scores_of_this_version_come_first(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path / "old")
    entry = {"value": 50.0, "parts": {"mean_accuracy": 0.5, "accuracy": {"colour": 0.5}}}
    write_json(folder / "benchmarks" / "results.json", {"benchmarks": {"scenes": entry}})
    assert scenes_entry(RunDir(folder))["value"] == 50.0
    assert read_run(folder).mean_accuracy == 0.5


def test_scores_of_scenes_stay_where_another_checkpoint_was_scored_since(tmp_path: Path) -> None:
    entry = {"value": 50.0, "parts": {"mean_accuracy": 0.5}}
    results = {"model": {"model": "b"}, "benchmarks": {"pope": {"value": 1.0}}}
    others = [{"model": {"model": "a"}, "benchmarks": {"scenes": entry}}]
    write_json(tmp_path / "benchmarks" / "results.json", {**results, "other_models": others})
    assert scenes_entry(RunDir(tmp_path)) == entry
