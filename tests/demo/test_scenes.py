"""Scenes: determined by their arguments, unambiguous, and held-out pairs in the test split only."""

from itertools import combinations
from math import hypot

import pytest

from croc_cli.demo.scenes import COLOURS, HELD_OUT_PAIRS, IMAGE_SIZE, SHAPES, Scene, sample_scene


def _pairs(scene: Scene) -> set[tuple[str, str]]:
    return {(item.shape, item.colour) for item in scene.objects}


def test_the_same_arguments_give_the_same_scene_and_others_another() -> None:
    assert sample_scene(3, "train", 7) == sample_scene(3, "train", 7)
    assert len({sample_scene(seed, split, 7) for seed in (0, 1) for split in ("pretrain", "train", "test")}) == 6


def test_shapes_colours_and_places_of_a_scene_are_distinct() -> None:
    for index in range(200):
        objects = sample_scene(0, "test", index).objects
        assert len(objects) in (3, 4)
        for values in zip(*[(item.shape, item.colour, item.place, item.patch) for item in objects], strict=True):
            assert len(set(values)) == len(objects)


def test_every_object_lies_inside_the_picture_and_touches_no_other() -> None:
    for index in range(200):
        objects = sample_scene(0, "train", index).objects
        for item in objects:
            assert item.radius <= min(item.x, item.y, IMAGE_SIZE - item.x, IMAGE_SIZE - item.y)
        for one, other in combinations(objects, 2):
            assert hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius


def test_objects_come_in_reading_order() -> None:
    rows = {"top": 0, "middle": 1, "bottom": 2}
    for index in range(100):
        order = [rows[item.row] for item in sample_scene(0, "train", index).objects]
        assert order == sorted(order)


def test_held_out_pairs_never_appear_outside_the_test_split_and_always_inside_it() -> None:
    for index in range(500):
        assert not _pairs(sample_scene(0, "pretrain", index)) & HELD_OUT_PAIRS
        assert not _pairs(sample_scene(0, "train", index)) & HELD_OUT_PAIRS
        assert _pairs(sample_scene(0, "test", index)) & HELD_OUT_PAIRS


def test_every_shape_and_every_colour_is_held_out_once() -> None:
    assert sorted(shape for shape, _ in HELD_OUT_PAIRS) == sorted(SHAPES)
    assert sorted(colour for _, colour in HELD_OUT_PAIRS) == sorted(COLOURS)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split 'valid' is not one of pretrain, train, test"):
        sample_scene(0, "valid", 0)
