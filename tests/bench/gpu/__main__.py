"""`python -m tests.bench.gpu [NAME …] [--tiny]`: print the tables of this folder, each in five minutes at most.

Every table names the card and what its own matrix product reaches in the same run. `--tiny` takes sizes that a CPU can
run, to see that a script still works; its figures mean nothing.
"""

import importlib
import sys

BENCHES = ("shape_7b", "command_1b", "plan_memory", "nano")


def main() -> None:
    """Run the named measurements, or all of them."""
    words = sys.argv[1:]
    tiny = "--tiny" in words
    for name in [word for word in words if not word.startswith("-")] or BENCHES:
        print(f"== gpu/{name}", flush=True)
        importlib.import_module(f"tests.bench.gpu.{name}").main(tiny=tiny)


if __name__ == "__main__":
    main()
