"""Reads a picture file as RGB, by the same rules in training, evaluation, chat, checks and figures.

The rules, where a file leaves more than one reading:

- Formats: those of PICTURE_FORMATS, told by content and never by name. No other decoder of PIL is started.
- Orientation: the tag in EXIF or XMP is applied, as `transformers.image_utils.load_image` and so a server does.
- Transparency: the picture is laid on white. (A server that drops alpha shows what lies under it instead.)
- Several frames: the first.
- Palettes, grey, CMYK, YCbCr, LAB: as PIL converts them to RGB. Colour profiles are not applied.
- Grey of more than 8 bits: scaled by its own white, 65,535 for 16 bits. Where zero is white, it is turned round.
- Grey of 32 bits: taken as 8 bits where nothing is above 255, else as 16 bits; other values are refused.
- Floating point: 0 to 1 is scaled, up to 255 is taken as it is; other values, NaN and infinity are refused.

The reading `llava` is LLaVA's own instead, `Image.open(file).convert("RGB")`: no orientation, alpha dropped, grey of 16
bits cut at 255.
"""

import warnings
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

ImageReading = Literal["upright", "llava"]
"""`upright` applies orientation and lays transparency on white; `llava` does neither."""

PICTURE_FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "JPEG": ("jpg", "jpeg", "jfif", "jpe"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2", "j2k"),
    "AVIF": ("avif",),
}
"""PIL's names of the formats that are read, and the endings of their files."""
MAX_PIXELS: Final = 178_956_970
"""Where PIL itself refuses an image as a decompression bomb (twice the size it warns at)."""

_WHITE_IS_ZERO = 0
_PHOTOMETRIC, _BITS_PER_SAMPLE, _ORIENTATION = 262, 258, 274
"""Tags of TIFF, which EXIF shares."""


class PictureValuesError(ValueError):
    """A picture of numbers for which nobody can say which is white."""


def open_picture(file: BinaryIO, *, max_pixels: int = MAX_PIXELS) -> "Image":
    """Open a picture of one of the formats that are read; nothing is decoded yet.

    Raises:
        UnidentifiedImageError: It is none of them.
        ValueError: It has more pixels than `max_pixels`.
    """
    from PIL import Image

    image = Image.open(file, formats=tuple(PICTURE_FORMATS))
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width} × {image.height} pixels, more than {max_pixels}")
    return image


def read_picture(file: BinaryIO, *, max_pixels: int = MAX_PIXELS, reading: ImageReading = "upright") -> "Image":
    """Decode a picture as RGB by the rules of this module.

    Raises:
        PictureValuesError: Its numbers have no known white.
        Exception: PIL's decoders raise nearly anything on damaged files.
    """
    image = open_picture(file, max_pixels=max_pixels)
    image.load()
    if reading == "llava":
        return image if image.mode == "RGB" else image.convert("RGB")
    return turned(to_rgb(image), orientation(image))


def to_rgb(image: "Image") -> "Image":
    """Return a decoded picture as RGB, on white where it is transparent; its orientation stays as it is.

    Raises:
        PictureValuesError: Its numbers have no known white.
    """
    from PIL import Image

    if image.mode.startswith("I"):
        image = _from_integers(image)
    elif image.mode == "F":
        image = _from_floats(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    whole = image.convert("RGBA")
    alpha = whole.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return whole.convert("RGB")
    canvas = Image.new("RGB", whole.size, "white")
    canvas.paste(whole, mask=alpha)
    return canvas


def is_transparent(image: "Image") -> bool:
    """Tell whether white shows through a decoded picture anywhere."""
    if not image.has_transparency_data:
        return False
    if image.mode.startswith("I"):
        import numpy as np

        return bool((np.asarray(image) == image.info["transparency"]).any())
    return image.convert("RGBA").getchannel("A").getextrema() != (255, 255)


def orientation(image: "Image") -> int:
    """Return the orientation tag, 1 to 8; 1 where there is none that can be read."""
    from PIL import Image

    try:
        # Of the base class: PNG's own would decode the whole picture to look for a tag behind it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # a damaged tag is no reason to lose the picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turned(image: "Image", tag: int) -> "Image":
    """Return a picture turned and mirrored upright, as its orientation tag says."""
    from PIL.Image import Transpose

    if tag == 1:
        return image
    return image.transpose(
        (
            Transpose.FLIP_LEFT_RIGHT,
            Transpose.ROTATE_180,
            Transpose.FLIP_TOP_BOTTOM,
            Transpose.TRANSPOSE,
            Transpose.ROTATE_270,
            Transpose.TRANSVERSE,
            Transpose.ROTATE_90,
        )[tag - 2]
    )


def upright_size(image: "Image") -> tuple[int, int]:
    """Return (width, height) in pixels of an opened picture as it is shown; reads no more than its header."""
    is_on_its_side = orientation(image) >= 5 and image.format != "TIFF"  # PIL tells a TIFF's size upright
    return (image.height, image.width) if is_on_its_side else image.size


def _from_integers(image: "Image") -> "Image":
    """Return grey of 16 or 32 bits as 8 bits; PIL itself would cut it at 255, so nearly all of it would be white."""
    import numpy as np
    from PIL import Image

    levels = np.asarray(image).astype(np.int64)
    low, high = int(levels.min()), int(levels.max())
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        white = (1 << bits) - 1 if 8 < bits < 16 else 65535
    else:
        white = 255 if high <= 255 and image.format != "PPM" else 65535  # PIL scales a PGM to 16 bits
    if low < 0 or high > white:
        raise PictureValuesError(f"grey values from {low} to {high}: expected 8 or 16 bits")
    grey = levels // (white // 255) if white % 255 == 0 else levels * 255 // white
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if isinstance(clear := image.info.get("transparency"), int):
        grey[levels == clear] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _from_floats(image: "Image") -> "Image":
    import numpy as np
    from PIL import Image

    levels = np.asarray(image)
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= 255):  # NaN is in no order
        raise PictureValuesError(f"floating-point values from {low:g} to {high:g}: expected 0 to 1, or 0 to 255")
    grey = levels * 255 if high <= 1 else levels
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray((grey + 0.5).astype(np.uint8))
