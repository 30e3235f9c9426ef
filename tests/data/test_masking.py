import numpy as np
import pytest

from croc_cli.data.masking import draw_masked_positions


def draw(**changes: object) -> np.ndarray:
    arguments = {"seed": 0, "step": 0, "sample_id": "a", "image_index": 0, **changes}
    return draw_masked_positions(16, 12, **arguments)  # type: ignore[arg-type]


def test_the_draw_stays_what_it_was_in_the_first_version() -> None:
    masked = draw_masked_positions(16, 4, seed=7, step=120, sample_id="000123#5", image_index=1)
    assert np.flatnonzero(masked).tolist() == [1, 2, 7, 8]


def test_exactly_the_asked_number_is_masked() -> None:
    assert draw().sum() == 12
    assert draw_masked_positions(576, 432, seed=0, step=0, sample_id="", image_index=0).sum() == 432
    assert draw_masked_positions(5, 0, seed=0, step=0, sample_id="", image_index=0).sum() == 0
    assert draw_masked_positions(5, 5, seed=0, step=0, sample_id="", image_index=0).all()


@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}, {"sample_id": "b"}, {"image_index": 1}])
def test_the_draw_depends_on_each_of_its_arguments(change: dict[str, object]) -> None:
    assert (draw() == draw()).all()
    assert (draw(**change) != draw()).any()


def test_every_position_is_masked_equally_often() -> None:
    counts = np.sum([draw(step=step) for step in range(2000)], axis=0)
    assert np.abs(counts / 2000 - 0.75).max() < 0.05
