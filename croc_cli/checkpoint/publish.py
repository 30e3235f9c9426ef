"""Uploads a checkpoint to a model hub in one commit: the stock files, croc.json, the recipe, and a model card."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any

from croc_cli.checkpoint.formats.original import is_original
from croc_cli.checkpoint.locate import check_checkpoint, read_config, saved_files
from croc_cli.checkpoint.metadata import RECIPE_FILE, read_metadata, verify_hashes
from croc_cli.checkpoint.validate import validate_checkpoint
from croc_cli.errors import RunError, UsageError, first_line
from croc_cli.names import METADATA_FILE, RESUME_FOLDER, TRAINING_STATE_FILE
from croc_cli.report.model_card import model_card, without_local_paths
from croc_cli.words import counted

CARD = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SCRUBBED = (METADATA_FILE, RECIPE_FILE)
"""Texts in which paths of this machine are cut to their last part."""


_PUSHED = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.*", METADATA_FILE, RECIPE_FILE, TRAINING_STATE_FILE),
    "model.safetensors.index.json",
)
"""Files of a checkpoint beside its weights, as patterns of names."""


def files_to_push(folder: Path) -> tuple[list[Path], list[str]]:
    """Return a checkpoint's files that go to the hub, and the names of what else lies there and stays.

    A checkpoint is flat: folders, hidden files and whatever croc and transformers do not save stay at home.

    Raises:
        UsageError: A file of the checkpoint is a link to somewhere else.
    """
    weights = set(saved_files(folder))
    pushed, left = [], []
    for file in sorted(folder.iterdir()):
        if (file not in weights and not any(fnmatch(file.name, pattern) for pattern in _PUSHED)) or file.is_dir():
            left.append(file.name + ("/" if file.is_dir() else ""))
        elif file.is_symlink() and not file.exists():
            raise UsageError(f"{file} is a link that leads nowhere", hint="put the file itself there, or take it away")
        elif file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{file} is a link to {file.resolve()}, outside the checkpoint, and is not followed",
                hint="put the file itself there, or take the link away",
            )
        elif file.is_file():
            pushed.append(file)
    return pushed, [name for name in left if name not in (CARD, f"{RESUME_FOLDER}/") and not name.startswith(".")]


def push(
    folder: Path,
    repository: str,
    *,
    private: bool,
    licence: str | None,
    dry_run: bool,
    say: Callable[[str], None],
) -> str:
    """Upload a checkpoint and return the address of the commit, or with `dry_run` the card.

    Args:
        folder: The checkpoint.
        repository: `owner/name`; created if missing.
        private: Whether a new repository is private.
        licence: Identifier of the weights' licence for the card.
        dry_run: Touch nothing.
        say: Told what goes where.

    Raises:
        UsageError: The folder is not a checkpoint, was changed by hand, or the name is none.
        RunError: The hub refused, or cannot be reached.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"{repository!r} is not a repository's name", hint="it is owner/name, such as me/my-llava")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="give a checkpoint folder that croc saved")
    check_checkpoint(folder)
    if is_original(read_config(folder)):
        verify_hashes(folder)
    else:
        validate_checkpoint(folder)  # loads torch: what is public should be sound to its last weight
    card = model_card(folder, repository, licence=licence)
    files, left = files_to_push(folder)
    size = sum(file.stat().st_size for file in files)
    say(f"{counted(len(files), 'file')}, {size / 2**20:,.1f} MiB, and a model card: {folder} → {repository}")
    for file in files if dry_run else ():
        say(f"  {file.name}  {counted(file.stat().st_size, 'byte')}")
    if left:
        say(f"left here, as no part of the checkpoint: {', '.join(left)}")
    if read_metadata(folder).visual_norm != "none":
        say("warning: its visual tokens are L2-normalised; transformers and vLLM leave that out, and the card says so")
    if dry_run:
        return card
    return _upload(folder, files, repository, card, private=private)


def _upload(folder: Path, files: list[Path], repository: str, card: str, *, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    operations: list[Any] = [CommitOperationAdd(CARD, card.encode())]
    for file in files:
        content: Any = file
        if file.name in _SCRUBBED:
            content = without_local_paths(file.read_text(encoding="utf-8")).encode()
        operations.append(CommitOperationAdd(file.relative_to(folder).as_posix(), content))
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(repository, operations, commit_message=f"croc push: {folder.name}")
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "fix the cause and push again; what already exists is not sent twice"
        if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
            hint = "log in with a token that may write: `hf auth login`, or HF_TOKEN"
        raise RunError(f"{constants.ENDPOINT} refused {repository}: {first_line(error)}", hint=hint) from error
    except Exception as error:  # the hub's HTTP library is another one from version to version
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise RunError(
            f"{constants.ENDPOINT} cannot be reached: {first_line(error)}", hint="push again once there is a network"
        ) from error
    return str(commit.commit_url)
