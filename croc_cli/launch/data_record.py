"""What the data of a stage was when it started, so that a resumed stage notices that it has changed since."""

from pathlib import Path
from typing import Any

from croc_cli.errors import UsageError
from croc_cli.launch.plan import count_rows
from croc_cli.names import StageName
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe
from croc_cli.run_dir import StageDir, read_json, sha256_of, write_json
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.read.manifest import read_manifest

_SHOWN_DIGITS = 12
"""Of a hash in a message."""


def data_record(recipe: Recipe, stage: StageName, *, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what identifies the rows that a stage trains on; empty where nothing can change, or nothing is here.

    Args:
        recipe: The recipe.
        stage: The stage.
        known: An earlier record; a file with the same size and time of change is not read again.
    """
    source = recipe.data.source(stage)
    if isinstance(source, LlavaJsonData):
        return _file_record(data_path(recipe.data.root, source.path), known or {})
    if isinstance(source, MixData):
        folder = mix_folder(recipe, stage)
        try:
            manifest = read_manifest(folder)
        except UsageError:  # there is none yet, which is said where it is needed
            return {}
        sources = {record.name: record.sha256 for record in manifest.sources}
        return {"mix": str(folder), "rows": manifest.rows, "order_sha256": manifest.order_sha256, "sources": sources}
    return {}


def keep_data_record(recipe: Recipe, stage: StageName, stage_dir: StageDir, *, resumes: bool) -> None:
    """Write the record of a stage that starts; a resumed stage keeps the one it has."""
    if not (resumes and stage_dir.data_file.is_file()):
        write_json(stage_dir.data_file, data_record(recipe, stage))


def data_changes(recipe: Recipe, stage: StageName, stage_dir: StageDir) -> str | None:
    """Return what has changed in the data since a stage started, in words; None where nothing has, or nobody knows."""
    before = read_json(stage_dir.data_file)
    now = data_record(recipe, stage, known=before)
    if not before or not now:
        return None
    place = now.get("file") or f"the mix {now.get('mix')}"
    if before["rows"] != now["rows"]:
        return f"{place} has {now['rows']} rows now, it had {before['rows']}"
    if before.get("order_sha256") != now.get("order_sha256"):
        ours, theirs = (str(record.get("order_sha256"))[:_SHOWN_DIGITS] for record in (now, before))
        return f"{place} was made again: order_sha256 is {ours} now, it was {theirs}"
    if before.get("sources") != now.get("sources"):
        old, new = before.get("sources") or {}, now.get("sources") or {}
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        return f"{place} was made again from other files of {', '.join(names)}"
    if before.get("sha256") != now.get("sha256"):
        return f"{place} has other rows now, {now['rows']} as before"
    return None


def _file_record(file: Path, known: dict[str, Any]) -> dict[str, Any]:
    if not file.is_file():
        return {}
    status = file.stat()
    identity = {"file": str(file), "bytes": status.st_size, "changed_ns": status.st_mtime_ns}
    if identity.items() <= known.items():
        return known
    return identity | {"rows": count_rows(file), "sha256": sha256_of(file)}
