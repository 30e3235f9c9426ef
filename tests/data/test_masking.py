import numpy as np
import pytest

from croc_cli.data.masking import Masking, draw_masked_positions


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


def masked_at(masking: Masking, **changes: object) -> np.ndarray:
    arguments = {"seed": 0, "step": 0, "sample_id": "a", "image_index": 0, **changes}
    return masking.draw(576, **arguments)  # type: ignore[arg-type]


def test_a_constant_ratio_masks_what_it_did_before_there_were_other_settings() -> None:
    masked = Masking(0.25).draw(16, seed=7, step=120, sample_id="000123#5", image_index=1)
    assert np.flatnonzero(masked).tolist() == [1, 2, 7, 8]


def test_the_cosine_schedule_goes_from_start_to_ratio_and_masks_at_least_one() -> None:
    masking = Masking(0.75, schedule="cosine", start=0.0, num_steps=101)
    counts = [int(masked_at(masking, step=step).sum()) for step in (0, 50, 100, 500)]
    assert counts == [1, 216, 432, 432]
    assert masked_at(masking.at_the_end(), step=0).sum() == 432
    assert masked_at(Masking(0.25, schedule="cosine", start=0.75, num_steps=1)).sum() == 432


def test_each_sample_draws_its_own_ratio_for_all_its_images() -> None:
    masking = Masking(0.75, range=(0.25, 0.5))
    counts = [int(masked_at(masking, sample_id=str(number)).sum()) for number in range(400)]
    assert min(counts) >= 144
    assert max(counts) <= 288
    assert np.mean(counts) == pytest.approx(216, abs=6)
    assert masked_at(masking, image_index=1).sum() == masked_at(masking).sum()
    assert (masked_at(masking, image_index=1) != masked_at(masking)).any()
    assert masked_at(Masking(0.75, range=(0.0, 0.001))).sum() == 1


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.4, 0.75, 0.97, 1.0])
def test_blocks_mask_exactly_the_asked_number(ratio: float) -> None:
    for sample in range(20):
        assert masked_at(Masking(ratio, shape="block"), sample_id=str(sample)).sum() == round(ratio * 576)


def test_one_block_is_a_rectangle_of_the_asked_sizes() -> None:
    masking = Masking(1 / 9, shape="block", block_scale=(1 / 9, 1 / 9), block_aspect=(4.0, 4.0))
    masked = masked_at(masking).reshape(24, 24)
    assert masked.any(axis=1).sum() == 16
    assert masked.any(axis=0).sum() == 4
    assert masked.sum() == 64


def test_blocks_leave_fewer_borders_than_single_positions() -> None:
    def borders(shape: str) -> float:
        grids = [masked_at(Masking(0.5, shape=shape), step=step).reshape(24, 24) for step in range(20)]
        return float(np.mean([(grid[1:] != grid[:-1]).sum() + (grid[:, 1:] != grid[:, :-1]).sum() for grid in grids]))

    assert borders("block") < 0.35 * borders("random")


@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}, {"sample_id": "b"}, {"image_index": 1}])
def test_blocks_depend_on_each_argument_of_the_draw(change: dict[str, object]) -> None:
    masking = Masking(0.5, shape="block")
    assert (masked_at(masking) == masked_at(masking)).all()
    assert (masked_at(masking, **change) != masked_at(masking)).any()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="shape is 'x', expected random or block"):
        masked_at(Masking(0.5, shape="x"))
    with pytest.raises(ValueError, match="blocks need a square of visual tokens, and 6 are none"):
        Masking(0.5, shape="block").draw(6, seed=0, step=0, sample_id="", image_index=0)
