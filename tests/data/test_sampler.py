import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from croc_cli.data.sampler import StepSampler


def make(num_samples: int = 37, *, rank: int = 0, num_ranks: int = 1, **changes: Any) -> StepSampler:
    settings = {"global_size": 8, "micro_size": 2, "seed": 3, "epochs": 1.0, "max_steps": None, **changes}
    return StepSampler(num_samples, rank=rank, num_ranks=num_ranks, **settings)


def length_hint(sample: int) -> int:
    return (sample * 7919) % 13


def step_samples(step: int, *, num_ranks: int, **changes: Any) -> Counter[int]:
    return Counter(
        sample
        for rank in range(num_ranks)
        for micro in make(rank=rank, num_ranks=num_ranks, **changes).micro_batches(step, length_hint)
        for sample in micro
        if sample is not None
    )


@pytest.mark.parametrize("epochs", [0.4, 1.0, 2.5])
def test_a_steps_samples_do_not_depend_on_the_number_of_ranks(epochs: float) -> None:
    for step in range(make(epochs=epochs).num_steps):
        one, two, four = (step_samples(step, num_ranks=ranks, epochs=epochs) for ranks in (1, 2, 4))
        assert one == two == four


def test_every_sample_comes_once_an_epoch() -> None:
    sampler = make(epochs=3.0)
    drawn = [sample for step in range(sampler.num_steps) for sample in sampler.global_batch(step)]
    assert len(drawn) == 3 * 37
    epochs = [drawn[start : start + 37] for start in (0, 37, 74)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(1.0, None, 5), (0.5, None, 3), (2.0, None, 10), (9.0, 4, 4), (1.0, 7, 7)]
)
def test_the_number_of_steps_follows_from_epochs_and_max_steps(
    epochs: float, max_steps: int | None, steps: int
) -> None:
    sampler = make(epochs=epochs, max_steps=max_steps)
    assert sampler.num_steps == len(sampler) == steps
    with pytest.raises(IndexError, match=f"step {steps} is not one of {steps}"):
        sampler.global_batch(steps)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_only_the_last_step_is_filled_up_and_every_rank_gets_a_share(num_ranks: int) -> None:
    samplers = [make(rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    for step in range(5):
        dealt = [sampler.micro_batches(step, length_hint) for sampler in samplers]
        assert all([len(micro) for micro in micro_batches] == [2] * (4 // num_ranks) for micro_batches in dealt)
        shares = [sum(sample is not None for micro in micro_batches for sample in micro) for micro_batches in dealt]
        assert sum(shares) == (8 if step < 4 else 37 - 4 * 8)
        assert min(shares) >= 1


def test_a_step_is_the_same_whatever_was_asked_before() -> None:
    sampler = make(epochs=3.0)
    straight = [sampler.micro_batches(step, length_hint) for step in range(sampler.num_steps)]
    assert make(epochs=3.0).micro_batches(7, length_hint) == straight[7]
    assert sampler.micro_batches(0, length_hint) == straight[0]


def test_micro_batches_hold_alike_lengths() -> None:
    micro_batches = make(200, global_size=100, micro_size=10).micro_batches(0, length_hint)
    spans = [(min(map(length_hint, micro)), max(map(length_hint, micro))) for micro in micro_batches]  # type: ignore[arg-type]
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))


def test_the_order_stays_what_it_was_in_the_first_version() -> None:
    assert make(10).global_batch(0) == [9, 5, 8, 7, 3, 2, 4, 6]


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="global_size 8 is not a multiple of micro_size × ranks = 6"):
        make(num_ranks=3)
    with pytest.raises(ValueError, match="no samples"):
        make(0)


def grouped(images: list[bool], **changes: Any) -> StepSampler:
    settings: dict[str, Any] = {"global_size": 4, "micro_size": 2, "rank": 0, "num_ranks": 1, "seed": 3, "epochs": 3}
    return StepSampler(len(images), **{**settings, "shows_images": np.array(images), **changes})


def test_grouped_steps_hold_one_modality_but_for_one_an_epoch() -> None:
    images = [number % 5 != 0 for number in range(50)]  # 40 with images, 10 without: 10 steps, 2 steps, and 2 left over
    sampler = grouped(images)
    mixed = [step for step in range(len(sampler)) if len({images[n] for n in sampler.global_batch(step)}) > 1]
    assert len(mixed) <= 4
    kinds = [images[sampler.global_batch(step)[0]] for step in range(12)]
    assert kinds.count(False) == 2
    assert kinds != sorted(kinds)  # the modalities alternate at random


def test_grouping_takes_every_sample_once_an_epoch() -> None:
    sampler = grouped([number % 3 == 0 for number in range(22)])
    drawn = [sample for step in range(len(sampler)) for sample in sampler.global_batch(step)]
    for epoch in range(3):
        assert sorted(drawn[22 * epoch : 22 * (epoch + 1)]) == list(range(22))
    assert drawn[:22] != drawn[22:44]


def test_grouping_depends_on_the_seed_alone() -> None:
    images = [number % 3 == 0 for number in range(40)]
    assert grouped(images).global_batch(7) == grouped(images).global_batch(7)
    assert grouped(images, seed=4).global_batch(7) != grouped(images).global_batch(7)
