"""Which kernel `model.attention: auto` takes, by stage, device and LLM."""

import importlib.util
from typing import Any

import pytest
from transformers import LlamaConfig

from croc_cli.model.attention_kernel import choose_attention


def choose(name: str = "auto", *, kind: str = "mixed", on_gpu: bool = True, **config: Any) -> str:
    sizes = {"hidden_size": 64, "num_attention_heads": 2} | config
    return str(choose_attention(name, kind=kind, on_gpu=on_gpu, config=LlamaConfig(**sizes)))


@pytest.fixture(autouse=True)
def with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())


def test_auto_takes_flex_for_masked_stages_on_a_gpu_and_sdpa_elsewhere() -> None:
    assert choose() == "flex_attention (auto: mixed attention on a GPU)"
    assert choose(kind="prefix").startswith("flex_attention (")
    assert choose(kind="causal") == "sdpa (auto: causal attention needs no mask)"
    assert choose(on_gpu=False) == "sdpa (auto: mixed attention on a CPU)"


def test_auto_says_why_flex_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(num_attention_heads=8).endswith("cannot run: heads of 8 dimensions, and it needs 16)")
    assert choose(attention_dropout=0.1).endswith("cannot run: an attention dropout of 0.1)")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert choose().startswith("sdpa (")
    assert choose().endswith("cannot run: triton is not installed)")


def test_a_named_kernel_is_taken_as_it_is() -> None:
    assert choose("eager") == "eager (as model.attention says)"
    assert choose("flex", on_gpu=False).startswith("flex_attention (")
