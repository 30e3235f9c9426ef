"""Copies between host and GPU that nobody waits for until their numbers are needed."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a host tensor on `device`; the copy to a GPU goes through pinned memory, so the host need not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: Tensor) -> Tensor:
    """Return a tensor in host memory, pinned where it comes from a GPU; there by the event that is recorded next."""
    return tensor.detach().to("cpu", non_blocking=True)


def arrival(device: torch.device) -> torch.cuda.Event | None:
    """Return an event that comes when all that was queued on `device` is done; None on a CPU, which has no queue."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch has no type
    event.record(torch.cuda.current_stream(device))
    return event
