"""When requests join, and what nucleus sampling draws."""

import pytest
import torch

from croc_cli.serve.engine import draw, is_time_to_join


@pytest.mark.parametrize(
    ("steps", "waiting", "open_answers", "expected"),
    [(15, 9, 1, False), (16, 1, 2, True), (16, 1, 3, False), (63, 1, 30, False), (64, 1, 30, True), (99, 0, 1, False)],
)
def test_a_round_ends_for_those_who_wait_when_they_gain_more_than_the_others_lose(
    steps: int, waiting: int, open_answers: int, expected: bool
) -> None:
    assert is_time_to_join(steps, waiting=waiting, open_answers=open_answers) is expected


def test_a_small_top_p_draws_the_likeliest_token_and_a_full_one_draws_by_probability() -> None:
    logits = torch.log(torch.tensor([0.2, 0.7, 0.1]))
    generator = torch.Generator().manual_seed(0)
    narrow = {draw(logits, temperature=1.0, top_p=0.6, generator=generator) for _ in range(50)}
    assert narrow == {1}
    drawn = [draw(logits, temperature=1.0, top_p=1.0, generator=generator) for _ in range(2000)]
    shares = [drawn.count(token) / len(drawn) for token in range(3)]
    assert shares == pytest.approx([0.2, 0.7, 0.1], abs=0.05)
