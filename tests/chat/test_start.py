import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from croc_cli.chat.start import ChatRequest, read_prompt, recipe_defaults, run_chat
from croc_cli.commands import chat as chat_command
from croc_cli.commands.groups import CrocGroup
from croc_cli.errors import UsageError


class Terminal(io.StringIO):
    def isatty(self):
        return True


app = typer.Typer(cls=CrocGroup, rich_markup_mode=None, pretty_exceptions_enable=False)
app.callback()(lambda: None)
app.command()(chat_command.chat)


def croc_chat(*arguments, stdin=""):
    """Run `croc chat` in this process with a stdin that is not a terminal."""
    return CliRunner().invoke(app, ["chat", *map(str, arguments)], input=stdin)


@pytest.fixture
def home(vicuna_folder, monkeypatch, tmp_path):
    """A working directory whose runs/ holds a finetuned checkpoint, and a picture."""
    root = vicuna_folder.parents[4]
    monkeypatch.chdir(root)
    Image.new("RGB", (60, 40), (220, 20, 20)).save(root / "image.png")
    return root


def test_a_prompt_gives_one_answer_on_stdout_and_names_the_model_on_stderr(home):
    done = croc_chat("image.png", "What is this?")
    assert done.exit_code == 0
    assert done.stderr == "model: runs/tiny/finetune/checkpoints/step-00000002\n"
    assert done.stdout.strip()
    piped = croc_chat("image.png", stdin="What is this?\n")
    assert piped.stdout == done.stdout
    named = croc_chat("image.png", "What is this?", "--model", "runs/tiny/finetune/checkpoints/step-00000002")
    assert named.stdout == done.stdout
    assert named.stderr == ""


def test_flags_win_over_the_checkpoints_recipe(home, vicuna_folder):
    assert recipe_defaults(vicuna_folder) == {"max_tokens": 12}
    short = croc_chat("image.png", "What is this?", "--max-tokens", "2").stdout
    assert 0 < len(short) < len(croc_chat("image.png", "What is this?").stdout)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("none.png", "Hi"), "", "error: image none.png: no such file\n"),
        ((".", "Hi"), "", "error: image .: a folder, expected a file\n"),
        (("file:///etc/passwd", "Hi"), "", "error: image file:///etc/passwd: file:// is not fetched"),
        (("image.png", " "), "", "error: the prompt is empty"),
        (("image.png",), "\n", "error: the prompt is empty"),
        (("image.png", "Hi", "--model", "./none"), "", "error: checkpoint ./none not found: no such folder in"),
        (("image.png", "Hi", "--device", "nonsense"), "", "error: device nonsense cannot be used"),
        (("image.png", "Hi", "--temperature", "-1"), "", "error: "),
        (("image.png", "Hi", "--max-tokens", "0"), "", "error: "),
    ],
)
def test_bad_input_ends_with_2_and_nothing_on_stdout(home, arguments, stdin, message):
    done = croc_chat(*arguments, stdin=stdin)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert message in done.stderr


def test_without_any_finetuned_checkpoint_it_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = croc_chat(stdin="Hi")
    assert done.exit_code == 2
    assert f"error: no finetune checkpoint under {tmp_path}/runs\n" in done.stderr


def test_a_terminal_without_a_prompt_is_a_conversation(home, monkeypatch):
    started = []
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(
        "croc_cli.chat.repl.Repl.__init__",
        lambda self, session, *, image, allow_private: started.append(image.name),
    )
    monkeypatch.setattr("croc_cli.chat.repl.Repl.run", lambda self: started.append("run"))
    run_chat(ChatRequest(image="image.png"))
    assert started == [str(home / "image.png"), "run"]


def test_a_conversation_is_not_written_into_a_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(UsageError, match="stdout is not a terminal"):
        read_prompt(ChatRequest())


def test_a_prompt_that_is_no_text_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\xff"), encoding="utf-8"))
    with pytest.raises(UsageError, match="the prompt on stdin is not text"):
        read_prompt(ChatRequest())


def test_the_command_imports_nothing_heavy_until_it_runs():
    code = "import sys, croc_cli.commands.chat; assert not {'torch', 'transformers', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


@pytest.mark.parametrize(
    "text", ["chat: {max_tokens: many}", "chat: {max_tokens: 0}", "chat: {temperature: [1]}", "chat: {temperature: -1}"]
)
def test_values_of_the_recipe_that_are_none_are_named(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"recipe\.yaml: chat\.(max_tokens|temperature) is .*, expected a number"):
        recipe_defaults(tmp_path)


def test_a_broken_checkpoint_does_not_keep_from_the_good_ones(home, vicuna_folder):
    """One whose weights are no numbers and one without a readable croc.json, both newer than the sound one."""
    broken = []
    for name in ("nan", "unreadable"):
        folder = home / "runs" / name / "finetune" / "checkpoints" / "step-00000009"
        shutil.copytree(vicuna_folder, folder)
        broken.append(folder)
    weights = load_file(broken[0] / "model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, broken[0] / "model.safetensors", {"format": "pt"})
    about = json.loads((broken[0] / "croc.json").read_text())
    (broken[0] / "croc.json").write_text(json.dumps(about | {"files": {}}))
    (broken[1] / "croc.json").write_text("{")
    try:
        done = croc_chat("image.png", "What is this?")
        assert done.exit_code == 0
        assert done.stdout.strip()
        lines = done.stderr.splitlines()
        assert lines[0].startswith("skipped: runs/unreadable/finetune/checkpoints/step-00000009/croc.json cannot be")
        assert "values that are NaN or infinite" in lines[1]
        assert lines[-1] == "model: runs/tiny/finetune/checkpoints/step-00000002"
    finally:
        shutil.rmtree(home / "runs" / "nan")
        shutil.rmtree(home / "runs" / "unreadable")
