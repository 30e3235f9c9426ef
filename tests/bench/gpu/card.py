"""The card that a measurement ran on, and the speed of its own matrix product."""

import time
from collections.abc import Callable

import torch

SIDE = 8192
_TRIES = 5
_REPEATS = 10


def device(*, tiny: bool) -> torch.device:
    """Return the device to measure on.

    Raises:
        SystemExit: There is no GPU, and tiny sizes were not asked for.
    """
    if torch.cuda.is_available() and not tiny:
        return torch.device("cuda")
    if tiny:
        return torch.device("cpu")
    raise SystemExit("no CUDA device; --tiny tries the scripts on a CPU")


def wait_for(place: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def seconds_of(work: Callable[[], object], place: torch.device) -> float:
    """Return how long some work takes, the device's part of it included."""
    wait_for(place)
    started = time.perf_counter()
    work()
    wait_for(place)
    return time.perf_counter() - started


def matrix_peak(place: torch.device, *, side: int = SIDE) -> float:
    """Return the operations a second of the device's bf16 matrix product of [side, side]."""
    left, right = (torch.randn(side, side, device=place, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(_REPEATS):
            torch.mm(left, right)

    multiply()
    return _REPEATS * 2 * side**3 / min(seconds_of(multiply, place) for _ in range(_TRIES))


def describe(place: torch.device, peak: float) -> str:
    """Return the line that stands above each table."""
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU, tiny sizes: figures mean nothing"
    return f"{name}; torch {torch.__version__}; bf16 matrix product {peak / 1e12:,.1f} TFLOP/s, the peak below"
