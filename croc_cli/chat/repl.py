"""The conversation on a terminal: reads lines, streams answers, and obeys the words that begin with a slash."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import NestedCompleter, PathCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from croc_cli.chat.images import ChatImage, load_image
from croc_cli.chat.session import ChatSession
from croc_cli.chat.stream import ctrl_c_sets
from croc_cli.chat.transcript import save_transcript
from croc_cli.errors import CrocError, UsageError
from croc_cli.files import own_path
from croc_cli.words import shown

HELP = """\
/image FILE  show a picture (a path or an http(s) URL) with the next question
/new         start over, with the picture that the program was started with
/save FILE   write the conversation: LLaVA JSON if FILE ends in .json, else text; --overwrite replaces FILE
/help        this list
/quit        leave (Ctrl-D too)
Ctrl-C stops an answer; the arrow keys bring back earlier lines."""

_OVERWRITE = " --overwrite"


def history_file() -> Path:
    """Return where the lines typed so far are kept."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "croc" / "chat_history"


def open_history() -> History:
    """Return the history of earlier conversations, or an empty one where it cannot be kept."""
    file = history_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


class Repl:
    """A conversation on a terminal.

    Args:
        session: Holds the conversation and answers.
        image: The picture that it begins with.
        read_line: Returns the next line; raises EOFError at the end and KeyboardInterrupt on Ctrl-C.
        write: Shows a piece of an answer.
        say: Shows a notice, one line or more.
        allow_private: `/image` may fetch from addresses of one's own network.
    """

    def __init__(
        self,
        session: ChatSession,
        *,
        image: ChatImage | None = None,
        read_line: Callable[[], str] | None = None,
        write: Callable[[str], None] | None = None,
        say: Callable[[str], None] | None = None,
        allow_private: bool = False,
    ) -> None:
        self.session = session
        self.allow_private = allow_private
        self.first_image = image
        self._read_line = read_line or _terminal_reader()
        self._write = write or _write
        self._say = say or _say
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/new": self._new,
            "/save": self._save,
            "/help": lambda _: self._say(HELP),
        }
        if image is not None:
            session.show(image)

    def run(self) -> None:
        """Read and answer until /quit or the end of input."""
        self._say("Ask about the picture." if self.first_image else "Ask, or show a picture with /image FILE.")
        self._say("/help lists the commands, Ctrl-D leaves.")
        while True:
            try:
                line = self._read_line().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._say("Ctrl-D or /quit leaves")
                continue
            if line == "/quit":
                return
            try:
                self._obey(line)
            except CrocError as error:
                self._say(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))

    def _obey(self, line: str) -> None:
        """Run a command, or answer a question."""
        word, _, rest = line.partition(" ")
        if not line:
            return
        if command := self._commands.get(word):
            command(rest.strip())
        elif word.startswith("/"):
            raise UsageError(f"no such command: {word}", hint="/help lists them")
        else:
            self._answer(line)

    def _answer(self, question: str) -> None:
        """Stream an answer; Ctrl-C ends it, and a second one gives the question up."""
        stop = threading.Event()
        try:
            with ctrl_c_sets(stop):
                answer = self.session.ask(question, on_text=self._write, stop=stop)
        except KeyboardInterrupt:
            self._write("\n")
            self._say("stopped; the question is forgotten")
            return
        self._write("\n")
        if answer.stopped:
            self._say("stopped" if answer.text else "stopped; the question is forgotten")

    def _image(self, reference: str) -> None:
        """Show a picture with the next question."""
        if not reference:
            raise UsageError("/image needs a file or a URL", hint="/image photo.jpg")
        image = load_image(
            _unquote(reference),
            allow_private=self.allow_private,
            reading=self.session.model.metadata.image_reading,
        )
        self.session.show(image)
        self._say(f"{image.name} is shown with the next question")

    def _new(self, _: str) -> None:
        """Start over."""
        self.session.restart()
        if self.first_image is not None:
            self.session.show(self.first_image)
        self._say("new conversation" + (f" about {self.first_image.name}" if self.first_image else ""))

    def _save(self, rest: str) -> None:
        """Write the conversation to a file."""
        overwrite = rest.endswith(_OVERWRITE)
        name = _unquote(rest.removesuffix(_OVERWRITE).strip())
        if not name:
            raise UsageError("/save needs a file", hint="/save conversation.json")
        if not self.session.turns:
            raise UsageError("nothing was said yet")
        file = own_path(name)
        save_transcript(
            file,
            self.session.turns,
            image_names=[image.name for image in self.session.images],
            model=str(self.session.model.folder),
            overwrite=overwrite,
        )
        self._say(f"saved {file}")


def _unquote(text: str) -> str:
    """Return `text` without the quotes around it, which people put around names with spaces."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _terminal_reader() -> Callable[[], str]:
    """Return a reader of lines with history, arrow keys and completion of commands and paths."""
    files = PathCompleter(expanduser=True)
    completer = NestedCompleter.from_nested_dict(
        {"/image": files, "/save": files, "/new": None, "/help": None, "/quit": None}
    )
    prompts: PromptSession[str] = PromptSession(
        history=open_history(), completer=completer, complete_while_typing=False, enable_open_in_editor=False
    )
    return lambda: prompts.prompt("> ")


def _write(piece: str) -> None:
    sys.stdout.write(shown(piece))
    sys.stdout.flush()


def _say(text: str) -> None:
    print(shown(text), file=sys.stderr, flush=True)
