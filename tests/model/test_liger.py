"""What Liger is asked to patch, with a module of its name in its place: its kernels need a GPU."""

import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import pytest

from croc_cli.errors import UsageError
from croc_cli.model.liger import apply_liger, takes_liger
from tests.tiny import make_tiny_model


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for Liger, and return what it is asked for."""
    asked: list[dict[str, Any]] = []
    package, transformers, table = (
        ModuleType(name)
        for name in ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch")
    )
    package.__spec__ = importlib.machinery.ModuleSpec("liger_kernel", None)
    transformers._apply_liger_kernel_to_instance = lambda **how: asked.append(how)  # type: ignore[attr-defined]  # a stand-in
    table.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}  # type: ignore[attr-defined]  # a stand-in
    for module in (package, transformers, table):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def test_norms_rotary_embeddings_and_gates_are_patched_and_the_loss_is_not(patched: list[dict[str, Any]]) -> None:
    llm = make_tiny_model().model.language_model
    names = [name for name, _ in llm.named_parameters()]
    apply_liger(llm)
    [asked] = patched
    assert asked.pop("model") is llm
    assert {name for name, wanted in asked.items() if wanted} == {"rope", "rms_norm", "swiglu"}
    assert {name for name, wanted in asked.items() if not wanted} == {"cross_entropy", "fused_linear_cross_entropy"}
    assert [name for name, _ in llm.named_parameters()] == names


def test_an_architecture_that_liger_does_not_know_is_named(patched: list[dict[str, Any]]) -> None:
    llm = make_tiny_model().model.language_model
    llm.config.model_type = "other"
    with pytest.raises(UsageError, match="launch.kernels: liger has no kernels for other") as caught:
        apply_liger(llm)
    assert caught.value.hint == "--set launch.kernels=none"
    assert (takes_liger("llama"), takes_liger("other")) == (True, False)
    assert patched == []


def test_without_liger_nothing_takes_it() -> None:
    assert takes_liger("llama") is False
