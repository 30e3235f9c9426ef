"""The page in a real browser against a real server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.browser import CHROMEDRIVER, CHROMIUM, Browser, browser
from tests.serve.conftest import Running
from tests.serve.test_app import data_url

pytestmark = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason="no chromium and chromedriver here")
DROP = """
const bytes = Uint8Array.from(atob(arguments[0].split(",")[1]), letter => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "red.png", { type: "image/png" }));
const kind = arguments[1];
const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
  : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
document.body.dispatchEvent(event);
"""
SAID = "return [...document.querySelectorAll('.answers .turn p')].map(p => p.textContent)"
READY = "return !document.querySelector('#send').disabled && document.querySelectorAll('.tools').length"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture
def page(window: Browser, server: Running) -> Browser:
    window.go(server.url)
    window.wait("return document.querySelector('#models input')")
    return window


def ask(page: Browser, question: str, *, tokens: int = 8) -> None:
    page.run(
        "document.querySelector('#tokens').value = arguments[0]; document.querySelector('#question').focus()", tokens
    )
    page.type(question + "\ue007")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted_and_asked_about_by_keyboard(page: Browser, way: str) -> None:
    page.run(DROP, data_url(), way)
    page.wait("return document.querySelectorAll('#pending img').length === 1")
    ask(page, "What is this?")
    page.wait(READY)
    [said] = page.run(SAID)
    assert said
    assert page.run("return document.querySelector('.who').textContent") == "tiny (ended at max tokens)"
    ask(page, "And now?")
    page.wait("return document.querySelectorAll('.tools').length === 2")
    assert len(page.run(SAID)) == 2
    assert page.run("return conversations.get('tiny').length") == 4


def test_escape_stops_an_answer_and_keeps_what_was_said(page: Browser, server: Running) -> None:
    ask(page, "A long story.", tokens=450)
    page.wait("return document.querySelector('.answers .turn p')?.textContent.length > 3")
    page.type("\ue00c")
    page.wait(READY)
    assert page.run("return document.querySelector('.who').textContent") == "tiny (stopped)"
    engine = server.service.models["tiny"].engine
    while engine.load() != (0, 0):
        pass
    assert page.run("return conversations.get('tiny')[1].content") == page.run(SAID)[0]


def test_an_answer_can_be_copied_as_curl_and_python_that_run(page: Browser, server: Running) -> None:
    page.run(DROP, data_url(), "drop")
    page.wait("return pending.length")
    ask(page, "It's what?")
    page.wait(READY)
    request = "body('tiny', [{ role: 'user', content: \"It's what?\" }], false)"
    curl = page.run(f"return asCurl({request})")
    python = page.run(f"return asPython({request})")
    assert '"content"' in subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout
    done = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


def test_the_overlay_shows_where_an_answer_looks(page: Browser) -> None:
    page.run(DROP, data_url(), "drop")
    page.wait("return pending.length")
    ask(page, "What?")
    page.wait(READY)
    page.run("[...document.querySelectorAll('.tools button')].find(b => b.textContent === 'Where it looks').click()")
    shown = page.wait("return document.querySelector('.looks figcaption')?.textContent")
    assert "of the answer's attention" in shown
    size = page.run("const canvas = document.querySelector('canvas'); return [canvas.width, canvas.height]")
    assert size == [60, 60]


def test_an_error_is_shown_in_the_conversation_and_the_next_question_works(page: Browser) -> None:
    long = [{"role": "user", "content": "word " * 900}, {"role": "assistant", "content": "x"}]
    page.run("conversations.set('tiny', arguments[0])", long)
    ask(page, "Too long?")
    page.wait("return document.querySelector('.turn.failed')")
    assert "the model takes 512" in page.run("return document.querySelector('.turn.failed p').textContent")
    page.run("document.querySelector('#new').click()")
    ask(page, "Better?")
    page.wait(READY)


def test_nothing_is_fetched_from_elsewhere_and_everything_is_reached_by_tab(page: Browser, server: Running) -> None:
    names = page.run("return performance.getEntriesByType('resource').map(one => one.name)")
    assert all(name.startswith((server.url, "data:")) for name in names)
    page.run("document.body.focus(); document.activeElement.blur()")
    seen = set()
    for _ in range(12):
        page.type("\ue004")
        seen.add(page.run("return document.activeElement.id"))
    assert {"temperature", "tokens", "new", "question", "choose", "send"} <= seen


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1000, True)])
def test_the_page_fits_a_phone_and_is_dark_where_asked(server: Running, width: int, dark: bool, tmp_path: Path) -> None:
    with browser(width=width, height=700, dark=dark) as one:
        one.go(server.url)
        one.wait("return document.querySelector('#models input')")
        one.run(DROP, data_url(size=(600, 200)), "drop")
        one.wait("return pending.length")
        ask(one, "A long question without an end " * 5)
        one.wait(READY)
        assert one.run("return document.documentElement.scrollWidth <= innerWidth")
        assert one.run("return getComputedStyle(document.querySelector('#key-field')).display") == "none"
        bottom = "document.querySelector('.tools').getBoundingClientRect().bottom"
        assert one.run(f"return {bottom} <= document.querySelector('footer').getBoundingClientRect().top")
        colour = one.run("return getComputedStyle(document.body).backgroundColor")
        assert (colour == "rgb(20, 24, 22)") is dark
        one.screenshot(tmp_path / "page.png")
