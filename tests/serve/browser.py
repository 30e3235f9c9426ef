"""A browser for tests: Debian's chromium through chromedriver, over WebDriver's plain HTTP."""

import base64
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")


class Browser:
    """One window.

    Args:
        session: Address of its WebDriver session.
    """

    def __init__(self, session: str) -> None:
        self._session = session
        self._http = httpx.Client(base_url=session, timeout=120)

    def go(self, url: str) -> None:
        """Open a page."""
        self._http.post("/url", json={"url": url}).raise_for_status()

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        answer = self._http.post("/execute/sync", json={"script": script, "args": list(arguments)})
        answer.raise_for_status()
        return answer.json()["value"]

    def wait(self, script: str) -> Any:
        """Return what a script returns once that is something; a test's own time limit ends the waiting."""
        while not (found := self.run(script)):
            time.sleep(0.02)
        return found

    def type(self, text: str) -> None:
        """Press keys, in whatever has the focus; \\ue007 is Enter, \\ue004 Tab, \\ue00c Escape."""
        keys = [step for key in text for step in ({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})]
        actions = [{"type": "key", "id": "keyboard", "actions": keys}]
        self._http.post("/actions", json={"actions": actions}).raise_for_status()

    def screenshot(self, file: Path) -> None:
        """Write a picture of the window."""
        file.write_bytes(base64.b64decode(self._http.get("/screenshot").json()["value"]))

    def close(self) -> None:
        """Close the window."""
        httpx.delete(self._session, timeout=120).raise_for_status()


@contextmanager
def browser(*, width: int = 1000, height: int = 800, dark: bool = False) -> Iterator[Browser]:
    """Open a headless window."""
    assert CHROMIUM is not None
    assert CHROMEDRIVER is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dark_flags = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-quic"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    flags += [f"--window-size={width},{height}", *dark_flags]
    options = {
        "binary": CHROMIUM,
        "args": flags,
        "mobileEmulation": {"deviceMetrics": {"width": width, "height": height}},
    }
    if width > 600:
        del options["mobileEmulation"]
    with subprocess.Popen([CHROMEDRIVER, f"--port={port}"], stdout=subprocess.DEVNULL) as driver:
        try:
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
                while True:
                    try:
                        if http.get("/status").json()["value"]["ready"]:
                            break
                    except httpx.TransportError:
                        time.sleep(0.05)
                made = http.post("/session", json=wanted).json()["value"]
            one = Browser(f"http://127.0.0.1:{port}/session/{made['sessionId']}")
            try:
                yield one
            finally:
                one.close()
        finally:
            driver.terminate()
