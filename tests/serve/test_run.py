"""Names, ports, and a whole server process from start to end."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch

from croc_cli.errors import UsageError
from croc_cli.launch.devices import count_cores
from croc_cli.serve.run import listen, model_labels, spare_a_core


def test_a_model_is_called_by_the_shortest_end_of_its_path_that_tells_it_apart() -> None:
    assert model_labels([Path("/runs/a/step-1")], []) == ["step-1"]
    assert model_labels([Path("/runs/a/step-1"), Path("/runs/b/step-1")], []) == ["a/step-1", "b/step-1"]
    assert model_labels([Path("/runs/a/step-1")], ["mine"]) == ["mine"]
    with pytest.raises(UsageError, match="2 names for 1 models"):
        model_labels([Path("/a")], ["x", "y"])
    with pytest.raises(UsageError, match="two models have the same name"):
        model_labels([Path("/a"), Path("/b")], ["x", "x"])
    with pytest.raises(UsageError, match="two models have the same name"):
        model_labels([Path("/a"), Path("/a")], [])


def test_a_taken_port_is_named_before_any_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_server_says_where_it_is_and_ends_with_0_on_a_signal(folder: Path, number: int) -> None:
    words = [sys.executable, "-m", "croc_cli", "serve", "--model", str(folder), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stderr is not None
        before = []
        for line in process.stderr:
            before.append(line)
            if found := re.search(r"serving model at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends\)", line):
                break
        else:
            pytest.fail("the server never said where it is")
        assert "Where it looks" in httpx.get(found[1], timeout=60).text
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait() == 0
    assert [line.split()[0] for line in before] == ["loading", "serving"]  # no bars of transformers between
    assert rest.endswith("ended\n")
    assert "Traceback" not in rest


def test_a_host_that_is_no_name_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot listen on a{300}:0: "):
        listen("a" * 300, 0)


def test_a_core_is_left_to_requests_unless_the_threads_are_named() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        spare_a_core({"OMP_NUM_THREADS": "5"})
        assert torch.get_num_threads() == 5
        spare_a_core({})
        assert torch.get_num_threads() == max(1, count_cores() - 1)
    finally:
        torch.set_num_threads(before)
