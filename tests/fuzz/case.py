"""What a generator of hostile inputs yields: files, commands that are tried on them, and the answers that are allowed.

A group is a module of this folder with one function, `cases(seed: int) -> Iterator[Case]`. It yields a few to a few
dozen cases, and the same ones for the same seed. The driver runs seed after seed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

DONE_OR_REFUSED = frozenset({0, 2})


@dataclass(frozen=True)
class Answer:
    """What a command answered.

    Args:
        code: Its exit code.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Args:
        files: Content by path, relative to the folder of the case. Commands run in that folder.
        commands: Arguments of `croc`, one tuple a command, such as ("recipes", "check", "recipe.yaml").
        allowed: Exit codes that are right. 1 is for runs that start and then fail.
        seconds: CPU time that one command may take.
        writes: Files and folders that the commands may make or change. A change anywhere else is a failure.
        environ: Variables that the commands see besides the usual ones.
        setup: Makes what bytes cannot say in the folder (links, FIFOs, modes, copies of a checkpoint), after `files`.
        check: Says what is wrong with an answer beyond what the driver looks at; None where nothing is.
        note: A few words on what is hostile here.
    """

    commands: tuple[tuple[str, ...], ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    allowed: frozenset[int] = DONE_OR_REFUSED
    seconds: float = 5.0
    writes: tuple[str, ...] = ("out",)
    environ: Mapping[str, str] = field(default_factory=dict)
    setup: Callable[[Path], None] | None = None
    check: Callable[[Answer, Path], str | None] | None = None
    note: str = ""

    def write(self, folder: Path) -> None:
        """Write the files into a folder that exists."""
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if self.setup is not None:
            self.setup(folder)
