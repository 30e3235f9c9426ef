"""What a server says of its models, what a question without a picture shows it, and replies that never end."""

import asyncio
import base64
import io
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from croc_cli.benchmarks.endpoint import Endpoint, RequestFailed
from croc_cli.benchmarks.files import Picture
from croc_cli.benchmarks.served import find_server, picture_url, with_mean_colour
from tests.benchmarks.test_served import Stub, served
from tests.commands.croc import croc

GREY, CLIP = (128, 128, 128), (122, 116, 104)


def shown(url: str) -> Any:
    """Return the one colour of a picture, or None where it has several."""
    colours = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).getcolors(1 << 16)
    return colours[0][1] if colours is not None and len(colours) == 1 else None


@pytest.mark.parametrize(
    "colour", [None, "red", [300, 0, 0], [-1, 0, 0], [1, 2], [True, 2, 3], [1.0, 2, 3], list(CLIP)]
)
def test_the_mean_colour_of_croc_serve_is_taken_and_nonsense_is_not(colour: Any) -> None:
    rows = [{"id": "one", "owned_by": "croc", "mean_colour": colour}]
    with served(Stub(models={"data": rows})) as url:
        server = asyncio.run(find_server(url, None, on_wait=lambda *_: None))
    assert server.is_croc
    assert server.mean_colour == (CLIP if colour == list(CLIP) else None)


def test_a_blank_picture_has_the_mean_colour_and_others_stay() -> None:
    blank = Picture("", draw=lambda: Image.new("RGB", (8, 8), GREY), is_blank=True)
    assert shown(picture_url(with_mean_colour(blank, CLIP), as_it_is=True)) == CLIP
    assert with_mean_colour(blank, None) is blank
    other = Picture("a.png", data=b"1")
    assert with_mean_colour(other, CLIP) is other


def test_where_the_server_names_no_colour_grey_is_shown_and_said(tmp_path: Path) -> None:
    words = ("--run-dir", str(tmp_path / "run"), "-b", "scenes", "--set", "eval.num_scenes=1")
    with served(stub := Stub("A")) as url:
        answer = croc("eval", "--url", url, *words)
    assert answer.code == 0, answer.err
    note = "note: scenes: questions without a picture show grey, as the server names no mean colour"
    assert note in " ".join(answer.err.split())
    urls = [request["messages"][0]["content"][0]["image_url"]["url"] for request in stub.requests]
    assert {colour for url in urls if (colour := shown(url)) is not None} == {GREY}


def test_headers_that_trickle_end_at_the_time_of_the_whole_request() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def trickle() -> None:
        connected, _ = listening.accept()
        with connected, suppress(OSError):
            connected.sendall(b"HTTP/1.1 200 OK\r\n")
            while not ended.wait(0.05):
                connected.sendall(b"X-More: words\r\n")

    async def ask_once() -> None:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        async with Endpoint(url, key=None, timeout=0.5, num_retries=0) as endpoint:
            await endpoint.complete({})

    thread = threading.Thread(target=trickle)
    thread.start()
    started = time.monotonic()
    with pytest.raises(RequestFailed, match=r"a reply of more than 0.5 s"):
        asyncio.run(ask_once())
    assert time.monotonic() - started < 10
    ended.set()
    thread.join()
    listening.close()
