"""What this machine has, found without importing torch: CUDA devices, cores, memory, disk."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NVIDIA_SMI_SECONDS = 10
"""Longest wait for nvidia-smi; a driver that has lost a GPU can hang it."""
DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class CudaDevice:
    """One GPU.

    Args:
        id: Index or UUID, as CUDA_VISIBLE_DEVICES takes it.
        name: What the driver calls it; empty where the driver was not asked.
        memory_bytes: Its memory, or 0 where the driver was not asked.
    """

    id: str
    name: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True)
class Machine:
    """The part of this machine that a run can use.

    Args:
        cuda: GPUs that CUDA_VISIBLE_DEVICES leaves visible.
        num_cores: Cores that this process may run on.
        memory_bytes: Memory that is free or can be freed.
    """

    cuda: tuple[CudaDevice, ...]
    num_cores: int
    memory_bytes: int

    def describe(self) -> str:
        """Return one line such as `2 CPU cores, 21 GB of memory, no CUDA device`."""
        if not self.cuda:
            gpus = "no CUDA device"
        else:
            name = self.cuda[0].name or "CUDA device"
            gpus = f"{len(self.cuda)} × {name}" if len(self.cuda) > 1 else f"one {name}"
        return f"{self.num_cores} CPU cores, {self.memory_bytes / 1e9:.0f} GB of memory, {gpus}"


def inspect_machine(environment: Mapping[str, str] = os.environ) -> Machine:
    """Look at this machine; takes milliseconds where there is no NVIDIA driver."""
    return Machine(
        cuda=visible_devices(installed_devices(), environment.get("CUDA_VISIBLE_DEVICES")),
        num_cores=count_cores(),
        memory_bytes=available_memory(),
    )


def installed_devices() -> tuple[CudaDevice, ...]:
    """Return the GPUs that the driver knows, from nvidia-smi or else from /proc."""
    program = shutil.which("nvidia-smi")
    if program is not None:
        query = [program, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            answer = None
        if answer is not None and answer.returncode == 0:
            return tuple(parse_device(line) for line in answer.stdout.splitlines() if line.count(",") >= 3)
    if DRIVER_FOLDER.is_dir():
        return tuple(CudaDevice(str(index)) for index, _ in enumerate(sorted(DRIVER_FOLDER.iterdir())))
    return ()


def parse_device(line: str) -> CudaDevice:
    """Return the device in a line of nvidia-smi's CSV; memory is in MiB there."""
    index, _, rest = (part.strip() for part in line.split(",", 2))
    name, _, memory = rest.rpartition(",")
    digits = memory.strip()
    return CudaDevice(index, name.strip(), int(digits) * 2**20 if digits.isdigit() else 0)


def visible_devices(installed: tuple[CudaDevice, ...], visible: str | None) -> tuple[CudaDevice, ...]:
    """Return what CUDA_VISIBLE_DEVICES leaves of the installed devices.

    As in CUDA, an unknown index ends the list and an empty value hides everything. UUIDs are kept as they stand.
    """
    if visible is None:
        return installed
    by_index = {device.id: device for device in installed}
    chosen: list[CudaDevice] = []
    for name in (part.strip() for part in visible.split(",")):
        if name.startswith(("GPU-", "MIG-")) and installed:
            chosen.append(CudaDevice(name, installed[0].name, installed[0].memory_bytes))
        elif name in by_index:
            chosen.append(by_index[name])
        else:
            break
    return tuple(chosen)


def count_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes of memory that are free or can be freed, 0 where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0
