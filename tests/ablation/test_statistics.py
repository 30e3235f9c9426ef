import pytest

from croc_cli.ablation.statistics import Mean, mean_over_seeds, paired_difference, verdict


def test_three_seeds_have_students_interval() -> None:
    mean = mean_over_seeds([1.0, 2.0, 3.0])
    assert mean.value == 2.0
    assert mean.half == pytest.approx(4.303 * (1 / 3) ** 0.5)  # spread 1, divided by the root of three
    assert mean.num_seeds == 3


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    assert mean_over_seeds([0.5]) == Mean(0.5, None, 1)
    assert verdict(Mean(0.5, None, 1)) == "open"


def test_many_seeds_use_the_normal_quantile() -> None:
    assert mean_over_seeds([0.0, 1.0] * 20).half == pytest.approx(1.96 * (40 * 0.25 / 39 / 40) ** 0.5)


def test_differences_are_taken_seed_by_seed_over_seeds_that_both_have() -> None:
    difference = paired_difference({0: 0.9, 1: 0.5, 7: 0.1}, {0: 0.8, 1: 0.4, 2: 0.0})
    assert difference is not None
    assert difference.value == pytest.approx(0.1)
    assert difference.half == pytest.approx(0.0, abs=1e-9)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("value", "half", "expected"), [(2.0, 1.0, "same"), (-2.0, 1.0, "other"), (0.9, 1.0, "open"), (0.0, 0.0, "open")]
)
def test_only_an_interval_clear_of_zero_decides(value: float, half: float, expected: str) -> None:
    assert verdict(Mean(value, half, 3)) == expected
