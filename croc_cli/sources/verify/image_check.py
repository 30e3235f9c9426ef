"""Decodes one image in full and says what is wrong with it; runs in worker processes."""

import hashlib
import io
import sys
import warnings
from dataclasses import dataclass
from typing import Any, Final

from croc_cli.errors import first_line
from croc_cli.files import open_file, read_bytes, tar_of
from croc_cli.pictures import (
    MAX_PIXELS,
    PICTURE_FORMATS,
    PictureValuesError,
    is_transparent,
    open_picture,
    orientation,
    to_rgb,
    turned,
)
from croc_cli.sources.read.rows import DefectKind

MAX_ASPECT_RATIO: Final = 200
"""Longer side by shorter side; the `square` aspect enlarges both sides until the shorter one fits the tower."""
MIN_SIDE: Final = 10
"""Pixels below which a side shows nothing."""
WIDE_ASPECT_RATIO: Final = 20
LEAST_RISE: Final = 4
"""Grey levels, of 255, that count as a rise of brightness in a perceptual hash."""
PERCEPTUAL_SIDE: Final = 8
"""A perceptual hash has this number of rows and columns of bits."""

IMAGE_DEFECTS: Final[dict[str, DefectKind]] = {
    "image-missing": DefectKind("error", "an image that is not there"),
    "image-empty": DefectKind("error", "an image of zero bytes", "fetch it again"),
    "image-unreadable": DefectKind("error", "an image that cannot be decoded in full", "fetch it again"),
    "image-not-image": DefectKind(
        "error",
        "a file that is not an image of a format that croc reads",
        f"croc reads {', '.join(PICTURE_FORMATS)}; fetch a web page again, convert another format",
    ),
    "image-bomb": DefectKind("error", f"an image of more than {MAX_PIXELS:,} pixels"),
    "image-tiny": DefectKind("error", f"an image with a side below {MIN_SIDE} pixels"),
    "image-ribbon": DefectKind("error", f"an image with one side more than {MAX_ASPECT_RATIO} times the other"),
    "image-wide": DefectKind("warning", f"an image with one side more than {WIDE_ASPECT_RATIO} times the other"),
    "image-other-format": DefectKind(
        "warning", "an image of another format than its name says; croc reads it, strict JPEG decoders do not"
    ),
    "image-animated": DefectKind("warning", "an image of several frames; the first is taken"),
    "image-values": DefectKind(
        "error", "an image of numbers that have no known white", "save it as 8 or 16 bits, or as 0 to 1"
    ),
    "image-transparent": DefectKind("warning", "an image with transparency; it is laid on white"),
    "image-mode": DefectKind("warning", "an image in unusual colours (CMYK, 16 bit, palette); it becomes RGB"),
    "image-turned": DefectKind(
        "note",
        "an image that its orientation tag turns upright",
        "boxes that were drawn on it as it is stored need `data.image_reading: llava`",
    ),
}
_FORMATS = {suffix: name for name, suffixes in PICTURE_FORMATS.items() for suffix in suffixes}
_USUAL_MODES = ("RGB", "L", "RGBA", "1", "LA")


