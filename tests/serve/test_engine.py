"""The engine's thread: too little memory, models that fail, errands, a queue that is full, and the end."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig

from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.serve.batch import ContinuousBatch
from croc_cli.serve.engine import Engine, QueueFullError
from croc_cli.serve.job import Job, draw
from croc_cli.serve.prompt import Prompt
from croc_cli.serve.rounds import Rounds, is_time_to_join
from croc_cli.serve.rows import Rows


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_for_inference(folder)


@pytest.fixture
def engine(model: LoadedModel) -> Iterator[Engine]:
    one = Engine(model, max_batch=4, max_queue=8)
    yield one
    one.close()


class Request:
    """A request to an engine."""

    def __init__(self, engine: Engine, seed: int = 0, max_tokens: int = 12, **settings: Any) -> None:
        self._ended = threading.Event()
        ids = torch.randint(10, 300, (8,), generator=torch.Generator().manual_seed(seed)).tolist()
        self.job = Job(Prompt(ids, ()), max_tokens=max_tokens, on_end=self._ended.set, **settings)
        engine.submit(self.job)

    def wait(self) -> list[int]:
        self._ended.wait()
        return self.job.token_ids


def test_too_little_memory_halves_what_is_answered_at_once_and_loses_no_answer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [Request(engine, seed).wait() for seed in range(4)]
    step = Rows.step

    def small(rows: Rows, tokens: list[int]) -> torch.Tensor:
        if len(tokens) > 2:
            raise torch.OutOfMemoryError
        return step(rows, tokens)

    monkeypatch.setattr(Rows, "step", small)
    assert [one.wait() for one in [Request(engine, seed) for seed in range(4)]] == expected
    assert engine.max_batch == 2
    monkeypatch.setattr(Rows, "step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    assert len(Request(engine).wait()) == 1
    monkeypatch.setattr(Rows, "step", step)
    assert Request(engine).wait() == expected[0]


def test_a_model_that_fails_fails_those_it_answers_and_answers_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Rows, "step", lambda *_: 1 / 0)
        failed = Request(engine)
        failed.wait()
    assert failed.job.finish_reason == "error"
    assert isinstance(failed.job.error, ZeroDivisionError)
    assert len(Request(engine).wait()) == 12


def test_an_errand_is_run_between_two_tokens_and_its_error_is_raised(engine: Engine, model: LoadedModel) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait_once(_piece: str) -> None:
        begun.set()
        go_on.wait()

    request = Request(engine, max_tokens=200, on_text=wait_once)
    begun.wait()
    threading.Timer(0.1, go_on.set).start()
    seen = engine.exclusively(lambda given: (given is model, len(request.job.token_ids)))
    assert seen[0]
    assert 0 < seen[1] < 200
    with pytest.raises(ZeroDivisionError):
        engine.exclusively(lambda _: 1 / 0)
    assert len(request.wait()) == 200


def test_a_closed_engine_ends_what_it_answers_and_takes_nothing(model: LoadedModel) -> None:
    engine = Engine(model, max_batch=1, max_queue=1)
    asked = [Request(engine, max_tokens=400)]
    while engine.load() != (1, 0):
        pass
    asked.append(Request(engine))
    with pytest.raises(QueueFullError):
        Request(engine)
    engine.close()
    for one in asked:
        one.wait()
        assert one.job.finish_reason == "cancelled"
    for refused in (lambda: Request(engine), lambda: engine.exclusively(id)):
        with pytest.raises(QueueFullError):
            refused()


def test_a_model_whose_cache_forgets_is_answered_in_rounds_and_the_log_says_so(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(model, max_batch=2, max_queue=2)
    assert isinstance(engine._batch, ContinuousBatch)
    engine.close()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(model.llava.config, "text_config", MistralConfig(sliding_window=8, num_hidden_layers=2))
    engine = Engine(model, max_batch=2, max_queue=2)
    engine.close()
    assert isinstance(engine._batch, Rounds)
    said = " ".join(capsys.readouterr().err.split())
    assert said == (
        "note: requests join this model's answers after 16 tokens or more, as its cache has a DynamicSlidingWindowLayer"
    )
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    monkeypatch.setattr(model.llava.config, "text_config", MistralConfig(rope_parameters=rope, num_hidden_layers=2))
    engine = Engine(model, max_batch=2, max_queue=2)
    engine.close()
    assert engine.max_batch == 1
    assert "answers one at a time" in " ".join(capsys.readouterr().err.split())


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
