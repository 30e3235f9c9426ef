import http.server
import io
import socket
import threading
import time

import pytest
from PIL import Image

from croc_cli.addresses import check_address
from croc_cli.chat.fetch import FetchError, fetch


def png():
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 30)).save(content, "PNG")
    return content.getvalue()


class Pictures(http.server.BaseHTTPRequestHandler):
    """Answers by path: what each test needs of a server."""

    def do_GET(self):
        body, kind, status, headers = png(), "image/png", 200, {}
        if self.path in ("/slow-head", "/continue"):
            self.trickle(b"X" if self.path == "/slow-head" else b"HTTP/1.1 100 Continue\r\n\r\n")
            return
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

    def trickle(self, piece):
        """Begin an answer that never comes to its body."""
        self.wfile.write(b"" if piece != b"X" else b"HTTP/1.1 200 OK\r\nA: ")
        try:
            while True:
                self.wfile.write(piece)
                time.sleep(0.05)
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


def get(url, **limits):
    """Fetch from the test's own server, which is at no public address."""
    return fetch(url, allow_private=True, **limits)


def test_a_picture_comes_as_it_is(server):
    assert get(f"{server}/a.png") == png()
    assert get(f"{server}/ein bild ü.png?größe=1") == png()


def test_redirects_are_followed_a_few_times(server):
    assert get(f"{server}/to/{server}/a.png") == png()
    with pytest.raises(FetchError, match="the server answered 302"):
        get(server + f"/to/{server}" * 8 + "/a.png")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.png"])
def test_a_redirect_leads_to_http_only(server, target):
    with pytest.raises(FetchError, match="expected http:// or https://|not allowed"):
        get(f"{server}/to/{target}")


PRIVATE = (
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "0xa9.254.0251.254", "169.254.43518",
    "169.254.169.254.", "169.254.169.254..", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]",
    "[fe80::1]", "[fe80::1%25eth0]", "[::1]", "[fc00::1]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[::7f00:1]",
    "127.0.0.1", "127.1", "0", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.2", "100.100.100.200", "168.63.129.16",
    "224.0.0.1", "localhost", "LOCALHOST.", "a.localhost", "metadata.google.internal", "printer.local",
    "１６９.254.169.254", "%31%36%39.254.169.254", "user:pass@169.254.169.254", "example.com@169.254.169.254",
)  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("proxy", [False, True])
def test_what_is_not_public_is_refused_in_every_spelling_also_behind_a_proxy(server, monkeypatch, host, proxy):
    if proxy:
        monkeypatch.setenv("http_proxy", server)  # answers for every host, as a proxy does
    with pytest.raises(FetchError, match="is a (link-local|private) address, from which nothing is fetched"):
        fetch(f"http://{host}/latest/meta-data")


def test_a_proxy_of_ones_own_is_used_and_may_be_private(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setattr("croc_cli.addresses.addresses_of", lambda _host: iter(()))  # only the proxy can resolve it
    assert fetch("http://pictures.example/a.png") == png()


def test_a_name_that_leads_to_a_private_address_is_refused_when_it_is_connected_to(server, monkeypatch):
    monkeypatch.setattr("croc_cli.addresses.addresses_of", lambda _host: iter(["93.184.215.14"]))  # at first
    port = server.rpartition(":")[2]
    rebound = [(2, 1, 6, "", ("127.0.0.1", int(port)))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rebound)
    with pytest.raises(FetchError, match="127.0.0.1 is a private address"):
        fetch(f"http://pictures.example:{port}/a.png")


def test_a_name_of_many_addresses_that_do_not_answer_is_given_up_in_time(monkeypatch):
    tried = []

    def hang(address, *_):
        tried.append(address)
        time.sleep(0.1)
        raise OSError("no answer")

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))] * 100
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", hang)
    with pytest.raises(FetchError, match=r"incomplete after 0.3 seconds"):
        fetch("http://many.example/a.png", total_seconds=0.3, allow_private=True)
    assert len(tried) < 20


def test_private_addresses_are_fetched_from_where_the_user_says_so(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server)
    assert get("http://169.254.169.254/a.png") == png()


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_public_addresses_are_not_refused(address):
    check_address(address)


@pytest.mark.parametrize("path", ["/slow", "/slow-head", "/continue"])
def test_slow_headers_slow_bodies_and_endless_answers_end_at_the_limit(server, path):
    start = time.monotonic()
    with pytest.raises(FetchError, match=r"incomplete after 1 seconds"):
        get(server + path, total_seconds=1.0)
    assert time.monotonic() - start < 30  # not the hours that the server would take


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/page", "the server gave text/html, not a picture"),
        ("/missing", "the server answered 404"),
        ("/announced", "larger than 1 MiB"),
        ("/endless", "larger than 1 MiB"),
        ("/short", "broke off after|cannot be fetched: .*IncompleteRead"),
    ],
)
def test_what_is_no_picture_is_said_in_one_line(server, path, message):
    with pytest.raises(FetchError, match=message):
        get(server + path, max_bytes=2**20)


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
        get(url)