@dataclass(frozen=True)
class ImagePlace:
    """Where an image is.

    Args:
        name: Its path; for one in a tar, the tar's path and its own.
        offset: In the tar; −1 for a file.
        length: In the tar; 0 for a file.
        content: The image itself, where it lies in a table.
    """

    name: str
    offset: int = -1
    length: int = 0
    content: bytes | None = None

    @property
    def file(self) -> str:
        """The file to open."""
        return self.name if self.offset < 0 else tar_of(self.name)

    def read(self) -> bytes:
        """Return the image's bytes.

        Raises:
            OSError: There is no such file.
        """
        if self.content is not None:
            return self.content
        if self.offset < 0:
            return read_bytes(self.name)
        with open_file(self.file) as file:
            file.seek(self.offset)
            return file.read(self.length)


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image that was looked at.

    Args:
        name: Of its place.
        code: The worst thing that is wrong, a key of IMAGE_DEFECTS; empty where nothing is.
        detail: What exactly.
        width: In pixels; 0 where it cannot be decoded.
        height: In pixels.
        sha256: Of its bytes, in hexadecimal.
        perceptual: 64-bit hash that alike images share; −1 where it was not asked for.
    """

    name: str
    code: str = ""
    detail: str = ""
    width: int = 0
    height: int = 0
    sha256: str = ""
    perceptual: int = -1


def check_images(places: list[ImagePlace], *, perceptual: bool = False) -> list[ImageFacts]:
    """Look at several images; what a worker process is given."""
    return [check_image(place, perceptual=perceptual) for place in places]


def check_image(place: ImagePlace, *, perceptual: bool = False) -> ImageFacts:
    """Decode an image in full and return what is known of it."""
    try:
        content = place.read()
    except (OSError, ValueError) as error:
        return ImageFacts(place.name, "image-missing", getattr(error, "strerror", None) or str(error))
    sha256 = hashlib.sha256(content).hexdigest()
    if not content:
        return ImageFacts(place.name, "image-empty", sha256=sha256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's own, on sizes that are checked here
        return _look_at(place.name, content, sha256, perceptual=perceptual)


def _look_at(name: str, content: bytes, sha256: str, *, perceptual: bool) -> ImageFacts:
    from PIL import Image, UnidentifiedImageError

    size = (0, 0)
    try:
        image = open_picture(io.BytesIO(content), max_pixels=sys.maxsize)
        size = image.size
        if image.width * image.height > MAX_PIXELS:
            return ImageFacts(name, "image-bomb", f"{image.width} × {image.height}", *size, sha256)
        frames = getattr(image, "n_frames", 1)
        image.load()
        tag = orientation(image)
        shown = turned(to_rgb(image), tag)
    except UnidentifiedImageError:
        return ImageFacts(name, "image-not-image", repr(content[:16]), sha256=sha256)
    except Image.DecompressionBombError as error:
        return ImageFacts(name, "image-bomb", first_line(error), sha256=sha256)
    except PictureValuesError as error:
        return ImageFacts(name, "image-values", str(error), *size, sha256)
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        return ImageFacts(name, "image-unreadable", first_line(error), sha256=sha256)
    code, detail = _judge(name, image, frames, tag)
    alike = perceptual_hash(shown) if perceptual else -1
    return ImageFacts(name, code, detail, *shown.size, sha256, alike)


def _judge(name: str, image: Any, frames: int, tag: int) -> tuple[str, str]:
    """Return the worst thing about a decoded image."""
    size = f"{image.width} × {image.height}"
    long, short = max(image.size), min(image.size)
    if short < MIN_SIDE:
        return "image-tiny", size
    if long > MAX_ASPECT_RATIO * short:
        return "image-ribbon", size
    if long > WIDE_ASPECT_RATIO * short:
        return "image-wide", size
    ending = name.rpartition(".")[2]
    expected = _FORMATS.get(ending.lower())
    if expected is not None and image.format != expected and not (expected == "JPEG" and image.format == "MPO"):
        return "image-other-format", f"{image.format} in .{ending}"
    if frames > 1 and image.format != "MPO":
        return "image-animated", f"{frames} frames"
    if is_transparent(image):
        return "image-transparent", str(image.mode)
    if image.mode not in _USUAL_MODES:
        return "image-mode", str(image.mode)
    return ("image-turned", f"orientation {tag}") if tag != 1 else ("", "")


def perceptual_hash(image: Any) -> int:
    """Return 64 bits of whether brightness rises from each cell of an 8 × 9 grid to the next (difference hash).

    A rise must be seen: in even areas the noise of compression decides nothing.
    """
    from PIL import Image

    grey = image.convert("L").resize((PERCEPTUAL_SIDE + 1, PERCEPTUAL_SIDE), Image.Resampling.BOX)
    cells = list(grey.tobytes())
    bits = 0
    for row in range(PERCEPTUAL_SIDE):
        for column in range(PERCEPTUAL_SIDE):
            place = row * (PERCEPTUAL_SIDE + 1) + column
            bits = bits << 1 | (cells[place + 1] > cells[place] + LEAST_RISE)
    return bits if bits < 1 << 63 else bits - (1 << 64)
