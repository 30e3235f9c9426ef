"""Keys and hosts of a server."""

import pytest

from croc_cli.errors import UsageError
from croc_cli.serve.settings import is_loopback, read_key


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_addresses_are_told_from_others(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_other_machines_need_a_key_or_an_explicit_no() -> None:
    with pytest.raises(UsageError, match="can be reached from other machines, and there is no key") as caught:
        read_key({}, host="0.0.0.0", no_key=False)
    assert "--no-key" in (caught.value.hint or "")
    assert read_key({}, host="0.0.0.0", no_key=True) is None
    assert read_key({"CROC_SERVE_API_KEY": " abc\n"}, host="0.0.0.0", no_key=False) == "abc"
    assert read_key({}, host="127.0.0.1", no_key=False) is None
    assert read_key({"CROC_SERVE_API_KEY": "abc"}, host="127.0.0.1", no_key=False) == "abc"


@pytest.mark.parametrize("key", ["a b", "ключ", "a\x01b"])
def test_a_key_that_a_header_cannot_carry_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(UsageError, match="CROC_SERVE_API_KEY has characters") as caught:
        read_key({"CROC_SERVE_API_KEY": key}, host="127.0.0.1", no_key=False)
    assert key not in str(caught.value)
