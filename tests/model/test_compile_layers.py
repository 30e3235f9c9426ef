"""Compiled decoder layers: no graph breaks, the same numbers, and a failure that costs one line."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from croc_cli.model.compile_layers import compile_layers
from tests.model.batches import IMAGE, gradients, make_batch
from tests.model.test_lmm import make_model
from tests.model.test_packed_rows import CAPTIONED, TEXT, TWO, pack

BATCH = make_batch([[1, IMAGE, 20, 30, 210, 220, 2], [1, 40, 50, 60, 230, 240]], num_masked=12)


@pytest.mark.parametrize("attention", ["causal", "mixed"])
def test_a_decoder_layer_has_no_graph_breaks(attention: str) -> None:
    model = make_model(attention=attention)
    layer = model.llava.model.language_model.layers[0]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    with layer.register_forward_pre_hook(lambda _, given, named: calls.append((given, named)), with_kwargs=True):
        model(**BATCH)
    (given, named) = calls[0]
    found = torch._dynamo.explain(layer.forward)(*given, **named)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.slow
def test_packed_rows_of_other_lengths_and_other_samples_compile_nothing_anew() -> None:
    model = make_model(pool_size=0, attention="mixed")
    model.llava.model.language_model.set_attn_implementation("flex_attention")
    compiled, said = CompileCounter(), list[str]()
    compile_layers(model.llava.model.language_model.layers, say=said.append, backend=compiled)
    counts = []
    with torch.no_grad():
        for row in ([CAPTIONED, TEXT], [TEXT, TWO], [TWO] * 4, [CAPTIONED] * 9, [TWO, TEXT] * 7, [TWO, TEXT, TEXT] * 5):
            model(**pack(row))
            counts.append(compiled.frame_count)
    assert counts[0] > 0
    assert counts[3:] == [counts[3]] * 3  # first one block of keys, then several, with lengths as variables
    assert said == []


def test_compiled_layers_give_the_same_numbers_and_keep_their_names() -> None:
    model = make_model()
    loss, expected = gradients(model, BATCH)
    names = list(model.state_dict())
    graphs: list[Any] = []

    def count(graph: Any, _inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph

    said: list[str] = []
    compile_layers(model.llava.model.language_model.layers, say=said.append, backend=count)
    compiled_loss, found = gradients(model, BATCH)
    assert graphs
    assert said == []
    assert list(model.state_dict()) == names
    torch.testing.assert_close(compiled_loss, loss)
    torch.testing.assert_close(found, expected)


def test_a_failure_to_compile_is_one_line_and_the_layers_run_without() -> None:
    model = make_model()
    loss, _ = gradients(model, BATCH)

    def fail(_graph: Any, _inputs: list[Tensor]) -> Any:
        raise OSError("no compiler here")

    said: list[str] = []
    compile_layers(model.llava.model.language_model.layers, say=said.append, backend=fail)
    assert torch.equal(gradients(model, BATCH)[0], loss)
    assert len(said) == 1
    assert said[0].startswith("torch.compile failed, so the LLM's layers run without it: ")
    assert "no compiler here" in said[0]
