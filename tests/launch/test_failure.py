from pathlib import Path

import pytest

from croc_cli.errors import RunError, UsageError
from croc_cli.launch.failure import explain_failure, hint_from, in_one_line, last_lines, signal_of
from croc_cli.run_dir import StageDir, write_json


def test_the_rank_that_failed_first_is_shown_not_those_that_lost_it(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "align")
    write_json(
        stage.failure_file(0), {"rank": 0, "message": "connection closed by peer", "exit_code": 1, "uptime": 9.0}
    )
    write_json(
        stage.failure_file(1),
        {"rank": 1, "message": "loss is not finite", "hint": "lower the rate", "exit_code": 1, "uptime": 10.0},
    )
    stage.logs.mkdir()
    (stage.logs / "20260101_rank1.log").write_text("\n".join(f"line {n}" for n in range(40)))
    failure = explain_failure(stage, exit_code=1)
    assert isinstance(failure.error, RunError)
    assert failure.error.message == "align failed on rank 1: loss is not finite"
    assert failure.error.hint == "lower the rate"
    assert failure.lines == tuple(f"line {n}" for n in range(25, 40))


def test_what_a_user_can_mend_comes_without_log_lines_and_keeps_its_exit_code(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "align")
    write_json(
        stage.failure_file(0), {"rank": 0, "message": "a.json:7: no `conversations`", "exit_code": 2, "uptime": 1.0}
    )
    stage.logs.mkdir()
    (stage.logs / "20260101_rank0.log").write_text("Traceback (most recent call last):\n")
    failure = explain_failure(stage, exit_code=2)
    assert isinstance(failure.error, UsageError)
    assert failure.error.message == "a.json:7: no `conversations`"
    assert failure.lines == ()


def test_a_launcher_that_ends_well_while_the_stage_is_not_finished_is_a_failure_too(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "align")
    stage.logs.mkdir(parents=True)
    assert "without an error message" in explain_failure(stage, exit_code=0).error.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "align.batch.micro_size"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "data.num_workers"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("The server socket has failed to bind: address already in use", "launch.master_port"),
        ("DataLoader worker is killed by signal: Bus error.", "num_workers=0"),
        ("RuntimeError: Error building extension 'deepspeed_shm_comm'", "croc doctor"),
        ("ModuleNotFoundError: No module named 'wandb'", "croc doctor"),
    ],
)
def test_causes_known_by_their_words_get_a_hint(text: str, words: str, tmp_path: Path) -> None:
    assert words in (hint_from(text, StageDir(tmp_path / "align")) or "")


def test_unknown_words_get_no_invented_hint() -> None:
    assert hint_from("ValueError: it broke", StageDir(Path("align"))) is None


def test_a_loader_processs_error_is_told_by_what_was_raised_there() -> None:
    caught = (
        "ValueError: Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    )
    assert (
        in_one_line(f'{caught}  File "a.py", line 3\nValueError: the image is empty\n')
        == "ValueError: the image is empty"
    )
    assert in_one_line("two things:\n  one\n  two") == "two things:\n  one\n  two"


def test_signals_are_read_from_every_form_of_exit_code() -> None:
    assert [signal_of(code) for code in (-9, 137, 247, 143, 0, 1, 2, 130)] == [9, 9, 9, 15, None, None, None, None]


def test_the_end_of_a_log_is_shown_without_progress_bars(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"one\n 0%\r 50%\r100%\n\ntwo \xff\n")
    assert last_lines(log) == ("one", "100%", "two \ufffd")
    assert last_lines(tmp_path / "missing.log") == ()


def test_an_error_that_says_it_all_has_no_log_lines_before_it(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "align")
    record = {"rank": 0, "message": "no picture opens", "hint": "fix them", "exit_code": 1, "uptime": 1.0}
    write_json(stage.failure_file(0), record | {"traceback": None})
    stage.logs.mkdir()
    (stage.logs / "20260101_rank0.log").write_text("Traceback (most recent call last):\n")
    failure = explain_failure(stage, exit_code=1)
    assert failure.error.message == "align failed on rank 0: no picture opens"
    assert failure.lines == ()
