"""Pictures: determined by their scene, of the tower's size, each object in its colour at its place."""

import numpy as np

from croc_cli.demo.draw import draw_scene
from croc_cli.demo.scenes import IMAGE_SIZE, sample_scene


def test_a_scene_always_gives_the_same_pixels() -> None:
    scene = sample_scene(0, "train", 0)
    picture = draw_scene(scene)
    assert picture.mode == "RGB"
    assert picture.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert np.array_equal(np.asarray(picture), np.asarray(draw_scene(scene)))


def test_a_red_object_is_red_where_it_stands_and_the_ground_is_light() -> None:
    drawn = 0
    for index in range(40):
        scene = sample_scene(0, "train", index)
        pixels = np.asarray(draw_scene(scene)).astype(int)
        assert np.median(pixels) > 180
        for item in scene.objects:
            if item.colour == "red" and item.shape != "ring":
                red, green, blue = pixels[int(item.y), int(item.x)]
                assert red > green + 80
                assert red > blue + 80
                drawn += 1
    assert drawn > 5


def test_a_ring_is_open_in_the_middle() -> None:
    for index in range(40):
        scene = sample_scene(0, "train", index)
        for item in scene.objects:
            if item.shape == "ring" and item.size == "large":
                assert np.asarray(draw_scene(scene))[int(item.y), int(item.x)].min() > 150
