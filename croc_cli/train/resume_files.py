"""What lies in a resume folder, when it is damaged: one line that names the file, never a traceback."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from croc_cli.checkpoint.metadata import read_object
from croc_cli.errors import CrocError, UsageError, one_line
from croc_cli.names import RESUME_FOLDER
from croc_cli.run_dir import step_of

STATE_FILE = "trainer_state.json"
HINT = "delete this checkpoint to resume from the one before, or start over with --fresh"
_State = TypeVar("_State")


def naming_damage(load: Callable[[Any, Path], _State]) -> Callable[[Any, Path], _State]:
    """Wrap what loads a checkpoint's resume folder, so that whatever is wrong in it is named.

    DeepSpeed and torch raise errors of any kind on files that are cut off, missing or of another run.
    """

    @functools.wraps(load)
    def named(engine: Any, checkpoint: Path) -> _State:
        folder = checkpoint / RESUME_FOLDER
        try:
            for parts in (path for path in sorted(folder.iterdir()) if path.is_dir()):
                if not any(path.is_file() for path in parts.rglob("*")):
                    raise UsageError(f"{parts} is empty: the optimizer's state is missing", hint=HINT)
            check_state_file(folder / STATE_FILE, step=step_of(checkpoint))
            return load(engine, checkpoint)
        except CrocError:
            raise
        except Exception as error:
            raise UsageError(
                f"{folder} cannot be resumed from: {type(error).__name__}: {one_line(error)}", hint=HINT
            ) from error

    return named


def check_state_file(file: Path, *, step: int | None) -> None:
    """Raise UsageError unless a trainer's state holds counts, and is of the step that its folder is named after."""
    values = read_object(file)
    for key, value in values.items():
        is_count = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
        if key in _COUNTS and not is_count:
            raise UsageError(f"{file}: {key} is {value!r}, expected a number from 0", hint=HINT)
        if key == "health" and not isinstance(value, dict):
            raise UsageError(f"{file}: health is {value!r}, expected figures by name", hint=HINT)
    if values.get("step") != step and step is not None:
        raise UsageError(f"{file}: step is {values.get('step')!r}, expected {step}, as its folder says", hint=HINT)


_COUNTS = ("step", "bad_images", "truncated", "dropped", "skipped", "skipped_in_a_row", "seconds")
