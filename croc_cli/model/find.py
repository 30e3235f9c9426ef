"""From a recipe's name of a pretrained model to a folder: built in, local, or from the hub."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name

import croc_cli
from croc_cli.errors import UsageError
from croc_cli.files import own_path

BUILTIN_PREFIX = "builtin:"
BUILTIN_FOLDER = Path(croc_cli.__file__).parent / "demo" / "backbones"

TEXT_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]
"""Configs and tokenizers."""

WeightForms = Sequence[list[str]]
WEIGHT_FILES: WeightForms = (["model*.safetensors"], ["pytorch_model*.bin"])
"""Weights, the better form first. Vicuna and CLIP ViT-L/14-336 are published in the second alone; transformers reads it
with `torch.load(weights_only=True)`, which runs no code."""

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer."""


Fetching = Callable[[int | None, Callable[[], int]], AbstractContextManager[object]]


def unwatched(_total: int | None, _measure: Callable[[], int]) -> AbstractContextManager[object]:
    """Return the context of a fetch that nobody watches."""
    return nullcontext()


class ModelNotFound(UsageError):
    """A vision tower, LLM or checkpoint is not where its name points; exit code 2."""


def find_model(name: str, *, part: str, revision: str | None = None, fetching: Fetching = unwatched) -> Path:
    """Return the folder of a pretrained model, fetched from the hub if need be.

    Args:
        name: `builtin:nano`, a folder, or a hub id such as `openai/clip-vit-large-patch14-336`.
        part: `vision_tower` or `llm`, the recipe key that names it.
        revision: Branch, tag or commit on the hub.
        fetching: Makes the context in which files are fetched, from how many bytes they have (None where the hub does
            not say) and a function that tells how many are here.

    Raises:
        ModelNotFound: With every place that was looked at.
    """
    if name.startswith(BUILTIN_PREFIX):
        return _find_builtin(name, part)
    folder = own_path(name)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelNotFound(
                f"{_words(part)} {name!r}: the folder {folder.resolve()} holds no config.json",
                hint=f"give model.{part} a folder in Hugging Face's form: config.json, weights, tokenizer or processor",
            )
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotFound(
            f"{_words(part)} {name!r} was not found: there is no folder {folder.absolute()}", hint=_local_hint(part)
        )
    try:
        return fetch_files(name, revision=revision, fetching=fetching)
    except Exception as error:  # hub, network and cache have no error class in common
        raise ModelNotFound(
            f"{_words(part)} {name!r} was not found: no folder {folder.absolute()}, "
            f"and the hub {HfApi().endpoint} did not give it ({_reason(error)})",
            hint=_local_hint(part),
        ) from error


def _find_builtin(name: str, part: str) -> Path:
    folder = BUILTIN_FOLDER / part
    if name != f"{BUILTIN_PREFIX}nano" or not (folder / "config.json").exists():
        raise ModelNotFound(
            f"{_words(part)} {name!r} is not built in: looked for {folder}", hint="builtin:nano is the only one"
        )
    return folder


def fetch_files(
    name: str, *, revision: str | None = None, forms: WeightForms = WEIGHT_FILES, fetching: Fetching = unwatched
) -> Path:
    """Return the hub's snapshot of a model: texts and one form of weights; from the cache where the hub is silent.

    Args:
        name: Hub id.
        revision: Branch, tag or commit on the hub.
        forms: Patterns of the weights' files, the better form first.
        fetching: See `find_model`.

    Raises:
        Exception: Hub, network and cache have no error class in common.
    """
    try:
        info = HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT, files_metadata=True)
    except Exception:
        if cached := _find_cached(name, revision, forms):
            return cached
        raise
    files = [Path(sibling.rfilename) for sibling in info.siblings or ()]
    weights = next((form for form in forms if any(file.match(form[0]) for file in files)), [])
    patterns = TEXT_FILES + weights
    sizes = [
        sibling.size
        for sibling in info.siblings or ()
        if any(Path(sibling.rfilename).match(pattern) for pattern in patterns)
    ]
    total = None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
    with fetching(total, lambda: sum(file.stat().st_size for file in blobs.glob("*"))):
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def _find_cached(name: str, revision: str | None, forms: WeightForms) -> Path | None:
    """Return the snapshot that an earlier run fetched, if there is one."""
    for form in forms:
        try:
            folder = snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=TEXT_FILES + form)
        except (OSError, HFValidationError):  # nothing in the cache, or not all that the hub once listed
            continue
        if any(Path(folder).glob(form[0])):
            return Path(folder)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or no right to see it"
    if isinstance(error, HFValidationError):
        return "not a hub id"
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


def _words(part: str) -> str:
    return {"vision_tower": "vision tower", "llm": "LLM"}.get(part, part)


def _local_hint(part: str) -> str:
    return f"pass a local folder: model.{part}: /path/to/folder"
