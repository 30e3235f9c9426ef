from pathlib import Path

from croc_cli.report.differences import differences, recipe_differences
from croc_cli.report.run_data import read_run
from tests.report.runs import SCENES, make_run


def test_equal_runs_have_no_differences(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name), label=name) for name in ("a", "b")]
    assert differences(runs) == []
    assert recipe_differences(runs) == []


def test_steps_seeds_evaluation_versions_and_missing_stages_are_each_named(tmp_path: Path) -> None:
    other = make_run(tmp_path / "b", steps=10, scenes=SCENES | {"num_questions": 50}, finetune__seed=3)
    text = (other / "benchmarks" / "results.json").read_text()
    (other / "benchmarks" / "results.json").write_text(text.replace('"1.0"', '"2.0"'))
    (other / "reconstruct" / "summary.json").unlink()
    third = make_run(tmp_path / "c", scenes=None)
    for name in ("metrics.jsonl", "recipe.yaml"):
        (third / "align" / name).unlink()
    runs = [read_run(folder, label=folder.name) for folder in (make_run(tmp_path / "a"), other, third)]
    found = "\n".join(differences(runs))
    assert "not finished: b" in found
    assert "different croc versions: a 1.0, b 2.0, c unknown" in found
    assert "align is missing in c" in found
    assert "different finetune steps: a 20, b 10, c 20" in found
    assert "different finetune seed: a 0, b 3, c 0" in found
    assert "different numbers of evaluation questions: a 1000, b 50" in found
    assert "no evaluation in c" in found


def test_the_recipe_keys_that_differ_stand_in_a_table(tmp_path: Path) -> None:
    folders = make_run(tmp_path / "a"), make_run(tmp_path / "b", reconstruct__matching="nearest")
    runs = [read_run(folder, label=folder.name) for folder in folders]
    assert recipe_differences(runs) == [["key", "a", "b"], ["reconstruct.matching", "hungarian", "nearest"]]
