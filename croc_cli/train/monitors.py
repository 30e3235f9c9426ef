"""Hands a run's figures to TensorBoard and W&B, through DeepSpeed's monitor, and to trackio."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from croc_cli.errors import first_line
from croc_cli.train.metrics import flat_figures


class Trackio:
    """A run of trackio, which keeps figures in a database on this machine (`TRACKIO_DIR`).

    Where it fails, the run is told once and goes on without it.

    Args:
        project, group, name: Under which names trackio keeps the run.
        resumes: Add to an earlier run of the name.
        warn: Is told what failed.
    """

    def __init__(self, project: str, *, group: str, name: str, resumes: bool, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._run: Any = None
        try:
            import trackio

            resume = "allow" if resumes else "never"
            self._run = trackio.init(project=project, name=name, group=group, resume=resume, embed=False)
        except Exception as error:
            self._give_up(error)

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        """Keep the figures of a step."""
        if self._run is not None:
            try:
                self._run.log(dict(figures), step=step)
            except Exception as error:
                self._give_up(error)

    def finish(self) -> None:
        """Wait until all is kept."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        self._warn(f"trackio failed, and the run goes on without it: {first_line(error)}")


class Monitors:
    """Everything that a run's figures go to besides metrics.jsonl; on rank 0 alone.

    Args:
        deepspeed: The engine's monitor.
        trackio: None where the recipe does not ask for it.
    """

    def __init__(self, deepspeed: Any, trackio: Trackio | None = None) -> None:
        self._deepspeed = deepspeed
        self._trackio = trackio

    def tell(self, fields: Mapping[str, Any]) -> None:
        """Hand on the numbers of a line of metrics.jsonl."""
        step = fields["step"]
        figures = {f"croc/{key}": value for key, value in flat_figures(fields) if key != "step"}
        if self._deepspeed.enabled:
            self._deepspeed.write_events([(key, value, step) for key, value in figures.items()])
        if self._trackio is not None:
            self._trackio.log(figures, step=step)

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Finish when the block ends, however it does."""
        try:
            yield
        finally:
            if self._trackio is not None:
                self._trackio.finish()
