"""Opens the pictures of a conversation, by path or by http(s) URL."""

from dataclasses import dataclass

from PIL.Image import Image

from croc_cli.chat.fetch import FetchError, fetch, is_url
from croc_cli.data.image import BadImageError, BytesImage, PathImage, open_image
from croc_cli.data.sample import ImageRef
from croc_cli.errors import UsageError
from croc_cli.files import own_path
from croc_cli.pictures import ImageReading


@dataclass(frozen=True)
class ChatImage:
    """A picture of a conversation.

    Args:
        name: The absolute path, or the URL.
        picture: Decoded, RGB.
    """

    name: str
    picture: Image


def load_image(reference: str, *, allow_private: bool = False, reading: ImageReading = "upright") -> ChatImage:
    """Open a picture by path or http(s) URL.

    Args:
        reference: The path or URL.
        allow_private: Fetch from addresses of one's own network, too.
        reading: How its file becomes RGB: as the model's training read files.

    Raises:
        UsageError: It is missing, truncated, no picture, has too many pixels, or cannot be fetched; one line.
    """
    try:
        if is_url(reference):
            content = fetch(reference, allow_private=allow_private)
            image: ImageRef = BytesImage(reference, content, reading=reading)
            return ChatImage(reference, open_image(image))
        path = own_path(reference)
        return ChatImage(str(path.absolute()), open_image(PathImage(path, reading=reading)))
    except FetchError as error:
        raise UsageError(f"image {reference}: {error}") from error
    except BadImageError as error:
        raise UsageError(f"image {reference}: {error.reason}") from error
    except (OSError, ValueError) as error:  # a name too long, a null byte, a folder that may not be read
        raise UsageError(f"image {reference!r}: {error}") from error
