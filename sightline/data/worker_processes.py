"""Processes that fill the slots of a batch, and that are replaced when one of them dies.

They map one anonymous file for all slabs, which has no name and so cannot be left behind, however the run ends.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import mmap
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Iterator
from multiprocessing import connection, reduction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sightline.config.errors import ConfigError, DataError
from sightline.data.sampler import BatchRequest
from sightline.data.workers import Array, Arrays, Job, Source, slab_arrays, told

StartMethod = Literal["spawn", "fork", "forkserver"]

RESTARTS = 3
"""So many dead worker processes of a loader are replaced."""

_PATIENCE_S = 5.0
_log = logging.getLogger(__name__)


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


class _Worker:
    """A worker process and what it still owes."""

    def __init__(self, name: str, process: Any, pipe: Any) -> None:
        self.name, self.process, self.pipe = name, process, pipe
        self.owed: dict[int, tuple[Job, list[int]]] = {}
        """Number of a job -> the job, and its slots that this worker has not made yet, in their order."""


class Processes:
    """Processes fill the slots: for sources whose Python code, not whose array code, takes the time.

    A batch is dealt out in equal parts. What ``fill`` gives back travels through a pipe, the arrays do not.
    Workers ignore Ctrl-C, SIGTERM and the like, so that a run can finish its step, and end when their parent is gone.

    A process that dies (killed, or crashed in native code) is replaced by a new one that makes the same samples again,
    ``RESTARTS`` times at most; a sample is a function of its number alone, so no bit of the batches changes. The next
    death is an error.

    Raises:
        ConfigError: On a system without anonymous shared files.
    """

    def __init__(
        self, source: Source, num_slabs: int, slab_bytes: int, *, num_workers: int, start_method: StartMethod
    ) -> None:
        if os.name != "posix":
            raise ConfigError("worker processes need Linux or macOS. Use worker threads: they make the same batches.")
        self._source = source
        self._shared = SharedSlabs(num_slabs, slab_bytes)
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._next_number = 0
        self._broken: Exception | None = None
        self._closing = threading.Event()
        self._deaths = 0
        self._context: Any = multiprocessing.get_context(start_method)
        self._workers = [_Worker(name, *self._start(name)) for name in _worker_names(num_workers)]
        self._old_pipes: list[Any] = []
        # Before multiprocessing's own handler, which would wait for ever for processes that ignore SIGTERM.
        atexit.register(self.close)
        self._receiver = threading.Thread(target=self._receive, name="sightline-data-receiver", daemon=True)
        self._receiver.start()

    def _start(self, name: str) -> tuple[Any, Any]:
        """A new worker process and our end of its pipe."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(self._source, self._shared, theirs), name=name, daemon=True
        )
        with _signals_wait():
            process.start()
        theirs.close()
        return process, ours

    def slab(self, index: int) -> Array:
        """Memory of one batch, (bytes,) uint8."""
        return self._shared.slabs[index]

    def submit(self, job: Job) -> None:
        """Deal the slots of ``job`` out to the processes."""
        slots, parts = range(len(job.request)), []
        with self._lock:
            if self._broken is not None:
                job.fail(self._broken)
                return
            number, self._next_number = self._next_number, self._next_number + 1
            if not job.is_done:
                self._jobs[number] = job
            for i, worker in enumerate(self._workers):
                if part := list(slots[i :: len(self._workers)]):
                    worker.owed[number] = (job, part)
                    parts.append((worker.pipe, part.copy()))
        # To the pipe that the worker had when it began to owe: what was sent to a dead one is sent anew elsewhere.
        for pipe, part in parts:
            _send_part(pipe, number, job, part)

    def _receive(self) -> None:
        by_pipe = {worker.pipe: worker for worker in self._workers}
        while by_pipe:
            for ready in connection.wait(list(by_pipe)):
                pipe: Any = ready
                try:
                    number, slot, extra, failure = pipe.recv()
                except (EOFError, OSError):
                    worker = by_pipe.pop(pipe)
                    if self._replace(worker):
                        by_pipe[worker.pipe] = worker
                    continue
                self._take(by_pipe[pipe], number, slot, extra, failure)

    def _take(self, worker: _Worker, number: int, slot: int, extra: Any, failure: _Failure | None) -> None:
        """A worker has made a slot."""
        with self._lock:
            job, owed = worker.owed.get(number, (None, []))
            if job is None:
                return
            owed.remove(slot)
            if not owed:
                del worker.owed[number]
        job.finish(slot, extra, None if failure is None else failure.as_exception())
        if job.is_done:
            with self._lock:
                self._jobs.pop(number, None)

    def _replace(self, worker: _Worker) -> bool:
        """Start a dead worker anew and let it make what it owed; False if that is not to be."""
        if self._closing.is_set():
            return False
        worker.process.join(_PATIENCE_S)
        self._deaths += 1
        death = f"{worker.name} died {_end_of(worker.process)}{self._whereabouts(worker)}"
        if self._deaths > RESTARTS:
            self._give_up(
                RuntimeError(
                    f"{death}. It is the {self._deaths}th time that a worker of this loader died. If memory ran out: "
                    "use worker threads, fewer workers or a smaller batch."
                )
            )
            return False
        _log.warning("%s; a new one makes the same samples again (%d of %d restarts)", death, self._deaths, RESTARTS)
        try:
            process, pipe = self._start(worker.name)
        except OSError as error:
            self._give_up(RuntimeError(f"{death}, and no new one could be started: {error}."))
            return False
        with self._lock:
            self._old_pipes.append(worker.pipe)  # still open: ``submit`` may be about to write into it
            worker.process, worker.pipe = process, pipe
            parts = [(number, job, owed.copy()) for number, (job, owed) in worker.owed.items()]
            if self._closing.is_set():
                with contextlib.suppress(OSError):
                    pipe.send(None)
                return False
        for number, job, part in parts:
            _send_part(pipe, number, job, part)
        return True

    def _whereabouts(self, worker: _Worker) -> str:
        """The sample that a dead worker was making, as far as is known."""
        with self._lock:
            for job, owed in worker.owed.values():
                index = job.request.sample_ids[owed[0]]
                return f" while it made sample {index} ({self._source.describe(index)})"
        return ""

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            self._broken = error
            jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            job.fail(error)

    def close(self) -> None:
        """End the processes; one that does not answer in time is killed."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        atexit.unregister(self.close)
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.pipe.send(None)
        self._end_processes()
        self._receiver.join()
        self._end_processes()  # the receiver may just have started one
        for pipe in [*self._old_pipes, *(worker.pipe for worker in self._workers)]:
            pipe.close()
        self._shared.close()

    def _end_processes(self) -> None:
        for worker in self._workers:
            worker.process.join(_PATIENCE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _worker_names(count: int) -> list[str]:
    return [f"sightline-data-{i}" for i in range(count)]


def _send_part(pipe: Any, number: int, job: Job, part: list[int]) -> None:
    """Ask a worker for slots of a job. A dead one does not answer, and the receiver takes care of that."""
    with contextlib.suppress(OSError):
        pipe.send((number, job.slab_index, job.layout, job.request, part))


def _end_of(process: Any) -> str:
    """``(process 4711) with exit code -9 (SIGKILL)``."""
    code = process.exitcode
    try:
        name = f" ({signal.Signals(-code).name})" if code is not None and code < 0 else ""
    except ValueError:
        name = ""
    return f"(process {process.pid}) with exit code {code}{name}"


_STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has two of them
)
"""What asks a run to finish its step, see ``engine/stop.py``; a closed terminal and schedulers send them to all."""


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that stop a run come after this block; a process started in it ignores them before it gets any."""
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
