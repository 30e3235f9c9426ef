"""Scenes of a few coloured shapes, each a pure function of (seed, split, index).

Every scene holds 3 or 4 objects. No two share a shape, a colour or a place, so "the star" and "the shape at the top
left" always mean one object. Some (shape, colour) pairs are held out: they appear in the test split only, and each test
scene has at least one of them, so an answer about a test scene cannot be remembered from training.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SIZES = ("small", "large")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
PLACES = tuple((row, column) for row in ROWS for column in COLUMNS)

HELD_OUT_PAIRS = frozenset(
    {
        ("circle", "blue"),
        ("square", "yellow"),
        ("triangle", "black"),
        ("star", "green"),
        ("cross", "red"),
        ("ring", "purple"),
    }
)
"""(shape, colour) pairs that no picture shows and no question names before the test; each value once."""

SPLITS = ("pretrain", "train", "test", "words")
"""pretrain: the nano vision tower; train: the three stages; test: evaluation only; words: the nano LLM, which sees no
picture, and has read of every pair as any LLM has read of green stars."""

IMAGE_SIZE = 72
"""Width and height of a picture, in pixels."""
PATCH_SIZE = 12
"""Width and height of a patch of the nano vision tower, in pixels."""

_CELL_SIZE = IMAGE_SIZE // 3
_RADII = {"small": (5.0, 6.0), "large": (8.0, 9.5)}
_PATCH_MARGIN = 1.5  # pixels: a centre nearer to a patch border than this could be told to lie in either patch
_GAP = 1.0  # pixels between the circles around two objects


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene.

    Attributes:
        shape: One of SHAPES.
        colour: One of COLOURS.
        size: One of SIZES.
        row: One of ROWS.
        column: One of COLUMNS.
        x: Centre from the left, in pixels.
        y: Centre from the top, in pixels.
        radius: Half the extent, in pixels.
        angle: Rotation, in degrees.
    """

    shape: str
    colour: str
    size: str
    row: str
    column: str
    x: float
    y: float
    radius: float
    angle: float

    @property
    def place(self) -> str:
        """The place in words, such as "top left"."""
        return f"{self.row} {self.column}"

    @property
    def patch(self) -> int:
        """Index of the patch that holds the centre, row by row over the picture."""
        return int(self.y // PATCH_SIZE) * (IMAGE_SIZE // PATCH_SIZE) + int(self.x // PATCH_SIZE)


@dataclass(frozen=True)
class Scene:
    """A drawn picture's content.

    Attributes:
        name: Unique within all splits and seeds; doubles as the picture's file name.
        objects: In reading order: rows from top to bottom, each from left to right.
        texture_seed: What the drawing's colour variation and grain are drawn from.
    """

    name: str
    objects: tuple[SceneObject, ...]
    texture_seed: int


def scene_generator(seed: int, split: str, index: int, *, purpose: int = 0) -> np.random.Generator:
    """Return the random generator that belongs to one scene.

    Args:
        seed: Seed of the data set, at least 0.
        split: One of SPLITS.
        index: Position in the split, from 0.
        purpose: Keeps the draws for the scene (0) apart from those for the words about it (1, 2, ...).

    Raises:
        ValueError: The split is not one of SPLITS.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    return np.random.default_rng([seed, SPLITS.index(split), index, purpose])


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """Return the scene that belongs to (seed, split, index); the same arguments always give the same scene."""
    rng = scene_generator(seed, split, index)
    num_objects = int(rng.integers(3, 5))
    pairs = _sample_pairs(rng, num_objects, split)
    # The number of large objects is uniform, so that counts of a size are as often 1 as 3.
    num_large = int(rng.integers(0, num_objects + 1))
    sizes = rng.permutation(["large"] * num_large + ["small"] * (num_objects - num_large))
    while True:
        cells = sorted(int(cell) for cell in rng.choice(len(PLACES), size=num_objects, replace=False))
        objects = [
            _place_object(rng, shape, colour, str(size), cell)
            for (shape, colour), size, cell in zip(pairs, sizes, cells, strict=True)
        ]
        if not _any_touch(objects):
            break
    return Scene(f"scene-{split}-{seed}-{index:06d}.png", tuple(objects), int(rng.integers(2**31)))


def _sample_pairs(rng: np.random.Generator, num_objects: int, split: str) -> list[tuple[str, str]]:
    """Draw distinct shapes with distinct colours: none held out before the test, at least one in it, any in words."""
    while True:
        shapes = rng.permutation(SHAPES)[:num_objects]
        colours = rng.permutation(COLOURS)[:num_objects]
        pairs = [(str(shape), str(colour)) for shape, colour in zip(shapes, colours, strict=True)]
        if split == "words" or any(pair in HELD_OUT_PAIRS for pair in pairs) == (split == "test"):
            return pairs


def _place_object(rng: np.random.Generator, shape: str, colour: str, size: str, cell: int) -> SceneObject:
    """Put an object into a cell of the 3 by 3 grid, its centre well inside one patch."""
    row, column = PLACES[cell]
    radius = float(rng.uniform(*_RADII[size]))
    x, y = (_sample_coordinate(rng, index * _CELL_SIZE, radius) for index in (COLUMNS.index(column), ROWS.index(row)))
    return SceneObject(shape, colour, size, row, column, x, y, radius, float(rng.uniform(-12.0, 12.0)))


def _sample_coordinate(rng: np.random.Generator, start: int, radius: float) -> float:
    """Draw a centre along one axis in the cell that begins at `start`, the whole object inside the picture."""
    patch_start = start + PATCH_SIZE * int(rng.integers(_CELL_SIZE // PATCH_SIZE))
    low = max(patch_start + _PATCH_MARGIN, radius + 0.5)
    high = min(patch_start + PATCH_SIZE - _PATCH_MARGIN, IMAGE_SIZE - radius - 0.5)
    return float(rng.uniform(low, high))


def _any_touch(objects: list[SceneObject]) -> bool:
    return any(
        hypot(one.x - other.x, one.y - other.y) < one.radius + other.radius + _GAP
        for position, one in enumerate(objects)
        for other in objects[:position]
    )
