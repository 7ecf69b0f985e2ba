"""How much memory a process holds, on the host and on its device."""

from __future__ import annotations

from functools import cache

import psutil
import torch

MIB = 1 << 20


@cache
def _process() -> psutil.Process:
    return psutil.Process()


def memory_now(device: torch.device) -> dict[str, float]:
    """MiB of the host that this process holds, and on a GPU the most that its tensors took; waits for nothing."""
    found = {"host_memory_mib": round(_process().memory_info().rss / MIB, 1)}
    if device.type == "cuda":
        found["device_memory_mib"] = round(torch.cuda.max_memory_allocated(device) / MIB, 1)
    return found


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most MiB that this process held since it began, and on a GPU its tensors, and what was set aside for them."""
    found = {"host_memory_mib": round(_host_peak() / MIB, 1)}
    if device.type == "cuda":
        found["device_memory_mib"] = round(torch.cuda.max_memory_allocated(device) / MIB, 1)
        found["device_reserved_mib"] = round(torch.cuda.max_memory_reserved(device) / MIB, 1)
    return found


def _host_peak() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return int(getattr(_process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if psutil.MACOS else peak * 1024
