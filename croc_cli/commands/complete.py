"""What the shell is offered when Tab is pressed: recipes, runs, checkpoints, benchmarks."""

from collections.abc import Iterable
from pathlib import Path

from croc_cli.names import RUNS_FOLDER, STAGES


def recipes(incomplete: str) -> list[str]:
    """Return the names of shipped recipes, and recipe files of this folder."""
    from croc_cli.recipe.find import recipe_names

    files = (path.name for pattern in ("*.yaml", "*.yml") for path in Path().glob(pattern))
    return _starting(incomplete, [*sorted(files), *recipe_names()])


def runs(incomplete: str) -> list[str]:
    """Return the run folders below `runs/`."""
    found = (folder for folder in Path(RUNS_FOLDER).glob("*") if any((folder / stage).is_dir() for stage in STAGES))
    return _starting(incomplete, sorted(map(str, found)))


def checkpoints(incomplete: str) -> list[str]:
    """Return the checkpoints below `runs/`, the newest step of a stage first."""
    found = Path(RUNS_FOLDER).glob("*/*/checkpoints/step-*")
    return _starting(incomplete, sorted(map(str, found), reverse=True))


def benchmarks(incomplete: str) -> list[str]:
    """Return the names of benchmarks; after a comma, the next of several."""
    from croc_cli.benchmarks.registry import EVERY

    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in ("all", *EVERY) if name.startswith(last) and name not in taken]


def recipes_or_files(incomplete: str) -> list[str]:
    """Return recipes, mixes, and whatever lies where the path that was begun leads."""
    place = Path(incomplete or ".")
    folder = place if incomplete.endswith("/") or not incomplete else place.parent
    try:
        files = [f"{path}/" if path.is_dir() else str(path) for path in sorted(folder.iterdir())]
    except OSError:
        files = []
    hidden = place.name.startswith(".")
    shown = [name for name in files if hidden or not Path(name).name.startswith(".")]
    return _starting(incomplete, list(dict.fromkeys([*recipes(incomplete), *shown])))


def _starting(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
