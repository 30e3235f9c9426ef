"""Where images and trained tokens lie, written out."""

import pytest
import torch

from croc_cli.data.places import find_places

IDS = torch.tensor([[1, 9, 9, 5, 0], [9, 9, 9, 9, 6]])
LABELS = torch.tensor([[-100, -100, -100, 5, -100], [-100, -100, -100, -100, 6]])


def test_places_are_counted_through_the_rows() -> None:
    places = find_places(IDS, LABELS, torch.tensor([1, -1, 0, 1]), image_token_id=9, num_visual_tokens=2)
    assert places.images.tolist() == [2, 0, 3]
    assert places.visual.tolist() == [1, 2, 5, 6, 7, 8]
    assert places.before_labels.tolist() == [2, 8]
    assert places.labels.tolist() == [5, 6]


def test_a_first_token_of_a_row_is_never_predicted_and_one_position_stands_in_for_none() -> None:
    labels = torch.full_like(LABELS, -100)
    labels[:, 0] = 7
    places = find_places(IDS, labels, torch.tensor([1, 0, 1]), image_token_id=9, num_visual_tokens=2)
    assert places.before_labels.tolist() == [0]
    assert places.labels.tolist() == [-100]


def test_image_tokens_without_an_image_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"rows hold \[2, 4\] image tokens, expected \[2, 2\]: 2 for each image"):
        find_places(IDS, LABELS, torch.tensor([0, 1]), image_token_id=9, num_visual_tokens=2)
