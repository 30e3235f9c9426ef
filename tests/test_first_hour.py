"""A new user's first hour, typed on a terminal of 80 columns: from a data file to a scored model and its page."""

import json
import os
import pty
import random
import re
import select
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.benchmarks.runs import SUBSETS, write_pope

COLUMNS = 80
MINUTES = 4.0
COLOURS = {"red": (210, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 200)}
SHAPES = ("square", "circle")
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


def write_data(folder: Path, *, count: int = 48) -> None:
    """Write easy pictures, one coloured shape each, with a caption, as a LLaVA JSON."""
    draw_from = random.Random(0)
    (folder / "pictures").mkdir()
    rows = []
    for number in range(count):
        colour, shape = draw_from.choice(list(COLOURS)), draw_from.choice(SHAPES)
        image = Image.new("RGB", (72, 72), (235, 235, 235))
        left, top = draw_from.randrange(40), draw_from.randrange(40)
        pen, box = ImageDraw.Draw(image), (left, top, left + 24 + number % 7, top + 24 + number % 7)
        draw = pen.rectangle if shape == "square" else pen.ellipse
        draw(box, fill=COLOURS[colour])
        image.save(folder / f"pictures/{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhat is in the picture?"},
            {"from": "gpt", "value": f"a {colour} {shape}"},
        ]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "my.json").write_text(json.dumps(rows))


class Terminal:
    """A terminal of 80 columns on which commands are typed.

    Args:
        folder: Where they run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown = ""

    def type(self, *words: str, interrupt_at: str | None = None, seconds: float = 240) -> int:
        """Run a croc command, press Ctrl-C once some text is shown, and return the exit code."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.folder)
            os.environ |= {"COLUMNS": str(COLUMNS), "LINES": "24", "TERM": "xterm"}
            os.execv(sys.executable, [sys.executable, "-m", "croc_cli", *words])
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        text, deadline = "", time.monotonic() + seconds
        while time.monotonic() < deadline:
            ready, _, _ = select.select([terminal], [], [], 1.0)
            if not ready:
                continue
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:  # the other end was closed
                break
            if not part:
                break
            text += part.decode("utf-8", errors="replace")
            if interrupt_at is not None and re.search(interrupt_at, text):
                os.write(terminal, b"\x03")
                interrupt_at = None
        os.close(terminal)
        self.shown = _CODES.sub("", text)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def rows(self) -> list[str]:
        """Return what was shown, one row for each that the terminal drew."""
        return [row.rstrip() for row in re.split(r"[\r\n]+", self.shown) if row.strip()]

    def next_command(self) -> list[str]:
        """Return the words of the command that was named as the next one."""
        return re.findall(r"next: `croc ([^`]+)`", self.shown.replace("\r\n", "\n"))[-1].split()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_first_hour_on_a_terminal_takes_minutes_and_every_command_names_the_next(tmp_path: Path) -> None:
    started = time.monotonic()
    write_data(tmp_path)
    terminal = Terminal(tmp_path)
    fast = ("--set", "data.num_workers=0", "--no-preflight")

    assert terminal.type("init", "--data", "my.json", "--like", "nano", "--device", "cpu") == 0, terminal.shown
    assert "images lie in pictures" in terminal.shown
    assert "croc data verify mine.yaml" in terminal.shown
    assert terminal.type("data", "verify", "mine.yaml", "--deep") == 0, terminal.shown
    assert "nothing is wrong with it" in terminal.shown

    align = ("align", "mine.yaml", "--steps", "60", *fast)
    assert terminal.type(*align, interrupt_at=r"step [2-9]/60") == 130, terminal.shown
    assert "stopping after this step and saving" in terminal.shown
    assert "the same command" in terminal.shown
    assert terminal.type(*align) == 0, terminal.shown
    assert "60/60" in terminal.shown
    assert terminal.next_command()[:2] == ["reconstruct", "mine.yaml"]
    live = [row for row in terminal.rows() if "step " in row and "/60" in row]
    assert live
    assert max(map(len, live)) <= COLUMNS

    assert terminal.type(*terminal.next_command(), "--steps", "8", "--no-preflight") == 0, terminal.shown
    assert terminal.next_command()[:2] == ["finetune", "mine.yaml"]
    assert terminal.type(*terminal.next_command(), "--steps", "8", "--no-preflight") == 0, terminal.shown
    assert terminal.next_command()[:2] == ["chat", "--model"]
    chat = terminal.next_command()
    assert terminal.type("chat", "pictures/0.png", "What is in the picture?", *chat[1:]) == 0, terminal.shown
    assert "Traceback" not in terminal.shown

    write_pope(tmp_path / "eval", num=2)
    (tmp_path / "eval/pope/val2014").mkdir()
    for number in (1, 2):
        (tmp_path / f"pictures/{number}.png").rename(tmp_path / f"eval/pope/val2014/i{number}.png")
    model = ("--model", chat[2], "--run-dir", "runs/mine")
    assert terminal.type("eval", *model, "--benchmark", "pope", "--data", "eval") == 0, terminal.shown
    assert len(SUBSETS) == 3
    assert terminal.next_command() == ["report", "runs/mine"]
    assert terminal.type(*terminal.next_command(), "--no-model") == 0, terminal.shown
    assert (tmp_path / "runs/mine/report/index.html").is_file()

    busy = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    assert time.monotonic() - started < MINUTES * 60 * busy
