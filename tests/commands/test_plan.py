import json
import subprocess
import sys

import pytest

from croc_cli.estimate.speed import StageSpeed
from tests.commands.croc import croc


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take fixed speeds for a measurement of this machine, which takes seconds."""

    def speeds(cases: dict[str, object], **_: object) -> dict[str, StageSpeed]:
        return dict.fromkeys(cases, StageSpeed(1.0, 0.0, 0.0, 0.0))

    monkeypatch.setattr("croc_cli.estimate.speed.measured_speeds", speeds)


def test_a_plan_for_this_machine_says_that_it_was_measured_and_what_follows() -> None:
    answer = croc("plan", "nano", "--set", "launch.device=cpu")
    assert "hours follow from a measurement of this machine (--measure repeats it)" in answer.out
    assert "steps 400 · samples 6,400" in answer.out
    assert "7 minutes" in answer.out  # 400 micro-batches of one second
    assert "next: `croc run nano`" in answer.err


def test_a_plan_with_a_utilisation_or_for_other_machines_takes_the_constant() -> None:
    assert "of which 30% is reached" in croc("plan", "nano", "--utilisation", "0.3").out
    assert "of which 40% is reached" in croc("plan", "nano", "--gpus", "8").out


def test_the_plan_of_the_papers_recipe_says_memory_steps_hours_and_disk() -> None:
    answer = croc("plan", "croc-7b", "--gpus", "8", "--gpu-memory", "80GB", "--utilisation", "0.5")
    assert answer.code == 0, answer.err
    assert answer.out.startswith(
        "for 8 ranks on GPUs of 80.0 GB, 2 GiB of it left for CUDA; bf16 peak 312 TFLOP/s (A100)"
    )
    assert "of which 50% is reached" in answer.out
    marked = [line for line in answer.out.splitlines() if line.startswith("ZeRO-") and " * " in line]
    assert [line.split()[0] for line in marked] == ["ZeRO-2", "ZeRO-3", "ZeRO-3"]
    assert all(line.endswith("fits") for line in marked)
    assert "steps 2,181 · samples 558,336 (as listed; the data is not here)" in answer.out
    assert answer.out.splitlines()[-1].startswith("all   ")


def test_what_does_not_fit_is_followed_by_flags_that_make_it_fit() -> None:
    answer = croc("plan", "croc-7b", "--gpus", "8", "--gpu-memory", "24GB")
    assert answer.code == 0
    [line] = [
        line for line in answer.out.splitlines() if line.startswith("does not fit; this does: ") and "finetune" in line
    ]
    flags = line.removeprefix("does not fit; this does: ").split()
    assert "--set" in flags
    again = croc("plan", "croc-7b", "--gpus", "8", "--gpu-memory", "24GB", *flags)
    assert not [line for line in again.out.splitlines() if line.startswith("does not fit") and "finetune" in line]


def test_json_has_the_same_figures() -> None:
    answer = croc("plan", "nano", "--format", "json")
    plan = json.loads(answer.out)
    assert [stage["stage"] for stage in plan["stages"]] == ["align", "reconstruct", "finetune"]
    parts = plan["stages"][2]["memory"]["0"]
    assert parts.pop("total") == sum(parts.values())
    assert plan["hardware"]["on_gpu"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "yaml"), "--format yaml: unknown format"),
        (("--gpu-memory", "much"), "--gpu-memory much: no amount of memory"),
        (("--set", "model.llm=some/llm"), "model.llm: the sizes of some/llm are not known here"),
    ],
)
def test_bad_flags_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    answer = croc("plan", "nano", *arguments)
    assert answer.code == 2
    assert message in answer.err


def test_a_plan_imports_nothing_heavy() -> None:
    run = "from croc_cli.commands.app import app; app(['plan', 'croc-7b', '--gpus', '8'], standalone_mode=False)"
    check = "import sys; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{run}; {check}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
