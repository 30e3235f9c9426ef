"""Opens what libraries read, so that whatever they raise on damaged files is one line that names it."""

from collections.abc import Iterator
from contextlib import contextmanager

from croc_cli.errors import CrocError, UsageError, one_line


@contextmanager
def opening(what: str, *, hint: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into one line.

    The errors of transformers, tokenizers and huggingface_hub have no class in common: strict configs have their own,
    and tokenizers raises a bare Exception.

    Args:
        what: What is opened, with its file or folder.
        hint: The next step.

    Raises:
        UsageError: In place of any other exception.
    """
    try:
        yield
    except CrocError:
        raise
    except Exception as error:
        raise UsageError(f"{what} cannot be opened: {one_line(error)}", hint=hint) from error
