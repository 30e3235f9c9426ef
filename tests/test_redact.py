"""No secret is written, printed or logged: a canary is driven along every path, errors included."""

import io
import json
import sys
from pathlib import Path

import pytest

from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.judge import Judge
from croc_cli.console import say, show_error, write_traceback
from croc_cli.errors import UsageError
from croc_cli.launch.job import write_launch_files
from croc_cli.launch.live import PlainLines
from croc_cli.launch.plan import plan_stage
from croc_cli.names import JUDGE_KEY_VARIABLE
from croc_cli.recipe.load import dump_recipe, load_recipe
from croc_cli.redact import guard_streams, read_key, redact
from croc_cli.run_dir import RunDir, StageDir, write_json
from croc_cli.train.metrics import JsonLines
from croc_cli.worker.__main__ import report_failure
from tests.benchmarks.golden_files import load, write_files
from tests.benchmarks.runs import write_rows
from tests.benchmarks.test_judge import Stub, served
from tests.commands.croc import croc

CANARY = 'sk-canary/é+7f3a"b'
PLAIN = "sk-canary-7f3a9b"


@pytest.fixture(autouse=True)
def canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", CANARY)
    monkeypatch.setenv("HF_TOKEN", f" {PLAIN}\n")
    monkeypatch.setenv(JUDGE_KEY_VARIABLE, f"{PLAIN}-judge\r\n")


def assert_clean(*texts: str) -> None:
    for text in texts:
        assert "canary" not in text, text


def assert_clean_below(folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert b"canary" not in file.read_bytes(), file


@pytest.mark.parametrize(
    "text",
    [
        f"Illegal header value b'Bearer {PLAIN}-judge'",
        json.dumps({"echo": CANARY}),
        json.dumps({"echo": CANARY}, ensure_ascii=False),
        repr(CANARY),
        "https://user:canary@host/v1",
        "https://canary@host/v1",
        "postgres://canary:canary@host/db",
        "https://host/v1?a=1&api_key=canary&b=2&token=canary",
        "https://host/file?X-Amz-Signature=canary",
        "GET https://host/sk-canary%2F%C3%A9%2B7f3a%22b",
    ],
)
def test_a_secret_is_hidden_however_it_is_written(text: str) -> None:
    assert_clean(redact(text))
    assert "***" in redact(text)


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    monkeypatch.setenv("KEY_FILE", "/home/keys")
    monkeypatch.setenv("SHORT_TOKEN", "true")
    text = "disabled /home/keys true me@host https://host/a?page=2&tokens=5 git@host:repo"
    assert redact(text) == text


def test_everything_that_croc_prints_and_writes_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(CANARY)
    show_error(CANARY, PLAIN)
    with PlainLines("align", sys.stderr) as lines:
        lines.message(CANARY)
    printed = capsys.readouterr()
    assert_clean(printed.out, printed.err)
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        assert_clean(write_traceback(error).read_text())
    JsonLines(tmp_path / "events.jsonl").write(message=CANARY, hint=f"https://x:{PLAIN}@y")
    write_json(tmp_path / "a.json", {"message": PLAIN, "nested": [CANARY]})
    assert_clean_below(tmp_path)


def test_launch_files_and_the_copies_of_recipes_are_clean(tmp_path: Path) -> None:
    from croc_cli.launch.layout import Layout

    recipe = load_recipe(
        "nano", overrides={"judge.base_url": ("https://me:canary@host/v1?key=canary", "--judge-url")}
    ).recipe
    stage_dir = RunDir(tmp_path).stage("align")
    layout = Layout("cpu", (1,), (), 1)
    plan = plan_stage(recipe, "align", stage_dir, start=None, layout=layout, master_port=1, counts={})
    write_launch_files(plan, recipe_yaml=dump_recipe(recipe), fingerprint="f")
    assert_clean_below(tmp_path)


def test_a_rank_s_failure_and_its_log_are_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage_dir = StageDir(tmp_path / "benchmarks")
    stage_dir.failures.mkdir(parents=True)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stdout", log)
    monkeypatch.setattr(sys, "stderr", log)
    guard_streams()
    print(CANARY)
    for error in (ValueError(f"shortened {PLAIN[:14]}...a9b"), UsageError(CANARY, hint=f"https://me:{PLAIN}@host")):
        report_failure(stage_dir, error, room=tmp_path / "room")
        assert_clean(stage_dir.failure_file(0).read_text(), log.getvalue())
    assert "***" in log.getvalue()


def test_a_judge_that_echoes_the_key_leaves_it_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_files("mmvet", tmp_path / "data")
    predictions = tmp_path / "run" / "benchmarks" / "predictions"
    write_rows(predictions / "mmvet.jsonl", load("mmvet")["predictions"])
    echo = f"0.5 {PLAIN}-judge"
    num_workers, timeout, _, *rest = Judge.__init__.__defaults__ or ()
    monkeypatch.setattr(Judge.__init__, "__defaults__", (num_workers, timeout, 0, *rest))  # no retries
    for reply in (echo, 500, {"error": echo}, [echo], {"choices": [{"message": {"content": [echo]}}]}):
        with served(Stub(reply)) as url:
            command = ("eval", "score", str(tmp_path / "run"), "--data", str(data), "--judge-model", "m")
            answer = croc(*command, "--judge-url", url.replace("//", "//me:canary@"))
            assert_clean(answer.out, answer.err)
            assert "Traceback" not in answer.err
        assert_clean_below(tmp_path / "run")


def test_a_key_is_stripped_and_one_that_no_header_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_key(JUDGE_KEY_VARIABLE) == f"{PLAIN}-judge"
    monkeypatch.setenv(JUDGE_KEY_VARIABLE, " \n")
    assert read_key(JUDGE_KEY_VARIABLE) is None
    for wrong in ("sk-canary\nx", "sk-canary x", "sk-canary-é", "sk-canary\x7f"):
        monkeypatch.setenv(JUDGE_KEY_VARIABLE, wrong)
        with pytest.raises(UsageError) as caught:
            read_key(JUDGE_KEY_VARIABLE)
        assert_clean(caught.value.message, str(caught.value.hint))
        assert JUDGE_KEY_VARIABLE in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "api.openai.com/v1",
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http://host/v1 x",
        "http://host/v1\n",
        "http://host/v1?key=canary",
        "https://***@host/v1",
    ],
)
def test_a_judge_s_url_is_checked_before_the_first_request(url: str, tmp_path: Path) -> None:
    answer = croc("eval", "--model", "m", "-b", "mmvet", "--judge-url", url, "--judge-model", "m")
    assert answer.code == 2
    assert "judge" in answer.err
    assert_clean(answer.err)
    assert isinstance(BenchmarkDataError(""), UsageError)
