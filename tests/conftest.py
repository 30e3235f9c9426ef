"""Settings that must stand before any test imports torch."""

import os

from croc_cli.launch.plan import SPIN_TURNS

# Threads that wait for each other spin for a moment only, as in croc's own ranks: beside other work, libgomp's default
# makes tests take ten times as long.
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)
