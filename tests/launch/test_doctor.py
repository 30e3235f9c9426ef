import json

import pytest

from croc_cli.launch.doctor import compiler_warnings, examine, format_findings, machine_warnings, package_warnings
from tests.launch.make import TWO_CORES, gpus


def test_what_is_missing_becomes_a_warning() -> None:
    assert package_warnings({"torch": "2.13.0", "deepspeed": None}, TWO_CORES) == [
        "the package deepspeed is missing: `pip install croc-cli` again"
    ]
    assert "CPU build" in package_warnings({"torch": "2.13.0+cpu"}, gpus("0"))[0]
    assert compiler_warnings("/usr/bin/g++", None)[0].startswith("ninja not found")
    assert compiler_warnings("/usr/bin/g++", "/usr/bin/ninja") == []
    low = machine_warnings(TWO_CORES, disk=10**9, shared=64 * 10**6)
    assert [text.split(":")[0] for text in low] == [
        "no CUDA device",
        "1.0 GB of disk are free here",
        "/dev/shm has 64 MB",
    ]


def test_this_machine_can_be_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("croc_cli.launch.doctor.hub_state", lambda: ("/cache", "reachable"))
    findings = examine()
    text = format_findings(findings)
    assert "torch" in text
    assert "CPU cores" in text
    assert "cpu_adam            " in text
    assert json.loads(json.dumps(findings.as_json()))["packages"]["pydantic"]
