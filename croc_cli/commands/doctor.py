"""`croc doctor`."""

from typing import Annotated

import typer

EPILOG = "Example: croc doctor --json"


def doctor(json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False) -> None:
    """Show this machine's hardware and software, and what will be slow or missing."""
    from json import dumps

    from croc_cli.console import result
    from croc_cli.launch.doctor import examine, format_findings

    findings = examine()
    result(dumps(findings.as_json(), indent=2, ensure_ascii=False) if json else format_findings(findings))
