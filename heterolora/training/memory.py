"""How much memory a run uses, and advice when the device runs out of it."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from heterolora.errors import TrainingError, one_line


def total_memory(device: torch.device) -> int:
    """Return the total memory of the device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def memory_advice(device: torch.device) -> Iterator[None]:
    """Report running out of `device`'s memory inside the context in one line.

    Raises:
        TrainingError: with the remedies.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _of_memory(error):
            raise
        said = one_line(error)
        what = ". ".join(said[max(said.find(ALLOCATOR), 0) :].split(". ")[:2]).rstrip(".")
        raise TrainingError(
            f"device={device}: {what}; lower evaluation.batch_size or proxy.micro_batch_size "
            "(the same run then resumes), training.batch_size, or hydra.launcher.max_packed for "
            "packed runs; set precision=bf16, or choose a device with more memory"
        ) from error


ALLOCATOR = "DefaultCPUAllocator"
"""What torch names in its plain `RuntimeError` when the CPU runs out of memory."""


def _of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or ALLOCATOR in str(error)


def forget_peak(device: torch.device) -> None:
    """Restart `peak_memory` from here, where the system allows it: runs share a process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # only on Linux
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Return peak memory in bytes: of the GPU's allocator, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
