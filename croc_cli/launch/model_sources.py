"""Makes sure, before any launch, that vision tower and LLM can be had: a folder, the hub's cache, or the hub."""

import os
import urllib.error
import urllib.request
from dataclasses import dataclass

from croc_cli.errors import UsageError
from croc_cli.files import own_path
from croc_cli.launch.model_files import check_model_files
from croc_cli.recipe.facts import BUILTIN_FOLDERS, BUILTIN_PREFIX, builtin_folder
from croc_cli.recipe.schema import ModelRecipe

HUB_SECONDS = 5.0
"""Longest wait for the hub's answer."""


@dataclass(frozen=True)
class HubAnswer:
    """What the hub said about a model.

    Args:
        found: Whether it can be had.
        reason: If not, why; continues the sentence "… was not found: no such folder, …".
    """

    found: bool
    reason: str = ""


def check_models(model: ModelRecipe) -> None:
    """Raise UsageError unless both parts can be had.

    Args:
        model: The recipe's section.

    Raises:
        UsageError: Which name, where it was looked for, and how to pass a local folder.
    """
    check_model(model.vision_tower, part="vision_tower", revision=model.vision_tower_revision)
    check_model(model.llm, part="llm", revision=model.llm_revision)


def check_model(name: str, *, part: str, revision: str | None = None) -> None:
    """Raise UsageError unless a vision tower or an LLM can be had; one in a folder must be whole.

    Args:
        name: Folder, hub id or `builtin:…`.
        part: The recipe key, "vision_tower" or "llm".
        revision: Of the hub's repository.
    """
    label = {"vision_tower": "vision tower", "llm": "LLM"}[part]
    hint = f"--set model.{part}=DIR takes a local folder with config.json and safetensors"
    if name.startswith(BUILTIN_PREFIX):
        folder = builtin_folder(name, part)
        if folder is None:
            raise UsageError(
                f"model.{part}: {name} is not built in", hint=f"known: builtin:{', '.join(BUILTIN_FOLDERS)}"
            )
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"model.{part}: {name} is missing from this installation ({folder})", hint="install croc again"
            )
        return
    folder = own_path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"model.{part}: the folder {name} holds no config.json", hint=hint)
        check_model_files(folder, part=part)
        return
    if looks_like_path(name):
        raise UsageError(f"model.{part}: the {label}'s folder {name} does not exist", hint=hint)
    answer = ask_hub(name, revision=revision)
    if not answer.found:
        raise UsageError(
            f"model.{part}: the {label} {name} was not found: no such folder here, {answer.reason}", hint=hint
        )


def looks_like_path(name: str) -> bool:
    """Tell whether a name can only be a path, as a hub id is one or two words with a slash between."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")


def ask_hub(name: str, *, revision: str | None) -> HubAnswer:
    """Look for a model in the hub's cache, then on the hub, within seconds.

    HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_TOKEN mean what they mean to huggingface_hub.
    """
    # Read once at import: progress bars and telemetry have no place in a check.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    cache = constants.HF_HUB_CACHE
    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return HubAnswer(True)
        if constants.HF_HUB_OFFLINE:
            return HubAnswer(False, f"not in the hub's cache {cache}, and HF_HUB_OFFLINE forbids to ask the hub")
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=HUB_SECONDS)
    except HFValidationError:
        return HubAnswer(False, "and it is not a hub id either")
    except GatedRepoError:
        return HubAnswer(False, f"and {constants.ENDPOINT} wants you to log in for it (HF_TOKEN)")
    except RepositoryNotFoundError:
        return HubAnswer(False, f"not in the hub's cache {cache}, and {constants.ENDPOINT} has no such model")
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        return HubAnswer(False, f"not in the hub's cache {cache}, and {constants.ENDPOINT} answered {status}")
    except (OSError, RuntimeError) as error:
        return HubAnswer(False, unreachable(cache, constants.ENDPOINT, error))
    except Exception as error:
        # The hub's HTTP library is another one from version to version, and so is the root of its errors.
        if type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            return HubAnswer(False, unreachable(cache, constants.ENDPOINT, error))
        raise
    return HubAnswer(True)


def hub_endpoint() -> tuple[str, str]:
    """Return the hub's cache folder, and "reachable" or why the hub cannot be used."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return constants.HF_HUB_CACHE, "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            return constants.HF_HUB_CACHE, "reachable"
    except urllib.error.HTTPError:
        return constants.HF_HUB_CACHE, "reachable"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return constants.HF_HUB_CACHE, f"{constants.ENDPOINT} cannot be reached: {reason}"


def unreachable(cache: str, endpoint: str, error: Exception) -> str:
    """Return the reason for a hub that does not answer."""
    return f"not in the hub's cache {cache}, and {endpoint} cannot be reached ({type(error).__name__})"
