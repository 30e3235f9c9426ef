"""SA-1B: its tars by the links file that the form hands out, or from tars that are here; only their images are kept."""

import re
from pathlib import Path

from croc_cli.errors import UsageError
from croc_cli.files import own_path
from croc_cli.sources.known.source import SamTars
from croc_cli.sources.read.content import check_head

_NAME = re.compile(r"^sa_\d{6}\.tar$")
FORM = "https://ai.meta.com/datasets/segment-anything-downloads/"


def read_links(file: Path) -> dict[str, str]:
    """Return the tars' addresses by name.

    Args:
        file: As the form gives it: a line for each tar, its name, a tab, its address; a header line is allowed.

    Raises:
        UsageError: The file cannot be read, or has no line of that form.
        WrongContentError: It is a web page, saved in place of the list.
    """
    try:
        text = own_path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the links file {file} cannot be read: {error}", hint=f"{FORM} provides it") from error
    check_head(text[:1024].encode(), file.name, origin=str(file))
    links = {}
    for line in text.splitlines():
        name, _, url = line.strip().partition("\t")
        if not url:
            name, _, url = line.strip().partition(" ")
        if _NAME.match(name.strip()) and url.strip().startswith(("http://", "https://")):
            links[name.strip()] = url.strip()
    if not links:
        raise UsageError(
            f"{file} has no line with a tar's name and its address", hint=f"{FORM} provides such a file, with tabs"
        )
    return links


def missing_links(entry: SamTars, links: dict[str, str]) -> list[str]:
    """Return the tars that are needed and that the links file does not name."""
    return [name for name in entry.names if name not in links]


def local_tars(entry: SamTars, folder: Path) -> dict[str, Path]:
    """Return the tars that are needed and that lie in a folder, by name.

    Raises:
        UsageError: The folder is not there or holds none of them.
    """
    if not own_path(folder).is_dir():
        raise UsageError(f"{folder} is not a folder of SA-1B tars")
    found = {name: own_path(folder) / name for name in entry.names if (own_path(folder) / name).is_file()}
    if not found:
        raise UsageError(
            f"{folder} holds none of {entry.names[0]} to {entry.names[-1]}", hint="the tars keep their names there"
        )
    return found
