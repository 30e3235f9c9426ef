"""Nothing in a micro-batch's path makes the host wait for a GPU, except the first assignment of a step."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "croc_cli"
FORWARD_PATH = {
    "model/lmm.py": None,
    "model/attention_mask.py": None,
    "model/reconstruction.py": None,
    "train/stage_module.py": None,
    "objectives/caption.py": None,
    "objectives/reconstruction.py": None,
    "objectives/baseline.py": None,
    "data/micro_batch.py": ("to", "_map"),
    "model/assignment.py": ("begin_assignment", "result"),
    "model/token_pool.py": ("begin", "forward"),
    "model/transfers.py": None,
    "train/ahead.py": None,
    "train/step_report.py": ("add", "queue", "_baseline"),
    "train/step_rows.py": ("stop", "keep"),
    "train/trainer.py": ("_step", "_ended", "_seed_dropout"),
    "train/zero3.py": ("outside_forward",),
}
"""Files of the forward path, and the functions that belong to it; None = all of them."""
WAITING_METHODS = {"item", "tolist", "synchronize", "cpu", "numpy", "nonzero", "unique", "equal", "masked_select"}
WAITING_CALLS = {"float", "bool", "int"}


def waits(source: str, functions: tuple[str, ...] | None = None) -> Iterator[str]:
    """Yield the calls in a file that wait for a GPU where their argument is on one."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or (functions is not None and function.name not in functions):
            continue
        for call in ast.walk(function):
            if not isinstance(call, ast.Call):
                continue
            if isinstance(call.func, ast.Attribute) and call.func.attr in WAITING_METHODS:
                yield f"line {call.lineno}: .{call.func.attr}()"
            elif isinstance(call.func, ast.Name) and call.func.id in WAITING_CALLS:
                yield f"line {call.lineno}: {call.func.id}()"


@pytest.mark.parametrize("file", FORWARD_PATH)
def test_the_forward_path_does_not_wait_for_the_device(file: str) -> None:
    assert list(waits((PACKAGE / file).read_text(encoding="utf-8"), FORWARD_PATH[file])) == []


def test_the_scan_finds_what_waits() -> None:
    source = "def forward(x):\n    x.cpu()\n    y = float(x)\n    return x.float().bool()\ndef other(x): x.item()\n"
    assert list(waits(source, ("forward",))) == ["line 2: .cpu()", "line 3: float()"]
