"""Batches made ahead of time, from any place of a run on."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from sightline.data.sampler import Sampler
from sightline.data.worker_processes import Processes, StartMethod
from sightline.data.workers import Inline, Job, Source, Threads, Workers, layout_bytes, slab_arrays


@dataclass(frozen=True, slots=True)
class Fetched:
    """A batch and its place in the run: ``index`` counts the batches of ``epoch`` from 0."""

    epoch: int
    index: int
    batch: Any


class BatchLoader:
    """Joins a source and a sampler; workers fill the next batches while one is used.

    A batch is a pure function of (source, sampler, epoch, index): its bits do not depend on the number or kind of
    workers, and no sample before it is touched. Its memory is used again after the next fetch; copy what must stay.
    Workers start at the first fetch and live until ``close``, over all epochs; a process that dies is replaced.

    Args:
        source: Makes samples.
        sampler: Says which samples make which batch.
        workers: How many threads or processes; 0 makes every batch when it is asked for.
        kind: ``threads``, or ``processes`` for sources that spend their time in Python code.
        prefetch: Batches made ahead. Memory holds one more.
        start_method: How processes start; ``fork`` is faster than ``spawn``, but not safe once other threads run.

    Raises:
        ValueError: If a number makes no sense.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        *,
        workers: int = 2,
        kind: Literal["threads", "processes"] = "threads",
        prefetch: int = 2,
        start_method: StartMethod = "spawn",
    ) -> None:
        if len(source) != sampler.length:
            raise ValueError(f"the source has {len(source)} samples, the sampler {sampler.length}.")
        if workers < 0 or prefetch < 1:
            raise ValueError(f"workers must be at least 0 and prefetch at least 1, got {workers} and {prefetch}.")
        if kind not in ("threads", "processes"):
            raise ValueError(f"kind must be 'threads' or 'processes', got {kind!r}.")
        self.source = source
        self.sampler = sampler
        self._num_workers = workers
        self._kind = kind
        self._start_method: StartMethod = start_method
        self._prefetch = prefetch if workers else 0
        self._workers: Workers | None = None
        self._slab_users: list[Job | None] = []
        self._newest_iteration = 0

    @property
    def batches_per_epoch(self) -> int:
        """Number of (global) batches of one pass over the data, the last incomplete one included."""
        return self.sampler.batches_per_epoch

    def batch_length(self, index: int) -> int:
        """Samples of the global batch ``index`` of any epoch, over all processes."""
        return self.sampler.batch_length(index)

    def describe(self, index: int) -> str:
        """What a person calls sample ``index``: the path of its file."""
        return self.source.describe(index)

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[Fetched]:
        """Batches from batch ``index`` of ``epoch`` to the end of epoch ``epochs - 1``.

        Only one iteration is alive at a time: beginning another ends the one before.

        Args:
            epoch: First epoch.
            index: First batch of it; ``batches_per_epoch`` stands for the beginning of the next epoch.
            epochs: The epoch to stop before.

        Raises:
            ValueError: If there is no such place.
            DataError: If a file of a sample is at fault.
            RuntimeError: If a sample failed for another reason (names its file), if worker processes died
                again and again, or if another iteration has begun.
        """
        if epoch < 0 or not 0 <= index <= self.batches_per_epoch:
            raise ValueError(f"no batch {index} in epoch {epoch}: an epoch has {self.batches_per_epoch} batches.")
        return self._iterate(epoch, index, epochs)

    def _iterate(self, epoch: int, index: int, epochs: int) -> Iterator[Fetched]:
        self._newest_iteration += 1
        this_iteration = self._newest_iteration
        places = itertools.chain(
            ((epoch, k) for k in range(index, self.batches_per_epoch) if epoch < epochs),
            ((e, k) for e in range(epoch + 1, epochs) for k in range(self.batches_per_epoch)),
        )
        workers = self._started()
        jobs: deque[Job] = deque(
            self._submit(workers, place, number)
            for number, place in enumerate(itertools.islice(places, self._prefetch))
        )
        numbers = itertools.count(len(jobs))
        try:
            while True:
                for place in itertools.islice(places, 1):
                    jobs.append(self._submit(workers, place, next(numbers)))
                if not jobs:
                    return
                job = jobs.popleft()
                job.wait()
                batch = self.source.collate(job.request, job.arrays, job.extras)
                yield Fetched(job.request.epoch, job.request.index, batch)
                if this_iteration != self._newest_iteration:
                    raise RuntimeError("another iteration of this loader has begun, or it was closed.")
        finally:
            for job in jobs:
                job.is_abandoned = True

    def _submit(self, workers: Workers, place: tuple[int, int], number: int) -> Job:
        request = self.sampler.request(*place)
        layout = self.source.layout(len(request), request.input_hw)
        slab_index = number % len(self._slab_users)
        user = self._slab_users[slab_index]
        if user is not None:
            user.settle()  # waits only after an iteration that was left early
        job = Job(request, slab_index, layout, slab_arrays(workers.slab(slab_index), layout))
        self._slab_users[slab_index] = job
        workers.submit(job)
        return job

    def _started(self) -> Workers:
        if self._workers is None:
            share = -(-self.sampler.batch_length(0) // self.sampler.num_processes)
            shapes = {self.sampler.input_hw(k) for k in range(self.batches_per_epoch)}
            slab_bytes = max(layout_bytes(self.source.layout(share, input_hw)) for input_hw in shapes)
            num_slabs = self._prefetch + 1
            if self._num_workers == 0:
                self._workers = Inline(self.source, num_slabs, slab_bytes)
            elif self._kind == "threads":
                self._workers = Threads(self.source, num_slabs, slab_bytes, num_workers=self._num_workers)
            else:
                self._workers = Processes(
                    self.source,
                    num_slabs,
                    slab_bytes,
                    num_workers=self._num_workers,
                    start_method=self._start_method,
                )
            self._slab_users = [None] * num_slabs
            self._finalizer = weakref.finalize(self, self._workers.close)
        return self._workers

    def close(self) -> None:
        """Stop all workers. An iteration begun later starts new ones."""
        self._newest_iteration += 1
        if self._workers is not None:
            self._workers = None
            self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
