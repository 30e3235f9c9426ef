import json

import pytest
from PIL import Image
from prompt_toolkit.history import InMemoryHistory

from croc_cli.chat import repl as repl_module
from croc_cli.chat.repl import Repl, open_history
from croc_cli.chat.session import ChatSession
from croc_cli.chat.start import answer_once


def talk(session, lines, image=None):
    """Type `lines` (an exception class is a key pressed) and return what was answered and what was said."""
    waiting = iter(lines)
    answers, notices = [], []

    def read_line():
        line = next(waiting, EOFError)
        if isinstance(line, str):
            return line
        raise line

    Repl(session, image=image, read_line=read_line, write=answers.append, say=notices.append).run()
    return "".join(answers), "\n".join(notices)


@pytest.fixture
def session(vicuna):
    return ChatSession(vicuna, max_tokens=6)


def test_the_first_answer_is_the_one_that_a_pipe_gets(vicuna, session, red):
    answers, _ = talk(session, ["What is this?"], image=red)
    assert answers == answer_once(ChatSession(vicuna, max_tokens=6), "What is this?", red) + "\n"


def test_quit_and_the_end_of_input_leave_and_empty_lines_do_nothing(session):
    answers, _ = talk(session, ["", "   ", "/quit", "never asked"])
    assert answers == ""
    assert session.turns == []


def test_ctrl_c_at_the_prompt_does_not_leave(session):
    answers, notices = talk(session, [KeyboardInterrupt, "Hello?"])
    assert "Ctrl-D or /quit leaves" in notices
    assert answers.strip()


def test_a_picture_is_added_by_path_with_spaces_or_quotes(session, tmp_path):
    file = tmp_path / "a red one.png"
    Image.new("RGB", (20, 20), (200, 0, 0)).save(file)
    _, notices = talk(session, [f"/image {file}", f'/image "{file}"', "What are these?"])
    assert notices.count(f"{file} is shown with the next question") == 2
    assert [image.name for image in session.images] == [str(file)] * 2
    assert session.turns[0].text == "<image>\n<image>\nWhat are these?"


def test_mistakes_are_said_and_the_conversation_goes_on(session, tmp_path):
    answers, notices = talk(
        session, ["/image", f"/image {tmp_path}/none.png", "/imagine x", "/save", "/save x.json", "Hello?"]
    )
    assert "error: /image needs a file or a URL\nhint: /image photo.jpg" in notices
    assert f"error: image {tmp_path}/none.png: no such file" in notices
    assert "error: no such command: /imagine\nhint: /help lists them" in notices
    assert "error: /save needs a file" in notices
    assert "error: nothing was said yet" in notices
    assert answers.strip()


def test_new_forgets_all_but_the_first_picture(session, red, noise):
    talk(session, ["What?", "/new", "And now?"], image=red)
    assert [turn.text for turn in session.turns[::2]] == ["<image>\nAnd now?"]
    assert session.images == [red]
    session.show(noise)
    talk(session, ["/new"])
    assert session.turns == session.images == session.pending == []


def test_the_conversation_is_saved(session, red, tmp_path):
    file = tmp_path / "my talk.json"
    _, notices = talk(session, ["What?", f"/save {file}", f"/save {file}", f"/save {file} --overwrite"], image=red)
    assert notices.count(f"saved {file}") == 2
    assert f"error: {file} exists\nhint: /save {file} --overwrite replaces it" in notices
    (sample,) = json.loads(file.read_text())
    assert sample["image"] == red.name
    assert sample["conversations"][0] == {"from": "human", "value": "<image>\nWhat?"}
    assert sample["model"] == str(session.model.folder)


def test_help_names_every_command(session):
    _, notices = talk(session, ["/help"])
    for word in ("/image", "/new", "/save", "/help", "/quit", "Ctrl-C"):
        assert word in notices


def test_an_answer_given_up_is_forgotten_and_the_program_goes_on(session, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "ask", interrupted)
        _, notices = talk(session, ["Hello?"])
    assert "stopped; the question is forgotten" in notices
    answers, _ = talk(session, ["Hello?"])
    assert answers.strip()


def test_the_history_is_kept_in_the_users_state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    history = open_history()
    history.append_string("What is this?")
    assert list(open_history().load_history_strings()) == ["What is this?"]
    assert (tmp_path / "state" / "croc" / "chat_history").stat().st_mode & 0o077 == 0


def test_a_history_that_cannot_be_kept_is_kept_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(repl_module, "history_file", lambda: tmp_path / "file" / "croc" / "chat_history")
    assert isinstance(open_history(), InMemoryHistory)
