"""The catalogue of sources: what ships with croc, and files of the user's own in the same form."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from croc_cli.errors import UsageError
from croc_cli.files import own_path
from croc_cli.recipe.find import shown_path
from croc_cli.recipe.issues import InvalidRecipe, Issue, nearest
from croc_cli.recipe.yaml_file import read_yaml
from croc_cli.sources.known.source import Source

KNOWN_FOLDER = Path(__file__).parent


def find_source(name: str, catalogs: Iterable[str | Path] = ()) -> Source:
    """Return a source by name.

    Args:
        name: As `croc data sources` prints it.
        catalogs: Files of the user's own; they go before what ships with croc.

    Raises:
        UsageError: There is no such source; the hint names the nearest.
    """
    sources = all_sources(catalogs)
    if name in sources:
        return sources[name]
    match = nearest(name, sources)
    hint = f"did you mean {match}?" if match else "`croc data sources` lists them; --catalog adds a file of your own"
    raise UsageError(f"unknown source {name!r}", hint=hint)


def all_sources(catalogs: Iterable[str | Path] = ()) -> dict[str, Source]:
    """Return every source by name, those of the user's own files last.

    Raises:
        RecipeError: A file cannot be read or says what no catalogue may, each thing with its line.
    """
    sources = dict(_shipped())
    for file in catalogs:
        sources.update(read_catalog(own_path(file)))
    return sources


def read_catalog(file: Path) -> dict[str, Source]:
    """Read a catalogue file: a mapping of names to sources.

    Raises:
        RecipeError: It cannot be read, or is wrong; all that is wrong, each with its line.
    """
    content = read_yaml(file, label=shown_path(file) if file.exists() else str(file))
    issues = list(content.issues)
    sources: dict[str, Source] = {}
    for name, entry in content.values.items():
        if not isinstance(entry, Mapping):
            issues.append(Issue((name,), "must be a mapping", f"{content.label}:{content.lines.get((name,), 1)}"))
            continue
        try:
            sources[name] = Source.model_validate({**entry, "name": name})
        except ValidationError as error:
            found = error.errors(include_url=False)
            inside = {wrong["loc"][:end] for wrong in found for end in range(len(wrong["loc"]))}
            # A list that holds wrong entries is also called too short: said once is enough.
            said = [wrong for wrong in found if wrong["type"] != "too_short" or wrong["loc"] not in inside]
            issues += [_issue(name, wrong, content.lines, content.label) for wrong in said]
    if issues:
        raise InvalidRecipe(content.label, issues, hint="croc_cli/sources/known/ has examples of every kind")
    return sources


def matching_images(
    source: Source, *, prefixes: Iterable[str] = (), not_prefixes: Iterable[str] = (), modality: str | None = None
) -> list[str]:
    """Return the sources that bring a source's images, without those that a mix's filters leave out.

    Args:
        source: Whose images.
        prefixes: Where given, only rows whose image path starts with one of these are wanted.
        not_prefixes: Rows whose image path starts with one of these are not wanted.
        modality: "text" = no row with an image is wanted.
    """
    if modality == "text":
        return []
    wanted, unwanted = tuple(prefixes), tuple(not_prefixes)
    found = []
    for prefix, name in source.images.items():
        if any(prefix.startswith(out) for out in unwanted):
            continue
        if wanted and not any(prefix.startswith(want) or want.startswith(prefix) for want in wanted):
            continue
        found.append(name)
    return list(dict.fromkeys(found))


@cache
def _shipped() -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for group in ("align", "reconstruct", "finetune", "finetune-800k", "eval"):
        sources.update(read_catalog(KNOWN_FOLDER / f"{group}.yaml"))
    return sources


def _issue(name: str, found: Any, lines: Mapping[tuple[str, ...], int], label: str) -> Issue:
    kinds = ("hub", "web", "url_list", "sam", "by_hand", "link")
    path = (name, *(str(part) for part in found["loc"] if part not in kinds))
    line = next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1)
    message = found["msg"].removeprefix("Value error, ")
    return Issue(path, message[:1].lower() + message[1:], f"{label}:{line}")
