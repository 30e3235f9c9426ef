import subprocess
from types import SimpleNamespace

import pytest

from tests import audit

SAFE = {"name": "typer", "version": "1.0", "vulns": []}
FLAWED = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "torch", "skip_reason": "not found"}


def test_a_known_vulnerability_fails_the_check_and_names_the_version_that_mends_it() -> None:
    code, text = audit.verdict({"dependencies": [SAFE, FLAWED]})
    assert code == 1
    assert text.splitlines() == [
        "pillow 1.0: CVE-1, fixed in 1.1",
        "audit: 2 packages looked up, 1 known vulnerabilities",
    ]


def test_what_could_not_be_looked_up_is_counted_and_not_called_safe() -> None:
    assert audit.verdict({"dependencies": [SAFE, SKIPPED]}) == (
        0,
        "audit: 1 packages looked up, 0 known vulnerabilities; 1 could not be looked up",
    )


def test_a_service_that_is_not_reached_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = SimpleNamespace(stdout="", stderr="Traceback\nConnectionError: no route", returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    assert audit.main() == 0
    assert capsys.readouterr().out == (
        "audit: the service cannot be reached, nothing was audited (ConnectionError: no route)\n"
    )
