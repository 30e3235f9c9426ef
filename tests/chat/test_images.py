import http.server
import os
import threading

import pytest
from PIL import Image

from croc_cli.chat.images import load_image
from croc_cli.errors import UsageError


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "red.png"
    Image.effect_noise((64, 48), 60).convert("RGB").save(file)
    return file


def test_a_path_gives_the_picture_and_its_whole_name(picture, monkeypatch):
    monkeypatch.chdir(picture.parent)
    image = load_image("red.png")
    assert image.name == str(picture)
    assert (image.picture.mode, image.picture.size) == ("RGB", (64, 48))


def test_a_home_folder_is_understood(picture, monkeypatch):
    monkeypatch.setenv("HOME", str(picture.parent))
    assert load_image("~/red.png").name == str(picture)


class _Folder(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_url_gives_the_same_picture_as_the_file(picture):
    def handler(*arguments):
        return _Folder(*arguments, directory=str(picture.parent))

    (picture.parent / "page.png").write_text("<html>no picture</html>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        image = load_image(f"{address}/red.png", allow_private=True)
        assert image.name == f"{address}/red.png"
        assert image.picture.tobytes() == load_image(str(picture)).picture.tobytes()
        with pytest.raises(UsageError, match=rf"image {address}/page\.png: not an image that can be read"):
            load_image(f"{address}/page.png", allow_private=True)
        with pytest.raises(UsageError, match=rf"image {address}/none\.png: the server answered 404"):
            load_image(f"{address}/none.png", allow_private=True)
    finally:
        server.shutdown()
        server.server_close()


def bomb(file):
    """A PNG of a few hundred bytes that says it has 60,000 × 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "a folder, expected a file"),
        ("pipe", "a pipe, expected a file"),
        ("truncated", "bad.png: .*"),
        ("bomb", "60000 × 60000 pixels|bomb"),
        ("text", "not an image that can be read"),
        ("empty", "not an image that can be read"),
        ("null byte", "null byte"),
        ("long name", "File name too long"),
        ("file url", "file:// is not fetched"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_exit_code_2(tmp_path, picture, kind, message):
    file = tmp_path / "bad.png"
    name = str(file)
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "truncated":
        file.write_bytes(picture.read_bytes()[:-400])
    elif kind == "bomb":
        bomb(file)
    elif kind == "text":
        file.write_text("not a picture")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "null byte":
        name = "a\0b"
    elif kind == "long name":
        name = "a" * 5000
    elif kind == "file url":
        name = f"file://{picture}"
    with pytest.raises(UsageError, match=message) as caught:
        load_image(name)
    assert caught.value.message.startswith(("image " + name, "image " + repr(name)))
    assert "\n" not in caught.value.message
    assert caught.value.hint is None
    assert caught.value.exit_code == 2
