"""Draws a scene as a picture of 72 by 72 pixels."""

from __future__ import annotations

from math import cos, pi, radians, sin

import numpy as np
from PIL import Image, ImageDraw

from croc_cli.demo.scenes import IMAGE_SIZE, Scene, SceneObject

_RGB = {
    "red": (214, 40, 40),
    "green": (38, 160, 64),
    "blue": (40, 84, 214),
    "yellow": (238, 204, 32),
    "purple": (150, 50, 180),
    "black": (28, 28, 32),
}
_OVERSAMPLING = 4  # drawn larger and averaged down, because PIL draws without antialiasing
_COLOUR_JITTER = 14  # 8-bit steps either way per channel: visible, yet no colour comes near another
_GRAIN = 3.0  # standard deviation of the pixel noise, in 8-bit steps
_RING_HOLE = 0.55  # inner radius of a ring as a share of the outer
_CROSS_ARM = 0.36  # half the width of a cross's arm as a share of its radius
_STAR_INNER = 0.42  # inner radius of a star as a share of the outer


def draw_scene(scene: Scene) -> Image.Image:
    """Draw a scene; the same scene always gives the same pixels.

    Returns:
        RGB, IMAGE_SIZE by IMAGE_SIZE pixels.
    """
    rng = np.random.default_rng(scene.texture_seed)
    grey = rng.uniform(205, 240)
    background = _clip_colour(grey + rng.uniform(-8, 8, size=3))
    side = IMAGE_SIZE * _OVERSAMPLING
    canvas = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(canvas)
    for item in scene.objects:
        jitter = rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, size=3)
        _draw_object(pen, item, _clip_colour(np.asarray(_RGB[item.colour]) + jitter), background)
    pixels = np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.float64)
    pixels = pixels + rng.normal(0.0, _GRAIN, size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _clip_colour(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(values, 0, 255))
    return red, green, blue


def _draw_object(
    pen: ImageDraw.ImageDraw, item: SceneObject, fill: tuple[int, int, int], background: tuple[int, int, int]
) -> None:
    if item.shape in ("circle", "ring"):
        pen.ellipse(_box(item, item.radius), fill=fill)
        if item.shape == "ring":
            pen.ellipse(_box(item, item.radius * _RING_HOLE), fill=background)
    else:
        pen.polygon(_outline(item), fill=fill)


def _box(item: SceneObject, radius: float) -> tuple[float, float, float, float]:
    x, y, extent = (value * _OVERSAMPLING for value in (item.x, item.y, radius))
    return x - extent, y - extent, x + extent, y + extent


def _outline(item: SceneObject) -> list[tuple[float, float]]:
    """Return the corners of a polygon in canvas pixels, turned by the object's angle."""
    turn = radians(item.angle)
    corners = []
    for x, y in _UNIT_OUTLINES[item.shape]:
        turned = x * cos(turn) - y * sin(turn), x * sin(turn) + y * cos(turn)
        corners.append(
            ((item.x + turned[0] * item.radius) * _OVERSAMPLING, (item.y + turned[1] * item.radius) * _OVERSAMPLING)
        )
    return corners


def _regular(radii: list[float]) -> list[tuple[float, float]]:
    """Return corners at equal angles and the given distances, the first straight up."""
    step = 2 * pi / len(radii)
    return [(radius * sin(step * index), -radius * cos(step * index)) for index, radius in enumerate(radii)]


_UNIT_OUTLINES = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": _regular([1.05, 1.05, 1.05]),
    "star": _regular([1.05, _STAR_INNER] * 5),
    "cross": [
        (-_CROSS_ARM, -1.0),
        (_CROSS_ARM, -1.0),
        (_CROSS_ARM, -_CROSS_ARM),
        (1.0, -_CROSS_ARM),
        (1.0, _CROSS_ARM),
        (_CROSS_ARM, _CROSS_ARM),
        (_CROSS_ARM, 1.0),
        (-_CROSS_ARM, 1.0),
        (-_CROSS_ARM, _CROSS_ARM),
        (-1.0, _CROSS_ARM),
        (-1.0, -_CROSS_ARM),
        (-_CROSS_ARM, -_CROSS_ARM),
    ],
}
