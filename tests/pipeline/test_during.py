"""Benchmarks on the way are checked before anything is launched."""

from dataclasses import replace
from pathlib import Path

import pytest

from croc_cli.benchmarks.pope import Pope
from croc_cli.errors import RecipeError, UsageError
from croc_cli.pipeline.during import asked_on_the_way, check_on_the_way
from croc_cli.pipeline.preflight import rehearsal_recipe
from tests.benchmarks.runs import write_pope
from tests.commands.croc import croc
from tests.launch.make import recipe


def asking(*names: str, **changes: object) -> dict[str, object]:
    return {"eval__during__benchmarks": list(names)} | {f"eval__during__{key}": value for key, value in changes.items()}


def test_it_is_off_unless_asked_for() -> None:
    assert recipe().eval.during.benchmarks == ()
    assert check_on_the_way(recipe()) is None


def test_what_will_be_asked_is_said_with_its_number(tmp_path: Path) -> None:
    write_pope(tmp_path, num=10)
    chosen = recipe(**asking("pope", "scenes", limit=12, every=50, data=str(tmp_path)))
    assert [benchmark.name for benchmark, _ in asked_on_the_way(chosen)] == ["pope", "scenes"]
    said = check_on_the_way(chosen)
    assert said is not None
    assert said.startswith("the ranks answer 12 questions of pope and ")
    assert said.endswith(" every 50 steps")


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (["popo"], "eval.during: unknown benchmark 'popo'", "did you mean pope?"),
        (["mmvet"], "eval.during: a judge model scores mmvet, and training does not wait for one", "leave it out"),
        (["pope"], "eval.during: pope: {root}/pope holds no ", "--set eval.during.data=ROOT"),
    ],
)
def test_what_cannot_be_answered_or_scored_is_named_with_what_to_do(
    names: list[str], message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        check_on_the_way(recipe(**asking(*names, data=str(tmp_path))))
    assert message.format(root=tmp_path) in caught.value.message
    assert hint in (caught.value.hint or "")


def test_labels_at_a_server_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = [replace(record, answer=None) for record in Pope().read(write_pope(tmp_path))]
    monkeypatch.setattr(Pope, "read", lambda *_: hidden)
    with pytest.raises(UsageError, match="the labels of pope's split .* are at its server"):
        check_on_the_way(recipe(**asking("pope", data=str(tmp_path))))


def test_the_command_names_missing_files_before_it_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("align", "run"):
        answer = croc(command, "nano", "--set", 'eval.during.benchmarks=["pope"]')
        assert answer.code == 2, answer.err
        assert "no benchmark files: data/eval or playground/data/eval is not a folder" in answer.err
        assert "--set eval.during.data=ROOT names the folder" in answer.err
        assert not (tmp_path / "runs").exists()
    answer = croc("align", "nano", "--set", 'eval.during.benchmarks=["pope"]', "--dry-run")
    assert answer.code == 0
    assert "no benchmark files" in answer.err


def test_the_best_step_needs_a_benchmark_that_is_answered() -> None:
    with pytest.raises(RecipeError, match="keep_best: 'pope' is not among eval.during.benchmarks: scenes"):
        recipe(**asking("scenes", keep_best="pope"))


def test_a_rehearsal_answers_none() -> None:
    chosen = recipe(**asking("scenes", keep_best="scenes"))
    assert rehearsal_recipe(chosen, "align", num_ranks=1).eval.during.benchmarks == ()
