"""Opens images as RGB, and makes the stock processor that turns them into pixels for the vision tower.

What RGB is made of transparency, orientation tags, 16 bits and so on: see `croc_cli.pictures`.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from croc_cli.data.sample import ImageRef
from croc_cli.errors import first_line
from croc_cli.files import open_file, tar_of
from croc_cli.pictures import MAX_PIXELS, PICTURE_FORMATS, ImageReading, read_picture
from croc_cli.sources.verify.image_check import MAX_ASPECT_RATIO

if TYPE_CHECKING:
    import torch

    from croc_cli.recipe.schema import AspectName, ResamplingName

_PROCESSOR_KEYS = (
    "size",
    "crop_size",
    "resample",
    "rescale_factor",
    "image_mean",
    "image_std",
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
)


class BadImageError(ValueError):
    """An image that cannot be decoded.

    Args:
        name: Which one: a path, or how it was made.
        reason: What is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImageError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


@dataclass(frozen=True)
class PathImage:
    """An image file."""

    path: Path | str
    max_pixels: int = MAX_PIXELS
    reading: ImageReading = "upright"

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def open(self) -> Image.Image:
        """Decode the file as RGB."""
        with open_file(self.path) as file:
            return read_picture(file, max_pixels=self.max_pixels, reading=self.reading)


@dataclass(frozen=True)
class LazyImage:
    """An image file's content that is fetched when it is opened, such as a cell of a table."""

    name: str
    read: Callable[[], bytes]
    max_pixels: int = MAX_PIXELS
    reading: ImageReading = "upright"

    def open(self) -> Image.Image:
        """Decode the content as RGB."""
        return read_picture(io.BytesIO(self.read()), max_pixels=self.max_pixels, reading=self.reading)


@dataclass(frozen=True)
class TarImage:
    """An image that lies in a tar, uncompressed.

    Args:
        name: Path of the tar, and of the image in it.
        offset: Its first byte in the tar.
        length: Its bytes.
        max_pixels: Images with more are refused.
        reading: How it becomes RGB.
    """

    name: str
    offset: int
    length: int
    max_pixels: int = MAX_PIXELS
    reading: ImageReading = "upright"

    def open(self) -> Image.Image:
        """Decode the image as RGB."""
        return read_picture(io.BytesIO(self.read()), max_pixels=self.max_pixels, reading=self.reading)

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            OSError: The tar is missing or ends too early.
        """
        tar = tar_of(self.name)
        with open_file(tar) as file:
            file.seek(self.offset)
            content = file.read(self.length)
        if len(content) < self.length:
            raise OSError(f"{tar} ends before it")
        return content


@dataclass(frozen=True)
class BytesImage:
    """An image file's content, as it came over a network."""

    name: str
    content: bytes
    max_pixels: int = MAX_PIXELS
    reading: ImageReading = "upright"

    def open(self) -> Image.Image:
        """Decode the content as RGB."""
        return read_picture(io.BytesIO(self.content), max_pixels=self.max_pixels, reading=self.reading)


def open_image(ref: ImageRef) -> Image.Image:
    """Open an image as RGB.

    Raises:
        BadImageError: It is missing, truncated, not an image, or has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, on sizes that are checked and on transparency that is dropped
            image = ref.open()
            image = image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError as error:
        raise BadImageError(ref.name, "no such file") from error
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise BadImageError(ref.name, _reason(error)) from error
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        reason = f"{image.width} × {image.height} pixels, one side more than {MAX_ASPECT_RATIO} times the other"
        raise BadImageError(ref.name, reason)
    return image


def build_image_processor(
    source: Path | str | Mapping[str, Any], aspect: "AspectName", *, resampling: "ResamplingName" = "tower"
) -> Any:
    """Make the image processor of a stage from the vision tower's own.

    Args:
        source: Folder of the tower (or of a LLaVA checkpoint), or the content of its preprocessor_config.json.
        aspect: `pad` fills up to a square with the mean colour; `square` resizes the shorter side and crops the centre;
            `squeeze` resizes both sides to the square, whatever the proportions.
        resampling: How it resizes; `tower` as the source says.
    Returns:
        A stock `LlavaImageProcessorPil`. Saved and opened again by `AutoImageProcessor` it gives the same pixels; where
        torchvision is installed, only with `backend="pil"`.
    """
    from transformers import AutoImageProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    if isinstance(source, Mapping):
        config = dict(source)
    else:
        config = AutoImageProcessor.from_pretrained(source, backend="pil").to_dict()
    kept = {key: config[key] for key in _PROCESSOR_KEYS if config.get(key) is not None}
    if size := config.get("size"):
        kept |= _squeezed(size, config.get("crop_size") or {}) if aspect == "squeeze" else _square_of(size)
    if resampling != "tower":
        kept["resample"] = int(Image.Resampling[resampling.upper()])
    return LlavaImageProcessorPil(**kept, do_pad=aspect == "pad", do_convert_rgb=True)


def _square_of(size: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a square of a size that names height and width, as SigLIP's does; nothing for other sizes.

    SigLIP itself would squeeze a picture into its square. LLaVA keeps the proportions: after padding or cropping to a
    square, resizing by the shorter side is the same as resizing to height and width.
    """
    if not size.get("height") or not size.get("width"):
        return {}
    side = int(size["height"])
    square = {"height": side, "width": side}
    return {"size": {"shortest_edge": side}, "crop_size": square, "do_center_crop": True}


