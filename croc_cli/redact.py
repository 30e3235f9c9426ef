"""Keeps secrets out of all that croc writes, prints and logs: keys of the environment and credentials in URLs."""

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from croc_cli.errors import UsageError

HIDDEN = "***"
"""What stands where a secret was."""
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PAT)(?:_|$)", re.IGNORECASE
)
_PLACE_NAME = re.compile(r"(?:FILE|PATH|DIR|SOCK|URL|ID)$", re.IGNORECASE)
_MIN_LENGTH = 8
"""Shorter values, such as 1 or true, are settings and stand in too many texts."""
_URL = re.compile(r"://[^\s\"'<>]+")
_USER_IN_URL = re.compile(r"(?<=://)[^/@?#]+(?=@)")
_KEY_IN_URL = re.compile(
    r"(?<=[?&;])(api[-_]?key|key|(?:access[-_]|auth[-_])?token|secret|password|sig|signature"
    r"|x-amz-(?:signature|credential|security-token))=[^&;#]+",
    re.IGNORECASE,
)
_SHOWN_LENGTH = 10
"""So many first characters of a secret are a part of it: libraries shorten what they show."""


def redact(text: str) -> str:
    """Return a text in which every known secret is hidden.

    Known are the values of environment variables that are named like keys and tokens, as they are and as JSON, Python
    and URLs write them, and users, passwords and keys in URLs.
    """
    for secret in _known_secrets(os.environ):
        if secret in text:
            text = text.replace(secret, HIDDEN)
        if len(secret) > _SHOWN_LENGTH and (start := secret[:_SHOWN_LENGTH]) in text:
            text = re.sub(rf"{re.escape(start)}[^\s\"']*", HIDDEN, text)
    return _URL.sub(_without_credentials, text) if "://" in text else text


def _without_credentials(found: re.Match[str]) -> str:
    url = _USER_IN_URL.sub(HIDDEN, found[0])
    return _KEY_IN_URL.sub(rf"\1={HIDDEN}", url)


def read_key(variable: str) -> str | None:
    """Return the key in an environment variable without the spaces and line ends around it; None where there is none.

    Raises:
        UsageError: No HTTP header can hold it; the message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    wrong = next((character for character in key if not "!" <= character <= "~"), None)
    if wrong is None:
        return key or None
    kind = "a space or line end" if wrong.isspace() else f"U+{ord(wrong):04X}"
    raise UsageError(
        f"{variable} has {kind} inside, which a key never has", hint=f"export {variable}=… again, as one word"
    )


class GuardedStream:
    """A text stream that hides secrets in what is written to it.

    Args:
        stream: Where it goes; answers everything but `write`.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without its secrets."""
        written: int = self._stream.write(redact(text))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Hide secrets in all that this process prints, libraries included; for ranks, whose output goes into logs."""
    sys.stdout, sys.stderr = GuardedStream(sys.stdout), GuardedStream(sys.stderr)


def _known_secrets(environ: Mapping[str, str]) -> list[str]:
    """Return the values to hide, longest first, so that a part of another one never leaves the rest of it."""
    found: set[str] = set()
    for name, value in environ.items():
        if not _SECRET_NAME.search(name) or _PLACE_NAME.search(name):
            continue
        for secret in {value.strip(), *value.split()}:
            if len(secret) >= _MIN_LENGTH:
                found |= {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
                found |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    return sorted(found, key=len, reverse=True)
