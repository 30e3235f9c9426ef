import torch

from croc_cli.train.calibration import num_calibration_images, sample_visual_tokens


def test_each_image_gives_an_eighth_of_its_tokens_without_repetition() -> None:
    images = [torch.arange(16.0)[:, None] + 100 * index for index in range(3)]
    drawn = sample_visual_tokens(images, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (6, 1)
    assert len(drawn.unique()) == 6
    assert [(drawn // 100 == index).sum().item() for index in range(3)] == [2, 2, 2]


def test_enough_images_are_looked_at_for_every_pool_token() -> None:
    assert num_calibration_images(2048, 576) * (576 // 8) >= 2048
    assert num_calibration_images(128, 36) * (36 // 8) >= 128