def _squeezed(size: Mapping[str, Any], crop: Mapping[str, Any]) -> dict[str, Any]:
    """Return what resizes every picture to the square that the tower takes, with nothing cut off."""
    side = int(crop.get("height") or size.get("height") or size["shortest_edge"])
    square = {"height": side, "width": side}
    return {"size": square, "crop_size": square, "do_center_crop": True}  # servers read the square from crop_size


def process_images(images: Sequence[Image.Image], processor: Any) -> "torch.Tensor":
    """Turn RGB images into the vision tower's pixels: [I, 3, H, W] float32."""
    import torch  # not at the top: chat looks at a picture before it loads anything heavy

    side = _square_side(processor)
    if side is None or not images or any(image.mode != "RGB" for image in images):
        pixels = processor(list(images), return_tensors="np")["pixel_values"]
        return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    table = _level_table(processor.rescale_factor, tuple(processor.image_mean), tuple(processor.image_std))
    pixels = np.empty((len(images), 3, side, side), dtype=np.float32)
    for image, target in zip(images, pixels, strict=True):
        levels = np.asarray(_fit_square(image, side, processor)).reshape(-1, 3)
        for channel in range(3):
            np.take(table[channel], levels[:, channel], out=target[channel].reshape(-1), mode="clip")
    return torch.from_numpy(pixels)


def _square_side(processor: Any) -> int | None:
    """Return the side of a stock LLaVA processor's pictures in pixels, or None for any other processor."""
    crop, size = getattr(processor, "crop_size", None) or {}, getattr(processor, "size", None) or {}
    side = size.get("shortest_edge") or (size.get("height") if size.get("height") == size.get("width") else None)
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    usual = type(processor).__name__ == "LlavaImageProcessorPil" and all(getattr(processor, step) for step in steps)
    return side if usual and side and crop.get("height") == crop.get("width") == side else None


def _fit_square(image: Image.Image, side: int, processor: Any) -> Image.Image:
    """Return a picture as the processor pads, resizes and crops it, without its detours over arrays."""
    if processor.do_pad and image.width != image.height:
        long = max(image.size)
        square = Image.new("RGB", (long, long), tuple(int(value * 255) for value in processor.image_mean))
        square.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
        image = square
    short = min(image.size)
    size = (int(side * image.width / short), int(side * image.height / short))
    if not processor.size.get("shortest_edge"):
        size = (side, side)
    if size != image.size:
        image = image.resize(size, Image.Resampling(processor.resample))
    if image.size == (side, side):
        return image
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@lru_cache(maxsize=4)
def _level_table(factor: float, mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Return [3, 256] what each of a channel's 256 levels becomes: rescaled and normalised as the processor does it."""
    levels = (np.arange(256, dtype=np.uint8) * factor).astype(np.float32)
    spread = (np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32))
    return np.ascontiguousarray(((levels[:, None] - spread[0]) / spread[1]).T)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image that can be read ({', '.join(PICTURE_FORMATS)})"
    return getattr(error, "strerror", None) or first_line(error)
