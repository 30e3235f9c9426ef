import importlib.util
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import UsageError
from croc_cli.launch.devices import Machine
from croc_cli.launch.requirements import check_data, check_machine, fits_cpu, state_bytes
from croc_cli.names import StageName
from tests.launch.make import TWO_CORES, gpus, recipe


@pytest.mark.parametrize(
    ("machine", "launch", "message"),
    [
        (TWO_CORES, {}, r"launch\.kernels: liger needs a CUDA GPU, and this run is on a CPU"),
        (gpus("0"), {"launch__device": "cpu"}, r"launch\.kernels: liger needs a CUDA GPU"),
        (gpus("0"), {"launch__device": "cuda"}, r"launch\.kernels: liger is not installed \(no module liger_kernel\)"),
    ],
)
def test_kernels_that_cannot_run_are_refused_by_name(machine: Machine, launch: dict[str, str], message: str) -> None:
    chosen = recipe("nano", launch__kernels="liger", **launch)
    with pytest.raises(UsageError, match=message) as caught:
        check_machine(chosen, "finetune", machine, command="finetune")
    assert "--set launch.kernels=auto" in str(caught.value.hint)


def test_a_7b_recipe_without_cuda_is_refused_with_what_is_needed_and_what_fits() -> None:
    with pytest.raises(UsageError) as caught:
        check_machine(recipe("croc-7b"), "reconstruct", TWO_CORES, command="reconstruct")
    assert "recipe croc-7b needs CUDA GPUs (3 or more of 80 GB)" in caught.value.message
    assert "7.1B parameters" in caught.value.message
    assert "2 CPU cores, 21 GB of memory, no CUDA device" in caught.value.message
    assert "the nearest recipe that fits is " in (caught.value.hint or "")
    assert "croc demo" in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_device_auto_does_not_let_a_7b_model_onto_a_cpu() -> None:
    with pytest.raises(UsageError, match="needs CUDA GPUs"):
        check_machine(recipe("croc-7b", launch__device="auto"), "align", TWO_CORES, command="align")


def test_a_model_larger_than_the_memory_is_refused_on_a_cpu_that_was_asked_for() -> None:
    with pytest.raises(UsageError, match="needs about .* GB of memory for reconstruct"):
        check_machine(recipe("croc-7b", launch__device="cpu"), "reconstruct", TWO_CORES, command="reconstruct")


def test_recipes_that_fit_pass() -> None:
    check_machine(recipe(), "reconstruct", TWO_CORES, command="reconstruct")
    check_machine(recipe("croc-7b"), "reconstruct", gpus(*"01234567"), command="reconstruct")
    check_machine(recipe(), "align", Machine((), 1, 0), command="align")


def test_state_is_counted_by_what_trains_and_in_which_precision() -> None:
    counts = {"vision_tower": 100, "projector": 10, "llm": 1000}
    assert state_bytes(recipe("croc-7b"), "align", counts) == 10 * 18 + 1100 * 2
    assert state_bytes(recipe(), "align", counts) == 10 * 16 + 1100 * 4
    assert fits_cpu(counts)


def test_missing_data_is_named_with_its_key(tmp_path: Path) -> None:
    changed = recipe("smol", data__align__path=str(tmp_path / "a.json"))
    with pytest.raises(UsageError, match=r"data\.align\.path: .*a\.json does not exist"):
        check_data(changed, "align")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UsageError, match=r"data\.align\.image_folder"):
        check_data(changed, "align")
    check_data(recipe(), "align")


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (
            "reconstruct",
            {},
            "flash_attention_2 cannot do mixed attention, which reconstruct needs; sdpa, flex_attention",
        ),
        ("finetune", {}, "flash_attention_2 is not installed .no module flash_attn.; sdpa, flex_attention, eager"),
        ("finetune", {"finetune__precision": "fp32"}, "computes in bf16, and finetune.precision is fp32; sdpa"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_with_those_that_can(
    stage: StageName, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    chosen = recipe("croc-7b", model__attention="flash_attention_2", **changes)
    with pytest.raises(UsageError, match=message) as caught:
        check_machine(chosen, stage, gpus(*"01234567"), command=stage)
    assert caught.value.hint == "--set model.attention=auto"


def test_flash_attention_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    chosen = recipe("nano", model__attention="flash_attention_2", align__precision="bf16")
    with pytest.raises(UsageError, match="flash_attention_2 needs a CUDA GPU, and this run is on a CPU"):
        check_machine(chosen, "align", TWO_CORES, command="align")


def test_flex_attention_is_refused_on_a_cpu_which_cannot_train_with_it() -> None:
    with pytest.raises(UsageError, match="flex_attention has no backward pass on a CPU") as caught:
        check_machine(recipe("nano", model__attention="flex_attention"), "align", TWO_CORES, command="align")
    assert "model.attention=sdpa" in (caught.value.hint or "")


def test_a_monitor_that_is_not_installed_is_named_before_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackio" else object())
    with pytest.raises(UsageError, match="monitor: trackio is not installed") as caught:
        check_machine(recipe(monitor=["tensorboard", "trackio"]), "align", TWO_CORES, command="align")
    assert caught.value.hint == """`pip install trackio`, or `--set 'monitor=["tensorboard"]'` goes without"""
