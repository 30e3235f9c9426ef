import os
import subprocess
import sys
from pathlib import Path

import pytest

from croc_cli import __version__
from croc_cli.errors import RunError
from tests.commands.croc import croc, croc_process


def test_version_goes_to_stdout() -> None:
    answer = croc("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"croc {__version__}\n", "")


def test_without_arguments_croc_shows_its_help() -> None:
    answer = croc()
    assert answer.code == 0
    for command in ("demo", "run", "align", "reconstruct", "finetune", "chat", "recipes", "plan", "doctor"):
        assert f"  {command} " in answer.out


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("reconstruct", "--pool-siz", "3"), "No such option: --pool-siz", "did you mean --pool-size"),
        (("--verson",), "No such option: --verson", "did you mean --version?"),
        (("recnstruct",), "No such command 'recnstruct'. Did you mean 'reconstruct'?", "croc --help"),
        (("align", "--steps", "many"), "Invalid value for '--steps'", "`croc align --help`"),
        (("align", "nao"), "there is no recipe named 'nao'", "did you mean nano?"),
        (("align", "nano", "--set", "max_steps"), "--set max_steps: must be key=value", "for example --set"),
        (("reconstruct", "nano", "--matching", "hungry"), "matching", ""),
    ],
)
def test_wrong_usage_is_one_line_and_a_hint_with_exit_code_2(arguments: tuple[str, ...], error: str, hint: str) -> None:
    answer = croc(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert error in answer.err
    assert hint in answer.err
    assert "Traceback" not in answer.err


def test_flags_are_named_as_the_origin_of_what_they_set() -> None:
    answer = croc("reconstruct", "nano", "--mask", "0.5", "--pool-size", "0")
    assert answer.code == 2
    answer = croc("reconstruct", "nano", "--matching", "hungry")
    assert "--matching: reconstruct.matching" in answer.err


def test_what_nobody_expected_leaves_its_traceback_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("croc_cli.launch.doctor.examine", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    answer = croc("doctor")
    assert answer.code == 1
    assert answer.err.splitlines()[0] == "error: ZeroDivisionError: division by zero"
    file = Path(answer.err.split()[-1])
    assert file.parent == tmp_path
    assert "in broken" in file.read_text()


def test_a_failed_run_exits_with_1_and_ctrl_c_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RunError("it broke", hint="mend it")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("croc_cli.launch.doctor.examine", failing)
    answer = croc("doctor")
    assert (answer.code, answer.err) == (1, "error: it broke\nhint: mend it\n")
    monkeypatch.setattr("croc_cli.launch.doctor.examine", interrupted)
    assert croc("doctor").code == 130


def test_a_terminal_gets_colour_unless_it_asks_for_none() -> None:
    def shown(**environment: str) -> bytes:
        import pty

        master, slave = pty.openpty()
        command = [sys.executable, "-m", "croc_cli", "recnstruct"]
        clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        subprocess.run(command, stderr=slave, stdout=subprocess.DEVNULL, env=clean | environment, check=False)
        os.close(slave)
        return os.read(master, 4096)

    assert b"\x1b[1;31merror:" in shown()
    assert shown(NO_COLOR="1").startswith(b"error: ")


def test_the_papers_command_says_before_any_launch_what_is_needed() -> None:
    answer = croc_process("reconstruct", "--pool-size", "2048", "--mask", "0.75", CUDA_VISIBLE_DEVICES="")
    assert answer.code == 2
    assert "recipe croc-7b needs CUDA GPUs" in answer.err
    assert "the nearest recipe that fits is " in answer.err
    assert len([line for line in answer.err.splitlines() if not line.startswith("note: ")]) == 2


def test_python_m_croc_cli_is_croc() -> None:
    assert croc_process("--version").out == f"croc {__version__}\n"
