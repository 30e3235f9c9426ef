"""The script that makes the nano LLM: a training of a few steps runs from end to end and ends untied."""

import pytest
import torch

from croc_cli.demo.pretrain.llm import CURRICULUM, LlmTraining, train_llm
from croc_cli.demo.pretrain.tokenizer import train_tokenizer


def test_a_training_of_a_few_steps_runs_through_every_leg_and_ends_untied() -> None:
    steps: list[int] = []
    settings = LlmTraining(batch_size=2, num_questions=2, scale=0.002)
    model = train_llm(train_tokenizer(), settings, on_progress=lambda step, _: steps.append(step))
    assert model.lm_head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    assert not model.config.tie_word_embeddings
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@pytest.mark.parametrize("leg", CURRICULUM)
def test_a_leg_s_rate_warms_up_holds_and_falls_to_a_fiftieth(leg: object) -> None:
    assert isinstance(leg, type(CURRICULUM[0]))
    assert leg.rate(0.0) < 0.1
    assert leg.rate(leg.fall_from - 0.01) == 1.0
    assert abs(leg.rate(1.0) - 0.02) < 1e-9
    assert leg.phases[-1].until == 1.0
    assert leg.phases[-1].hints == leg.phases[-1].scaffold == 0.0
