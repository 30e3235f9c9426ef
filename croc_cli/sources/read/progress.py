"""How far a long job is: what library code tells, and a console may show."""

from typing import Literal

Unit = Literal["bytes", "files"]


class Task:
    """One line of progress; this one shows nothing."""

    def update(self, done: int, total: int | None = None) -> None:
        """Tell how much is done, in the task's unit, and of how much once that is known."""

    def note(self, text: str) -> None:
        """Tell what a user should know while it goes on, such as why it waits."""

    def close(self, summary: str = "") -> None:
        """End the line; `summary` is what came of it."""


class Progress:
    """Makes the lines; this one shows nothing."""

    def task(self, label: str, total: int | None, unit: Unit) -> Task:
        """Begin a line.

        Args:
            label: What is being done, such as "images.zip".
            total: How much there is to do, where it is known.
            unit: What is counted.
        """
        del label, total, unit
        return Task()
