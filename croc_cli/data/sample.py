"""What a dataset yields: one conversation with its images, before any tokenizer or processor saw it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from PIL.Image import Image

Role = Literal["human", "gpt"]


class ImageRef(Protocol):
    """An image that is opened only when it is needed."""

    @property
    def name(self) -> str:
        """What error messages call it: a path, or how it was made."""

    def open(self) -> Image:
        """Return the decoded image, or raise OSError or ValueError where it cannot be decoded."""


class Turn(NamedTuple):
    """One message of a conversation; `text` holds one `<image>` for each image it shows."""

    role: Role
    text: str


@dataclass(frozen=True)
class Sample:
    """One training sample.

    Args:
        id: Identifies the sample in its dataset, whatever the order or the number of ranks.
        turns: Human and gpt in turn, the human first.
        images: One reference for each `<image>` in the turns, in order; empty for text alone.
        source: Name of the source that it is from, as metrics tell sources apart.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[ImageRef, ...] = ()
    source: str = ""
