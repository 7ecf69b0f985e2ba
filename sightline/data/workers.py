"""Who fills the slots of a batch: the caller itself, threads, or processes. All give the same bits.

A batch lives in a slab: one piece of memory for all its arrays, kept for the whole run and used again and again,
because fresh pages cost more than decoding. Threads write into it directly; processes stand in ``worker_processes``.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sightline.config.errors import DataError
from sightline.data.sampler import BatchRequest

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Layout = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
"""Name of each array of a batch -> its shape, samples first, and element type."""

_ALIGNMENT = 64


class Source(Protocol):
    """Makes samples. ``fill`` runs in any thread or process, and what it makes depends on its arguments only."""

    def __len__(self) -> int:
        """Number of samples of the data set."""

    def layout(self, num_samples: int, input_hw: tuple[int, int] | None) -> Layout:
        """The arrays of fixed size that a batch of ``num_samples`` samples needs."""

    def fill(self, request: BatchRequest, slot: int, arrays: Arrays) -> Any:
        """Write sample ``request.sample_ids[slot]`` to ``slot`` of every array; give back what has no fixed size."""

    def collate(self, request: BatchRequest, arrays: Arrays, extras: Sequence[Any]) -> Any:
        """The batch, from the filled arrays and what ``fill`` gave back. Runs in the caller."""

    def describe(self, index: int) -> str:
        """The sample's file, for messages."""

    def prepare_worker(self) -> None:
        """Called once in every worker thread and process, before its first sample."""


def layout_bytes(layout: Layout) -> int:
    """Bytes of a slab that holds these arrays."""
    return sum(_aligned(_bytes(shape, kind)) for shape, kind in layout.values())


def slab_arrays(slab: Array, layout: Layout) -> dict[str, Array]:
    """The arrays of ``layout`` as views of ``slab``, a (bytes,) uint8 array."""
    arrays, start = {}, 0
    for name, (shape, kind) in layout.items():
        size = _bytes(shape, kind)
        arrays[name] = slab[start : start + size].view(kind).reshape(shape)
        start += _aligned(size)
    return arrays


def _bytes(shape: tuple[int, ...], kind: type[np.generic]) -> int:
    return int(np.prod(shape)) * np.dtype(kind).itemsize


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class Job:
    """One batch being made."""

    def __init__(self, request: BatchRequest, slab_index: int, layout: Layout, arrays: Arrays) -> None:
        self.request = request
        self.slab_index = slab_index
        self.layout = layout
        self.arrays = arrays
        self.extras: list[Any] = [None] * len(request)
        self.is_abandoned = False
        """Nobody wants it any more: slots not begun yet may stay empty."""
        self._error: Exception | None = None
        self._remaining = len(request)
        self._lock = threading.Lock()
        self._done = threading.Event()
        if not self._remaining:
            self._done.set()

    def finish(self, slot: int, extra: Any, error: Exception | None = None) -> None:
        """A slot is done, or failed; of several errors the first one stays."""
        with self._lock:
            self.extras[slot] = extra
            self._error = self._error or error
            self._remaining -= 1
            if self._remaining == 0:
                self._done.set()

    def fail(self, error: Exception) -> None:
        """No slot will be done any more."""
        with self._lock:
            self._error = self._error or error
            self._done.set()

    @property
    def is_done(self) -> bool:
        """Whether no slot will be written any more."""
        return self._done.is_set()

    def settle(self) -> None:
        """Return when no worker writes to the slab any more."""
        self._done.wait()

    def wait(self) -> None:
        """Return when all slots are done.

        Raises:
            DataError: If a file of a sample is at fault.
            RuntimeError: If anything else went wrong with a sample; names the sample and its file.
        """
        self._done.wait()
        if self._error is not None:
            raise self._error


def make_sample(source: Source, job: Job, slot: int) -> None:
    """Fill one slot of a job of this process, and report it done or failed."""
    if job.is_abandoned:
        job.finish(slot, None)
        return
    try:
        extra = source.fill(job.request, slot, job.arrays)
    except Exception as error:
        job.finish(slot, None, told(source, job.request, slot, error))
    else:
        job.finish(slot, extra)


def told(source: Source, request: BatchRequest, slot: int, error: Exception) -> Exception:
    """The error to show: that of a file as it is, any other with the sample it came from."""
    if isinstance(error, DataError):
        return error
    index = request.sample_ids[slot]
    message = (
        f"sample {index} ({source.describe(index)}) failed in epoch {request.epoch}, batch {request.index}: "
        f"{type(error).__name__}: {error}"
    )
    result = RuntimeError(message)
    result.__cause__ = error
    return result


class Workers(Protocol):
    """Fills the slots of jobs."""

    def slab(self, index: int) -> Array:
        """Memory of one batch, (bytes,) uint8."""

    def submit(self, job: Job) -> None:
        """Begin to fill the slots of ``job``, whose slab nobody else uses."""

    def close(self) -> None:
        """Stop all that was started. Jobs that are not done may stay so."""


class Inline:
    """The caller fills every slot itself."""

    def __init__(self, source: Source, num_slabs: int, slab_bytes: int) -> None:
        self._source = source
        self._slabs = [np.empty(slab_bytes, np.uint8) for _ in range(num_slabs)]

    def slab(self, index: int) -> Array:
        """Memory of one batch, (bytes,) uint8."""
        return self._slabs[index]

    def submit(self, job: Job) -> None:
        """Fill all slots of ``job`` now."""
        for slot in range(len(job.request)):
            make_sample(self._source, job, slot)

    def close(self) -> None:
        """Nothing was started."""


class Threads:
    """Threads fill the slots, in the order of submission. Pays where the work releases the interpreter's lock."""

    def __init__(self, source: Source, num_slabs: int, slab_bytes: int, *, num_workers: int) -> None:
        self._slabs = [np.empty(slab_bytes, np.uint8) for _ in range(num_slabs)]
        self._tasks: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_fill_forever, args=(source, self._tasks), name=f"sightline-data-{i}", daemon=True)
            for i in range(num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def slab(self, index: int) -> Array:
        """Memory of one batch, (bytes,) uint8."""
        return self._slabs[index]

    def submit(self, job: Job) -> None:
        """Queue all slots of ``job``."""
        for slot in range(len(job.request)):
            self._tasks.put((job, slot))

    def close(self) -> None:
        """End the threads; each finishes its sample first."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()


def _fill_forever(source: Source, tasks: queue.SimpleQueue[tuple[Job, int] | None]) -> None:
    source.prepare_worker()
    while (task := tasks.get()) is not None:
        make_sample(source, *task)
