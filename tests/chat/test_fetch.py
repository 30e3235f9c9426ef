import http.server
import io
import threading
import time

import pytest
from PIL import Image

from croc_cli.chat.fetch import FetchError, check_address, fetch


def png():
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 30)).save(content, "PNG")
    return content.getvalue()


class Pictures(http.server.BaseHTTPRequestHandler):
    """Answers by path: what each test needs of a server."""

    def do_GET(self):
        body, kind, status, headers = png(), "image/png", 200, {}
        if self.path == "/page":
            body, kind = b"<html>sign in</html>", "text/html; charset=utf-8"
        elif self.path == "/missing":
            status, body = 404, b""
        elif self.path.startswith("/to/"):
            status, body, headers = 302, b"", {"Location": self.path.removeprefix("/to/")}
        elif self.path == "/announced":
            headers = {"Content-Length": str(10**12)}
        elif self.path == "/short":
            headers = {"Content-Length": str(len(body) + 100)}
        elif self.path in ("/endless", "/slow"):
            headers = {"Content-Length": None}
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body))} | headers
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        try:
            while self.path == "/endless":
                self.wfile.write(b"x" * 4096)
            while self.path == "/slow":
                self.wfile.write(b"x")
                time.sleep(0.05)
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_a_picture_comes_as_it_is(server):
    assert fetch(f"{server}/a.png") == png()
    assert fetch(f"{server}/ein bild ü.png?größe=1") == png()


def test_redirects_are_followed_a_few_times(server):
    assert fetch(f"{server}/to/{server}/a.png") == png()
    with pytest.raises(FetchError, match="the server answered 302"):
        fetch(server + f"/to/{server}" * 8 + "/a.png")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.png"])
def test_a_redirect_leads_to_http_only(server, target):
    with pytest.raises(FetchError, match="expected http:// or https://|not allowed"):
        fetch(f"{server}/to/{target}")


def test_a_redirect_to_a_link_local_address_is_refused_before_it_is_asked(server):
    with pytest.raises(FetchError, match=r"169\.254\.169\.254 is a link-local address"):
        fetch(f"{server}/to/http://169.254.169.254/latest/meta-data")


@pytest.mark.parametrize("address", ["169.254.0.1", "::ffff:169.254.169.254", "fe80::1%eth0", "fe80::1", "224.0.0.1"])
def test_link_local_addresses_are_refused(address):
    with pytest.raises(FetchError, match="link-local"):
        check_address(address)


def test_behind_a_proxy_a_link_local_address_is_refused_and_asked_for_only_where_allowed(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server)  # answers for every host, as a proxy does
    with pytest.raises(FetchError, match=r"169\.254\.169\.254 is a link-local address"):
        fetch("http://169.254.169.254/a.png")
    assert fetch("http://169.254.169.254/a.png", allow_link_local=True) == png()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "192.168.1.2", "93.184.215.14"])
def test_other_addresses_are_not(address):
    check_address(address)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/page", "the server gave text/html, not a picture"),
        ("/missing", "the server answered 404"),
        ("/announced", "larger than 1 MiB"),
        ("/endless", "larger than 1 MiB"),
        ("/slow", "not whole after 1.5 seconds|timed out"),
        ("/short", "broke off after|cannot be fetched: .*IncompleteRead"),
    ],
)
def test_what_is_no_picture_is_said_in_one_line(server, path, message):
    with pytest.raises(FetchError, match=message):
        fetch(server + path, max_bytes=2**20, total_seconds=1.5 if path == "/slow" else 20.0)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "file:// is not fetched, expected http:// or https://, or a path"),
        ("ftp://host/a.png", "ftp:// is not fetched"),
        ("http:///a.png", "the URL names no host"),
        ("http://127.0.0.1:1/a.png", "cannot be fetched: .*refused"),
    ],
)
def test_a_url_that_leads_nowhere_is_said_in_one_line(url, message):
    with pytest.raises(FetchError, match=message):
        fetch(url)
