"""Memory of a process, on the host and on its device: what it holds, how much is free, and the most that work takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import torch

MIB = 1 << 20
_SAMPLE_SECONDS = 0.002


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


def free_host_bytes() -> int:
    """Memory that this process may still take: of the machine, or of its container or limit where that is less."""
    return min([psutil.virtual_memory().available, *_left_in_container(), *_left_in_limit()])


def _left_in_limit() -> Iterator[int]:
    """What ``ulimit -v`` leaves."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield max(0, limit - psutil.Process().memory_info().vms)


def _left_in_container() -> Iterator[int]:
    """What the control groups leave (https://docs.kernel.org/admin-guide/cgroup-v2.html, "memory.max")."""
    for folder, most, used in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit, taken = (folder / most).read_text().strip(), int((folder / used).read_text())
            cached = _reclaimable(folder / "memory.stat")
        except (OSError, ValueError):
            continue
        if limit.isdigit():
            yield max(0, int(limit) - taken + cached)


def _reclaimable(stat: Path) -> int:
    """Files in memory that the kernel gives up first."""
    rows = dict(line.split() for line in stat.read_text().splitlines())
    return int(rows.get("inactive_file", rows.get("total_inactive_file", 0)))


def resident_bytes() -> int:
    """Memory that this process and its children hold now."""
    process = psutil.Process()
    return process.memory_info().rss + _of_children(process)


def _of_children(process: psutil.Process) -> int:
    total = 0
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:  # ended meanwhile
            continue
    return total


class Peak:
    """The most memory that was held while it was watched."""

    def __init__(self) -> None:
        self.host_bytes = 0
        """Resident memory of this process, and of its children at the end."""
        self.device_bytes = 0
        """Memory of tensors on the GPU; 0 on a CPU."""


@contextmanager
def watching_memory(device: torch.device) -> Iterator[Peak]:
    """Watch the memory of a piece of work; its figures are right once the context is left.

    Linux keeps the peak itself; elsewhere a thread looks every 2 ms.
    """
    peak, done, process = Peak(), threading.Event(), psutil.Process()
    thread = None
    if not _forget_peak():
        thread = threading.Thread(target=_watch, args=(peak, done, process), name="sightline-memory", daemon=True)
        thread.start()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield peak
    finally:
        done.set()
        if thread is not None:
            thread.join()
        peak.host_bytes = max(peak.host_bytes, process.memory_info().rss, _kept_peak() if thread is None else 0)
        peak.host_bytes += _of_children(process)
        if device.type == "cuda":
            peak.device_bytes = torch.cuda.max_memory_allocated(device)


def _watch(peak: Peak, done: threading.Event, process: psutil.Process) -> None:
    while not done.wait(_SAMPLE_SECONDS):
        peak.host_bytes = max(peak.host_bytes, process.memory_info().rss)


def _forget_peak() -> bool:
    """Let the kernel's peak begin anew (https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _kept_peak() > 0
    except OSError:
        return False


def _kept_peak() -> int:
    """The kernel's peak of this process, ``VmHWM``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class SavedForBackward:
    """Counts the bytes that a forward pass keeps for its backward pass; what layers share counts once.

    It is the part of a step's memory that grows with the batch whatever the allocator does.
    """

    def __init__(self) -> None:
        self.most = 0
        """Of one step."""
        self._seen: dict[int, int] = {}

    def next_step(self) -> None:
        """What comes now belongs to another step."""
        self.most = max(self.most, sum(self._seen.values()))
        self._seen = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Forward passes inside are counted."""

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            self._seen[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # the tensor itself may be the output, and would then keep itself alive

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        self.next_step()


def free_device_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process may use, what it holds already included."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)
