"""Continuous batching: whatever joins, leaves, is cancelled or fails, each answer is the one it would be alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.eval.runner import end_tokens
from croc_cli.serve.batch import JOIN_TOKENS, ContinuousBatch, groups
from croc_cli.serve.job import Job
from croc_cli.serve.prompt import Prompt
from croc_cli.serve.rounds import Rounds
from tests.tiny import IMAGE_SIZE, NUM_VISUAL_TOKENS


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_for_inference(folder)


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def prompt(model: LoadedModel, *, pictures: int = 0, length: int = 8, seed: int = 0) -> Prompt:
    draw = torch.Generator().manual_seed(seed)
    ids = [1, *[model.llava.config.image_token_id] * (NUM_VISUAL_TOKENS * pictures)]
    ids += torch.randint(10, 300, (length,), generator=draw).tolist()
    return Prompt(ids, tuple(torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=draw) for _ in range(pictures)))


class Asked:
    """A request, and what came of it."""

    def __init__(self, model: LoadedModel, asked: Prompt, max_tokens: int = 24, **settings: Any) -> None:
        self.pieces: list[str] = []
        self.ends = 0
        settings = {"on_text": self.pieces.append, **settings}
        self.job = Job(asked, max_tokens=max_tokens, on_end=self._end, **settings)
        self.job.begin(model.processor.tokenizer)

    def _end(self) -> None:
        self.ends += 1

    @property
    def said(self) -> tuple[list[int], str, str | None]:
        return self.job.token_ids, "".join(self.pieces), self.job.finish_reason


def batch_of(model: LoadedModel) -> ContinuousBatch:
    return ContinuousBatch(model.llava, pad=0, ends=end_tokens(model.llava, model.processor))


def advance(batch: Any, jobs: list[Job]) -> None:
    batch.advance([job for job in jobs if job.finish_reason is None])


def alone(model: LoadedModel, asked: Prompt, max_tokens: int = 24, **settings: Any) -> tuple[Any, ...]:
    one, batch = Asked(model, asked, max_tokens, **settings), batch_of(model)
    while one.job.finish_reason is None:
        batch.advance([one.job])
    return one.said


REQUESTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"pictures": 1}, {}),
    ({"pictures": 2, "length": 30}, {"max_tokens": 5}),
    ({"length": 40}, {"temperature": 1.0, "seed": 7}),
    ({"pictures": 1, "length": 3}, {"temperature": 1.5, "top_p": 0.9, "seed": 8}),
    ({"length": 1}, {"max_tokens": 1}),
    ({"pictures": 1}, {"max_tokens": 40, "in_pieces": False}),
]


def test_requests_that_join_and_leave_get_the_answers_they_get_alone(model: LoadedModel) -> None:
    prompts = [prompt(model, seed=number, **form) for number, (form, _) in enumerate(REQUESTS)]
    expected = [alone(model, one, **how) for one, (_, how) in zip(prompts, REQUESTS, strict=True)]
    for late in (0, 2):  # all at once; one after another while the others are under way
        batch = batch_of(model)
        asked = [Asked(model, one, **how) for one, (_, how) in zip(prompts, REQUESTS, strict=True)]
        for number in range(len(asked) if late else 0):
            for _ in range(late):
                advance(batch, [one.job for one in asked[: number + 1]])
        while any(one.job.finish_reason is None for one in asked):
            advance(batch, [one.job for one in asked])
        assert [one.said for one in asked] == expected
        assert [one.ends for one in asked] == [1] * len(asked)
        assert not batch._jobs
    greedy = [number for number, (_, how) in enumerate(REQUESTS) if "seed" not in how]
    for number in greedy:  # and greedy ones are transformers' own
        ids = torch.tensor([prompts[number].ids])
        pixels = {"pixel_values": torch.cat(prompts[number].pixels)} if prompts[number].pixels else {}
        limit = REQUESTS[number][1].get("max_tokens", 24)
        own = model.llava.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels, max_new_tokens=limit)
        assert expected[number][0] == own[0, ids.shape[1] :].tolist()
    assert len({text for _, text, _ in expected}) == len(expected)


def test_a_stop_string_ends_one_answer_and_no_other(model: LoadedModel) -> None:
    asked = prompt(model, pictures=1)
    ids, text, _ = alone(model, asked)
    stop = text[len(text) // 2 :][:2]
    for in_pieces in (True, False):
        one = Asked(model, asked, stops=(stop,), in_pieces=in_pieces)
        other, batch = Asked(model, asked), batch_of(model)
        while other.job.finish_reason is None:
            advance(batch, [one.job, other.job])
        assert "".join(one.pieces) == text[: text.index(stop)].rstrip()
        assert (one.job.finish_reason, len(one.job.token_ids) < len(ids)) == ("stop", True)
        assert other.said == (ids, text, "length")


def test_a_request_that_is_cancelled_leaves_at_once(model: LoadedModel) -> None:
    batch = batch_of(model)
    gone, stays = Asked(model, prompt(model, pictures=1)), Asked(model, prompt(model, seed=1))
    for _ in range(3):
        advance(batch, [gone.job, stays.job])
    gone.job.cancelled.set()
    advance(batch, [gone.job, stays.job])
    assert (gone.job.finish_reason, len(gone.job.token_ids), gone.ends) == ("cancelled", 4, 1)
    assert batch._jobs == [stays.job]
    while stays.job.finish_reason is None:
        advance(batch, [stays.job])
    assert stays.said == alone(model, prompt(model, seed=1))


def test_what_fails_in_one_row_fails_that_row_alone(model: LoadedModel) -> None:
    right = prompt(model, pictures=1, seed=1)
    two_pictures = Prompt(right.ids, right.pixels * 2)
    batch = batch_of(model)

    def fall(_piece: str) -> None:
        raise ValueError

    bad = [Asked(model, one) for one in (Prompt([10**6], ()), two_pictures)]
    bad += [Asked(model, right, on_text=fall), Asked(model, right, temperature=1e-320)]  # no number is left
    good = [Asked(model, right), Asked(model, prompt(model, length=20))]
    order = [bad[0], good[0], bad[1], good[1], *bad[2:]]
    while any(one.job.finish_reason is None for one in order):
        advance(batch, [one.job for one in order])
    assert [one.job.finish_reason for one in bad] == ["error"] * 4
    assert all(one.job.error is not None and one.ends == 1 for one in bad)
    assert [one.said for one in good] == [alone(model, right), alone(model, prompt(model, length=20))]


def test_prompts_of_about_the_same_length_are_read_together_and_not_too_many_at_once() -> None:
    jobs = [Job(Prompt([1] * length, ()), max_tokens=1) for length in (10, 100, 12, 120, 13, 3000, 2000, 5)]
    assert [[len(job.ids) for job in group] for group in groups(jobs)] == [[10, 12], [13], [100, 120], [3000]]
    assert groups([]) == []
    one = Job(Prompt([1] * (JOIN_TOKENS + 1), ()), max_tokens=1)
    assert groups([one, *jobs]) == [[one]]


def test_rounds_give_the_same_answers_and_end_for_those_who_wait(model: LoadedModel) -> None:
    waiting = [0]
    ends = end_tokens(model.llava, model.processor)
    rounds = Rounds(model.llava, pad=0, ends=ends, num_waiting=lambda: waiting[0])
    prompts = [prompt(model, seed=number, **form) for number, (form, _) in enumerate(REQUESTS)]
    asked = [Asked(model, one, **how) for one, (_, how) in zip(prompts, REQUESTS, strict=True)]
    waiting[0] = 1
    advance(rounds, [asked[0].job])
    assert len(asked[0].job.token_ids) == 16
    waiting[0] = 0
    advance(rounds, [one.job for one in asked])
    assert [one.said for one in asked] == [
        alone(model, one, **how) for one, (_, how) in zip(prompts, REQUESTS, strict=True)
    ]
