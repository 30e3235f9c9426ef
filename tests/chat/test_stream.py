import os
import signal
import threading

import pytest
import torch

from croc_cli.chat.stream import AnswerStreamer, StopRequested, ctrl_c_sets
from tests.tiny import make_tiny_tokenizer


def stream(text, *, extra_ids=()):
    """Return the pieces that come out when `text` goes in token by token."""
    tokenizer = make_tiny_tokenizer()
    pieces = []
    streamer = AnswerStreamer(tokenizer, pieces.append)
    streamer.put(torch.tensor([[5, 6, 7]]))
    for token_id in [*tokenizer(text, add_special_tokens=False).input_ids, *extra_ids]:
        streamer.put(torch.tensor([token_id]))
    streamer.end()
    assert "".join(pieces) == streamer.text
    return pieces


def test_the_pieces_are_the_answer_and_whole_characters():
    pieces = stream("A red circle, größer als 3 € \U0001f40a!")
    assert "".join(pieces) == "A red circle, größer als 3 € \U0001f40a!"
    assert len(pieces) > 10
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_whitespace_at_both_ends_and_control_tokens_are_left_out():
    assert "".join(stream("  \n two lines:\n\n one  \n", extra_ids=[2])) == "two lines:\n\n one"


def test_what_a_terminal_would_obey_is_left_out():
    assert "".join(stream("a\x1b[2Jb\x07\x9bc\td\r\n e")) == "a[2Jbc\td\n e"


def test_an_answer_that_ends_inside_a_character_still_ends():
    tokenizer = make_tiny_tokenizer()
    first_byte = tokenizer("€", add_special_tokens=False).input_ids[0]
    assert "".join(stream("red ", extra_ids=[first_byte])) == "red \N{REPLACEMENT CHARACTER}"


def test_generation_stops_when_the_event_is_set():
    event = threading.Event()
    criterion = StopRequested(event)
    ids, scores = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 5)
    assert criterion(ids, scores).tolist() == [False, False]
    event.set()
    assert criterion(ids, scores).tolist() == [True, True]


def test_ctrl_c_sets_the_event_and_a_second_one_interrupts():
    event = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def press_twice():
        with ctrl_c_sets(event):
            os.kill(os.getpid(), signal.SIGINT)
            assert event.wait(5)
            os.kill(os.getpid(), signal.SIGINT)
            event.wait(0.1)

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert signal.getsignal(signal.SIGINT) is before
