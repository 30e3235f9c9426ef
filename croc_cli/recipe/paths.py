"""Where a recipe's relative paths start.

A relative path in a recipe starts in the folder where croc is run; data that is not there is looked for in `data.root`.
"""

from pathlib import Path
from typing import Final

PATHS_START: Final = (
    "a relative path in a recipe starts in the folder where croc is run; data that is not there is looked for in"
    " data.root"
)
"""The rule, as hints say it."""


def data_path(root: str, path: str) -> Path:
    """Return a path of a recipe's data section from the folder where croc is run.

    It holds for all of them: a stage's file and image folder, a source's path and image root, a mix's folder.

    Args:
        root: `data.root`.
        path: As the recipe writes it.
    """
    here = own_path(path)
    below = own_path(root) / here
    return below if not here.exists() and below.exists() else here


def own_path(path: str) -> Path:
    """Return a path with `~` replaced by the home folder; as it stands where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
