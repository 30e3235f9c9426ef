"""Brings the environment of this process to the ranks of a hostfile launch, which ssh starts without it.

It travels in a file of the run folder that its owner alone can read, never on a command line. On each node this module
is started in a rank's place: `python -m croc_cli.launch.node_environment FILE MODULE ARGUMENTS…` becomes the module.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

MODULE = "croc_cli.launch.node_environment"
FILE_NAME = "environment.json"
_OF_A_RANK = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "CROSS_", "NODE_RANK", "CUDA_VISIBLE_DEVICES", "GROUP_RANK")
_OF_A_HOST = ("HOME", "HOSTNAME", "USER", "LOGNAME", "SHELL", "MAIL", "TMPDIR", "TMP", "TEMP", "PWD", "OLDPWD")
_OF_A_SESSION = (
    *("SHLVL", "TERM", "TTY", "DISPLAY", "WINDOWID", "COLUMNS", "LINES", "SSH_", "DBUS_", "XDG_SESSION", "XDG_RUNTIME"),
    *("TMUX", "STY", "SLURM_", "SLURMD_", "PMI", "OMPI_", "PBS_", "LSB_", "BASH_FUNC_", "LS_COLORS", "PROMPT", "PS1"),
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE", re.IGNORECASE)
_DEEPSPEED_FILE = ".deepspeed_env"


def environment_to_carry(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what a rank on another node needs of an environment: all but what belongs to a host, session or rank.

    Variables of the user's `.deepspeed_env` are left out, as DeepSpeed sets them on the nodes.
    """
    theirs = set(_deepspeed_names(environment))
    return {
        name: value
        for name, value in environment.items()
        if name not in (*_OF_A_HOST, "_") and name not in theirs and not name.startswith((*_OF_A_RANK, *_OF_A_SESSION))
    }


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for DeepSpeed's runner, which writes some variables on the command line of ssh."""
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


def write_environment(file: Path, environment: Mapping[str, str]) -> None:
    """Write variables into a file that its owner alone can read."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(dict(environment), stream)


def main() -> None:
    """Become the module that is named, with the variables of the file; what DeepSpeed set for this rank stays."""
    file, module, *arguments = sys.argv[1:]
    try:
        carried = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {file} here ({error}); the run folder must lie on a disk that all nodes share")
    os.execve(sys.executable, [sys.executable, "-u", "-m", module, *arguments], os.environ | carried)


def _deepspeed_names(environment: Mapping[str, str]) -> Iterator[str]:
    name = environment.get("DS_ENV_FILE", _DEEPSPEED_FILE)
    for folder in (Path.home(), Path()):
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        yield from (line.partition("=")[0].strip() for line in lines if "=" in line)


if __name__ == "__main__":
    main()
