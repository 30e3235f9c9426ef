"""Hub files through huggingface_hub: pins the revision, lists files with size and sha256, says where the bytes are.

The bytes are fetched by `sources.download`: a killed huggingface_hub 2.4 drops what it has of a file, and the largest
one here has 27 GB.
"""

import fnmatch
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from croc_cli.sources.fetch.download import Limits, Remote
from croc_cli.sources.known.source import HubFile
from croc_cli.sources.read.content import FetchError

FULL_COMMIT = 40
_COMMIT_START = re.compile(r"^[0-9a-f]{7,40}$")
_LFS_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_RESULT = TypeVar("_RESULT")


@dataclass(frozen=True)
class HubEntry:
    """One file of a repository.

    Args:
        path: In the repository.
        size: In bytes.
        sha256: Of files in large-file storage; None for small ones.
    """

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class HubListing:
    """The files that a catalogue's entry stands for.

    Args:
        commit: In full.
        entries: In order of their paths.
    """

    commit: str
    entries: tuple[HubEntry, ...]


def endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT, or the hub's own."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def list_files(file: HubFile, *, limits: Limits | None = None) -> HubListing:
    """Return the files that an entry stands for, at the commit that its revision means now.

    Raises:
        FetchError: The repository, revision or file is not there, or is not for this user.
    """
    from huggingface_hub import HfApi, RepoFile

    api = HfApi(endpoint=endpoint())
    limits = limits or Limits()
    commit = _ask(lambda: _full_commit(api, file), file, limits)
    if file.is_pattern:
        folder = fixed_folder(file.path)
        found = _ask(
            lambda: list(
                api.list_repo_tree(file.repo, folder or None, recursive=True, revision=commit, repo_type=file.repo_type)
            ),
            file,
            limits,
        )
        entries = [entry for entry in found if isinstance(entry, RepoFile) and _matches(entry.path, file.path)]
    else:
        found = _ask(
            lambda: api.get_paths_info(file.repo, [file.path], revision=commit, repo_type=file.repo_type), file, limits
        )
        entries = [entry for entry in found if isinstance(entry, RepoFile)]
    if not entries:
        raise FetchError(
            f"{file.repo} has no file {file.path} at {commit[:7]}",
            hint=f"look at {page(file)}/tree/{commit}, and name the file in a catalogue of your own",
        )
    listed = (HubEntry(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None) for entry in entries)
    return HubListing(commit, tuple(sorted(listed, key=lambda entry: entry.path)))


def remote_of(file: HubFile, entry: HubEntry, commit: str, *, limits: Limits | None = None) -> Remote:
    """Return where an entry's bytes are now; the address may expire.

    Raises:
        FetchError: The file is not there, or is not for this user.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url

    base = endpoint()
    url = hf_hub_url(file.repo, entry.path, repo_type=file.repo_type, revision=commit, endpoint=base)
    metadata = _ask(lambda: get_hf_file_metadata(url, endpoint=base), file, limits or Limits())
    location = str(metadata.location)
    is_hubs_own = urlsplit(location).netloc == urlsplit(base).netloc
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    etag = str(metadata.etag or "")
    return Remote(
        location,
        size=entry.size,
        sha256=entry.sha256 or (etag if _LFS_SHA256.match(etag) else None),
        headers=headers if is_hubs_own else {},  # a signed address of a store needs no token, and gets none
        origin=f"{file.repo}/{entry.path}@{commit[:7]}",
    )


def page(file: HubFile) -> str:
    """Return the address of a repository's page."""
    return f"{endpoint()}/{'datasets/' if file.repo_type == 'dataset' else ''}{file.repo}"


def _full_commit(api: Any, file: HubFile) -> str:
    """Return the commit that a revision means: itself, the one that begins so, or a branch's newest."""
    if len(file.revision) == FULL_COMMIT and _COMMIT_START.match(file.revision):
        return file.revision
    if _COMMIT_START.match(file.revision):
        commits = api.list_repo_commits(file.repo, repo_type=file.repo_type)
        found: str | None = next(
            (commit.commit_id for commit in commits if commit.commit_id.startswith(file.revision)), None
        )
        if found is not None:
            return found
        raise FetchError(
            f"{file.repo} has no commit {file.revision} any more",
            hint=f"look at {page(file)}/commits/main, and name another revision in a catalogue of your own",
        )
    info = api.repo_info(file.repo, revision=file.revision, repo_type=file.repo_type)
    return str(info.sha)


def place_below(file: HubFile, entry: HubEntry) -> str:
    """Return where an entry of a pattern lies below its `to`: its path without the pattern's fixed folders."""
    folder = fixed_folder(file.path)
    return entry.path[len(folder) + 1 :] if folder else entry.path


def _matches(path: str, pattern: str) -> bool:
    """Tell whether a path fits a pattern; a wildcard stands for no slash."""
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(
        fnmatch.fnmatchcase(part, one) for part, one in zip(parts, patterns, strict=True)
    )


def fixed_folder(pattern: str) -> str:
    """Return the folder of a pattern before its first wildcard."""
    folders = []
    for part in pattern.split("/")[:-1]:
        if any(letter in part for letter in "*?["):
            break
        folders.append(part)
    return "/".join(folders)


def _ask(question: Callable[[], _RESULT], file: HubFile, limits: Limits) -> _RESULT:
    """Ask the hub, again where it is out of order for a moment.

    Raises:
        FetchError: It says no, or is out of order for long.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for attempt in range(limits.tries):
        try:
            return question()
        except GatedRepoError as error:
            raise FetchError(
                f"{file.repo} requires a login and consent", hint=f"agree at {page(file)}, then set HF_TOKEN"
            ) from error
        except RevisionNotFoundError as error:
            raise FetchError(f"{file.repo} has no revision {file.revision}", hint=f"look at {page(file)}") from error
        except RepositoryNotFoundError as error:
            raise FetchError(
                f"{endpoint()} has no {file.repo_type} {file.repo}, or not for you",
                hint=f"look at {page(file)}; what is private needs HF_TOKEN",
            ) from error
        except RemoteEntryNotFoundError as error:
            raise FetchError(f"{file.repo} has no file {file.path}", hint=f"look at {page(file)}") from error
        except OfflineModeIsEnabled as error:
            raise FetchError(
                f"{file.repo} cannot be fetched: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE"
            ) from error
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", 0)
            reason = f"answered {status}"
            if status < 500 and status not in (408, 429):
                raise FetchError(f"{endpoint()} {reason} about {file.repo}", hint=f"look at {page(file)}") from error
            failure: Exception = error
        except FetchError:
            raise
        except Exception as error:
            # The hub's HTTP library is another one from version to version, and so is the root of its errors.
            if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
            reason, failure = f"cannot be reached ({type(error).__name__})", error
        if attempt + 1 < limits.tries:
            time.sleep(min(60.0, limits.wait * 2**attempt))
    raise FetchError(
        f"{endpoint()} {reason} about {file.repo} ({limits.tries} tries)",
        hint="HF_ENDPOINT names another hub; the same command resumes where it stopped",
    ) from failure
