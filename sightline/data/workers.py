"""Who fills the slots of a batch: the caller itself, threads, or processes. All give the same bits.

A batch lives in a slab: one piece of memory for all its arrays, kept for the whole run and used again and again,
because fresh pages cost more than decoding. Threads write into it directly. Processes map one anonymous file,
which has no name and so cannot be left behind, however the run ends.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection, reduction
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from sightline.config.errors import ConfigError, DataError
from sightline.data.sampler import BatchRequest

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Layout = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
"""Name of each array of a batch -> its shape, samples first, and element type."""
StartMethod = Literal["spawn", "fork", "forkserver"]

_ALIGNMENT = 64
_PATIENCE_S = 5.0


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


class SharedSlabs:
    """Slabs in one anonymous file, mapped by every process that gets this object when it starts."""

    def __init__(self, num_slabs: int, slab_bytes: int) -> None:
        self.num_slabs, self.slab_bytes = num_slabs, slab_bytes
        if hasattr(os, "memfd_create"):
            self._handle = os.memfd_create("sightline-slabs")
        else:
            self._handle, path = tempfile.mkstemp(prefix="sightline-slabs-")
            Path(path).unlink()  # the open file lives on without its name
        os.ftruncate(self._handle, max(1, num_slabs * slab_bytes))
        self._map()

    def _map(self) -> None:
        memory = np.frombuffer(mmap.mmap(self._handle, max(1, self.num_slabs * self.slab_bytes)), np.uint8)
        self.slabs = list(memory[: self.num_slabs * self.slab_bytes].reshape(self.num_slabs, self.slab_bytes))

    def __getstate__(self) -> tuple[Any, int, int]:
        return reduction.DupFd(self._handle), self.num_slabs, self.slab_bytes

    def __setstate__(self, state: tuple[Any, int, int]) -> None:
        duplicate, self.num_slabs, self.slab_bytes = state
        self._handle = duplicate.detach()
        self._map()

    def close(self) -> None:
        """Forget the file; its memory stays while an array uses it."""
        self.slabs = []
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


class _Failure(NamedTuple):
    """An exception on its way through a pipe. Only text travels: not every exception survives being copied."""

    is_data_error: bool
    message: str
    traceback: str

    def as_exception(self) -> Exception:
        if self.is_data_error:
            return DataError(self.message)
        error = RuntimeError(self.message)
        error.add_note(f"In the data worker:\n{self.traceback}")
        return error


class Processes:
    """Processes fill the slots: for sources whose Python code, not whose array code, takes the time.

    A batch is dealt out in equal parts. What ``fill`` gives back travels through a pipe, the arrays do not.
    Workers ignore Ctrl-C and SIGTERM, so that a run can finish its step, and end when their parent is gone.

    Raises:
        ConfigError: On a system without anonymous shared files.
    """

    def __init__(
        self, source: Source, num_slabs: int, slab_bytes: int, *, num_workers: int, start_method: StartMethod
    ) -> None:
        if os.name != "posix":
            raise ConfigError("worker processes need Linux or macOS. Use worker threads: they make the same batches.")
        self._shared = SharedSlabs(num_slabs, slab_bytes)
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._next_number = 0
        self._broken: Exception | None = None
        self._is_closing = False
        context: Any = multiprocessing.get_context(start_method)
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        for i in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(source, self._shared, theirs), name=f"sightline-data-{i}", daemon=True
            )
            with _signals_wait():
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        # Before multiprocessing's own handler, which would wait for ever for processes that ignore SIGTERM.
        atexit.register(self.close)
        self._receiver = threading.Thread(target=self._receive, name="sightline-data-receiver", daemon=True)
        self._receiver.start()

    def slab(self, index: int) -> Array:
        """Memory of one batch, (bytes,) uint8."""
        return self._shared.slabs[index]

    def submit(self, job: Job) -> None:
        """Deal the slots of ``job`` out to the processes."""
        with self._lock:
            if self._broken is not None:
                job.fail(self._broken)
                return
            number, self._next_number = self._next_number, self._next_number + 1
            if not job.is_done:
                self._jobs[number] = job
        slots = range(len(job.request))
        for i, pipe in enumerate(self._pipes):
            if part := slots[i :: len(self._pipes)]:
                with contextlib.suppress(OSError):  # of a dead worker the receiver tells
                    pipe.send((number, job.slab_index, job.layout, job.request, part))

    def _receive(self) -> None:
        processes = dict(zip(self._pipes, self._processes, strict=True))
        while processes:
            for ready in connection.wait(list(processes)):
                pipe: Any = ready
                try:
                    number, slot, extra, failure = pipe.recv()
                except (EOFError, OSError):
                    self._worker_is_gone(processes.pop(pipe))
                    continue
                with self._lock:
                    job = self._jobs.get(number)
                if job is None:
                    continue
                job.finish(slot, extra, None if failure is None else failure.as_exception())
                if job.is_done:
                    with self._lock:
                        del self._jobs[number]

    def _worker_is_gone(self, process: Any) -> None:
        if self._is_closing:
            return
        process.join(_PATIENCE_S)
        error = RuntimeError(
            f"{process.name} died with exit code {process.exitcode}. If memory ran out: use worker threads, fewer "
            "workers or a smaller batch."
        )
        with self._lock:
            self._broken = error
            jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            job.fail(error)

    def close(self) -> None:
        """End the processes; one that does not answer in time is killed."""
        if self._is_closing:
            return
        self._is_closing = True
        atexit.unregister(self.close)
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self._processes:
            process.join(_PATIENCE_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._receiver.join()
        for pipe in self._pipes:
            pipe.close()
        self._shared.close()


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM come after this block; a process started in it does not get them before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(source: Source, shared: SharedSlabs, pipe: Any) -> None:
    """What a worker process does until it is told to stop or its parent is gone."""
    for stop_signal in _STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    parent: Any = multiprocessing.parent_process()
    parent_id = os.getppid()
    source.prepare_worker()
    # Forked siblings may keep the parent's end of the pipe open, so its closing alone does not tell.
    with contextlib.suppress(EOFError, OSError):
        while os.getppid() == parent_id:
            ready = connection.wait([pipe, parent.sentinel], timeout=1.0)
            if parent.sentinel in ready and pipe not in ready:
                return
            if pipe not in ready:
                continue
            message = pipe.recv()
            if message is None:
                return
            number, slab_index, layout, request, part = message
            arrays = slab_arrays(shared.slabs[slab_index], layout)
            for slot in part:
                pipe.send((number, slot, *_attempt(source, request, slot, arrays)))


def _attempt(source: Source, request: BatchRequest, slot: int, arrays: Arrays) -> tuple[Any, _Failure | None]:
    try:
        return source.fill(request, slot, arrays), None
    except Exception as error:
        shown = told(source, request, slot, error)
        return None, _Failure(isinstance(shown, DataError), str(shown), traceback.format_exc())
