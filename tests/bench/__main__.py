"""`python -m tests.bench [NAME …]`: run the measurements of this folder and print their tables.

Nothing here is a test: a figure is a ratio to a named baseline in the same run, or a time of this machine.
"""

import importlib
import sys
from pathlib import Path

BENCHES = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("__"))


def main() -> None:
    """Run the named measurements, or all of them."""
    for name in sys.argv[1:] or BENCHES:
        print(f"== {name}", flush=True)
        importlib.import_module(f"tests.bench.{name}").main()


if __name__ == "__main__":
    main()
