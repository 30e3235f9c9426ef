"""Where a recipe's relative paths start.

A relative path in a recipe starts in the folder where croc is run; data that is not there is looked for in `data.root`.
"""

import os
from pathlib import Path
from typing import Final

from croc_cli.files import own_path

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
    return below if not os.path.exists(here) and os.path.exists(below) else here
