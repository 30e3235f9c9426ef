"""Start-up of `croc --help` and of every subcommand's help, against `python -c "import typer, pydantic"`."""

import statistics
import subprocess
import sys
import time

RUNS = 7
BASELINE = [sys.executable, "-c", "import typer, pydantic"]
COMMANDS = [
    [],
    ["align"],
    ["reconstruct"],
    ["finetune"],
    ["run"],
    ["demo"],
    ["eval"],
    ["eval", "list"],
    ["chat"],
    ["recipes"],
    ["recipes", "show"],
    ["doctor"],
]


def seconds(command: list[str]) -> float:
    """Return the wall-clock seconds of one run of `command`."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print the medians of interleaved runs, and each as a multiple of the baseline in the same round."""
    seconds(BASELINE)
    print(f"{'command':32} {'median s':>9} {'× baseline':>11}")
    for words in COMMANDS:
        command = [sys.executable, "-m", "croc_cli", *words, "--help"]
        seconds(command)
        pairs = [(seconds(command), seconds(BASELINE)) for _ in range(RUNS)]
        ratio = statistics.median(ours / base for ours, base in pairs)
        ours = statistics.median(ours for ours, _ in pairs)
        print(f"{'croc ' + ' '.join([*words, '--help']):32} {ours:9.3f} {ratio:11.2f}", flush=True)


if __name__ == "__main__":
    main()
