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
        (("align", "--steps", "many"), "--steps many: must be a whole number", "`croc align --help`"),
        (("align", "--steps", "1k"), "--steps 1k: must be a whole number; did you mean 1000?", "`croc align --help`"),
        (("align", "--gpus", "0"), "--gpus 0: must be at least 1", "`croc align --help`"),
        (("plan", "--utilisation", "40"), "--utilisation 40: must be at most 1; did you mean 0.4?", "croc plan"),
        (("reconstruct", "nano", "--mask", "75"), "not '75'; did you mean 0.75?", ""),
        (("reconstruct", "nano", "--mask", "75%"), "not '75%'; did you mean 0.75?", ""),
        (("align", "--mask", "0.5"), "No such option: --mask", "`--mask` belongs to reconstruct"),
        (("align", "--row", "5"), "No such option: --row", "`--row` belongs to data show"),
        (("align", "-b", "pope"), "No such option: -b", "`-b` belongs to eval and eval score"),
        (("eval", "nano", "more"), "extra argument", "`croc eval --help`"),
        (("report", "--out", "x"), "Missing argument 'RUN_DIR'", "`croc report --help`"),
        (("align", "nao"), "no recipe named 'nao'", "did you mean nano?"),
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
        raise RunError("it broke", hint="fix it")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("croc_cli.launch.doctor.examine", failing)
    answer = croc("doctor")
    assert (answer.code, answer.err) == (1, "error: it broke\nhint: fix it\n")
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


@pytest.mark.parametrize("command", [("eval", "nano"), ("plan", "nano"), ("recipes", "check", "nano")])
def test_a_variable_that_is_no_key_is_a_warning_of_every_command_with_a_recipe(command: tuple[str, ...]) -> None:
    answer = croc_process(*command, CROC_SOMETHING_ELSE="1")
    assert "warning: CROC_SOMETHING_ELSE is not a key of a recipe" in answer.err
    assert answer.err.count("SOMETHING_ELSE") == 1


@pytest.mark.parametrize(("group", "flags"), [("eval", ("--benchmark", "--dry-run")), ("report", ("--out", "--model"))])
def test_help_of_a_group_that_is_a_command_shows_its_flags_its_commands_and_an_example(
    group: str, flags: tuple[str, ...]
) -> None:
    answer = croc(group, "--help")
    assert answer.code == 0
    assert f"Usage: croc {group} [OPTIONS] " in answer.out
    for words in (*flags, "Commands:", "Example: croc " + group):
        assert words in answer.out


@pytest.mark.parametrize("group", ["data", "recipes", "report"])
def test_a_group_that_needs_arguments_shows_its_help_without_them(group: str) -> None:
    answer = croc(group)
    assert answer.code == 0
    assert answer.out.startswith(f"Usage: croc {group}")
    assert answer.err == ""
