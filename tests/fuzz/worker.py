"""The process in which cases run: it takes one command a line, runs `croc` in itself, and answers with one line."""

import faulthandler
import json
import os
import signal
import sys
import tempfile
import time
import traceback

MEMORY_LIMIT = 8 << 30


def main() -> None:
    """Serve until stdin ends. A command that takes more CPU time than allowed ends this process with SIGPROF."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints goes to the log of the driver
    _limit_memory()
    faulthandler.enable()
    from typer.testing import CliRunner

    from croc_cli.commands.app import app

    runner = CliRunner()
    for line in sys.stdin:
        order = json.loads(line)
        os.chdir(order["folder"])
        usual = dict(os.environ)
        os.environ.update(order["environ"])
        tempfile.tempdir = None  # ask for TMPDIR again
        faulthandler.register(signal.SIGPROF, chain=True)
        signal.setitimer(signal.ITIMER_PROF, order["seconds"])
        start = time.process_time()
        try:
            got = runner.invoke(app, order["argv"], prog_name="croc")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.environ.clear()
            os.environ.update(usual)
        answer = {"code": got.exit_code, "out": got.stdout, "err": got.stderr, "seconds": time.process_time() - start}
        if got.exception is not None and not isinstance(got.exception, SystemExit):
            answer["err"] += "".join(traceback.format_exception(got.exception))
        print(json.dumps(answer), file=answers, flush=True)


def _limit_memory() -> None:
    """Turn a bomb into a MemoryError, where the system knows such a limit."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    main()
