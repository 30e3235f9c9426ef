"""Makes a mix: from its sources' files to rows.jsonl, index arrays and manifest.json in one folder."""

from collections.abc import Callable
from pathlib import Path

from croc_cli.errors import RunError
from croc_cli.sources.manifest import Manifest
from croc_cli.sources.spec import MixSpec

Progress = Callable[[str, int, int | None], None]
"""Told (what is being done, how much is done, of how much if that is known), now and then."""


def build_mix(spec: MixSpec, out: Path, *, progress: Progress | None = None) -> Manifest:
    """Make a mix.

    The folder appears whole or not at all: everything is written beside it and renamed at the end.

    Args:
        spec: What goes into it, as `sources.recipe_mix.mix_spec(recipe, stage)` gives it for a recipe's stage.
        out: Its folder; an old mix there is replaced once the new one is complete.
        progress: Told how far it is.

    Raises:
        UsageError: A source is missing, unreadable or has too few rows.
    """
    del spec, out, progress
    raise RunError("mixes cannot be made yet")
