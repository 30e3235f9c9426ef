"""What a frozen vision tower makes of pictures, kept on disk so that it is computed once.

Kept are the hidden states of the layer that the model projects, patches only where it projects patches only: what
enters the projector. A picture's file is named by where it lies, how long it is and when it was changed, and lies in a
folder named by all that decides its features: tower, layer and how pictures are prepared.

Letters: n visual tokens of an image, D_v the tower's hidden size.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from croc_cli.data.image import BytesImage, PathImage, TarImage
from croc_cli.data.sample import ImageRef
from croc_cli.errors import UsageError
from croc_cli.files import tar_of

_KEY = "features"
_READING_VERSION = "2"
"""Of the rules by which picture files become RGB; features of other rules are of other pictures."""
_BLANK = "blank"


def picture_key(image: ImageRef) -> str | None:
    """Return what tells a picture from every other, and from itself once it is changed; None for one that is drawn."""
    if isinstance(image, BytesImage):
        return _digest(hashlib.sha256(image.content).hexdigest(), image.reading, _READING_VERSION)
    if not isinstance(image, PathImage | TarImage):
        return None
    part = f"{image.name} {image.offset}+{image.length}" if isinstance(image, TarImage) else ""
    part = f"{part} {image.reading} {_READING_VERSION}"
    try:
        file = Path(tar_of(image.name) if isinstance(image, TarImage) else image.path)
        status = file.stat()
    except OSError:
        return _digest(image.name, part, "missing")
    return _digest(str(file.resolve()), part, str(status.st_size), str(status.st_mtime_ns))


@dataclass(frozen=True)
class FeatureCache:
    """Features of pictures in one folder.

    Args:
        folder: Its folder; made when the first features are written.
        shape: (n, D_v) of every picture's features.
        dtype: Of the features, the one in which the tower computed.
    """

    folder: Path
    shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def picture_bytes(self) -> int:
        """Bytes that a picture's features take."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def has(self, image: ImageRef | None) -> bool:
        """Tell whether a picture's features are kept; None is the blank one."""
        return self._file(image).is_file()

    def read(self, image: ImageRef | None) -> Tensor | None:
        """Return a picture's features [n, D_v], or None where they are not kept; None asks for those of the blank.

        Raises:
            UsageError: Their file is damaged, or holds something else.
        """
        file = self._file(image)
        if not file.is_file():
            return None
        try:
            features: Tensor = load_file(file)[_KEY]
        except (OSError, SafetensorError, KeyError) as error:
            raise UsageError(f"{file} cannot be read: {error}", hint="delete it; it is computed again") from error
        if tuple(features.shape) != self.shape or features.dtype != self.dtype:
            raise UsageError(
                f"{file} holds {tuple(features.shape)} {features.dtype}, expected {self.shape} {self.dtype}",
                hint=f"delete {self.folder}; it is computed again",
            )
        return features

    def write(self, image: ImageRef | None, features: Tensor) -> None:
        """Keep a picture's features [n, D_v]; the file appears whole or not at all."""
        file = self._file(image)
        file.parent.mkdir(parents=True, exist_ok=True)
        growing = file.with_name(f".{file.name}.{os.getpid()}")
        save_file({_KEY: features.to("cpu", self.dtype).contiguous()}, growing)
        growing.replace(file)

    def _file(self, image: ImageRef | None) -> Path:
        key = _BLANK if image is None else picture_key(image)
        if key is None:
            raise UsageError(
                f"the picture {image.name if image else ''} has no file of its own, so its features cannot be kept",
                hint="leave data.cache_features out",
            )
        return self.folder / key[:2] / f"{key}.safetensors"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
