"""Looks once through the values of safetensors files: are they numbers?"""

import sys
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from croc_cli.checkpoint.metadata import DAMAGED
from croc_cli.errors import UsageError, first_line
from croc_cli.launch.known_files import recall, remember
from croc_cli.model.values import check_values

_KNOWN = "values"
_SAID_FROM = 2**30
"""Bytes of weights from which a user is told that they are looked through, once."""


def check_files(files: Iterable[Path]) -> None:
    """Check the values in safetensors files whose headers are in order; those known are not read again.

    Raises:
        UsageError: A weight is not a number, or is all zeros; its file is named.
    """
    unknown = [file for file in files if not recall(file).get(_KNOWN)]
    size = sum(file.stat().st_size for file in unknown)
    if size > _SAID_FROM:
        print(f"looking through {size / 2**30:.1f} GiB of weights, this once", file=sys.stderr, flush=True)
    for file in unknown:
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # no mapping: it has keys and nothing to iterate
                    check_values(name, weights.get_tensor(name), file)
        except SafetensorError as error:
            raise UsageError(f"{file} cannot be read: {first_line(error)}", hint=DAMAGED) from error
        remember(file, **{_KNOWN: True})
