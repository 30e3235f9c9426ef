"""Which hidden state of the LLM predicts visual tokens."""

import pytest
import torch
from torch import Tensor

from croc_cli.model.recompute import enable_recomputation
from tests.model.batches import make_batch
from tests.model.test_lmm import CAPTIONED, TEXT, make_model, run_with_hidden
from tests.tiny import NUM_VISUAL_TOKENS


@pytest.mark.parametrize("number", [1, 2, -1, -2])
def test_visual_tokens_may_be_predicted_from_any_layer(number: int) -> None:
    batch = make_batch([CAPTIONED, TEXT], num_masked=12)
    model = make_model(reconstruction_layer=number)
    depth = model.llava.config.text_config.num_hidden_layers
    states: list[Tensor] = []
    layer = model.llava.model.language_model.layers[number % (depth + 1) - 1]
    layer.register_forward_hook(lambda _layer, _inputs, output: states.append(output))
    output, last = run_with_hidden(model, batch)
    expected = last if number % (depth + 1) == depth else states[0]
    torch.testing.assert_close(output.visual_hidden[0], expected[0, 1 : 1 + NUM_VISUAL_TOKENS], atol=0, rtol=0)
    assert not [name for name in model.state_dict() if "layer." in name and not name.startswith("llava")]


def test_layers_behind_the_predicting_one_get_no_gradient_of_reconstruction() -> None:
    model = make_model(reconstruction_layer=1).train()
    enable_recomputation(model.llava, "full")
    output = model(**make_batch([CAPTIONED], num_masked=12))
    (output.visual_hidden.square().sum() + output.zero).backward()
    first, second = (
        sum(float(weight.grad.abs().sum()) for weight in layer.parameters())
        for layer in model.llava.model.language_model.layers[:2]
    )
    assert first > 0
    assert second == 0


@pytest.mark.parametrize("number", [0, 99, -99])
def test_a_layer_that_the_llm_lacks_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} is none of the . hidden states of the LLM's layers"):
        make_model(reconstruction_layer=number)
