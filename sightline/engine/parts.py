"""Batches that do not fit into memory are run in parts, one after the other, with the same losses and gradients.

A part enters the step like a micro-batch of its window, weighted so that the sum over the parts is the loss of the
whole batch. What differs is what looks at many samples at once: batch norm sees the samples of a part.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sightline.config.printable import counted
from sightline.engine.seed import reseed
from sightline.files.atomic_file import replace_file

if TYPE_CHECKING:
    from sightline.engine.loop import Training
    from sightline.engine.task import PartWeights

NOTE_FILE = "out_of_memory.json"
"""In a run's folder: what a process of several that ran out of memory leaves for those that come after it."""


class StepTooLargeError(MemoryError):
    """Memory ran out, and smaller parts do not help or cannot be made here."""


class Part(NamedTuple):
    """Some samples of a batch."""

    batch: Any
    """A ``Batch``."""
    of: int
    """Parts of the whole."""
    is_last: bool
    weighing: Callable[[], AbstractContextManager[object]] = nullcontext
    """Round its forward pass."""


class SamplesAtOnce:
    """How many samples of a batch a process runs at once. It is the run's ``samples_at_once`` or less.

    Args:
        wanted: What the configuration says; None for whole batches.
        may_shrink: Whether running out of memory halves it.
    """

    def __init__(self, wanted: int | None = None, *, may_shrink: bool = True) -> None:
        self.wanted = wanted
        self.may_shrink = may_shrink
        self.limit = wanted
        """At most so many; None for whole batches."""
        self.tell: Callable[[str], None] = lambda text: None
        """Called when it was halved."""
        self.note_dir: Path | None = None
        """Where a process of several leaves its note."""

    def cut(self, training: Training, batch: Any, samples: int) -> Sequence[Any]:
        """A batch in pieces, which may be one: itself. All processes make equally many.

        Args:
            training: Runs them.
            batch: This process's share, on its device.
            samples: Of the whole batch, over all processes.
        """
        count = 1 if self.limit is None else -(-largest_share(training, samples) // self.limit)
        if count <= 1:
            return (batch,)
        bounds = [place * len(batch) // count for place in range(count + 1)]
        return [batch.part(first, end) for first, end in pairwise(bounds)]

    def ran_out(self, training: Training, samples: int, error: BaseException) -> None:
        """Memory ran out in the forward or backward pass of a batch: have its step begun anew, in halves.

        Args:
            training: Where it happened; its position goes back to the beginning of the step.
            samples: Of the whole batch, over all processes.
            error: What was raised.

        Raises:
            StepTooLargeError: If a single sample is too much; or in a run of several processes, since the others are
                waiting in the middle of the step. The next start of the run then makes smaller parts.
            Exception: ``error``, where nothing may be changed.
        """
        if not self.may_shrink:
            raise error
        share = largest_share(training, samples)
        before = share if self.limit is None else min(self.limit, share)
        if before == 1:
            raise StepTooLargeError(
                f"out of memory with one sample at once, at step {training.step}: {_first_line(error)}\n"
                "  Take a smaller model, smaller samples, precision=bf16, or a device with more memory."
            )
        self.limit = -(-before // 2)
        if training.processes.share.count > 1:
            if self.note_dir is not None:
                leave_note(self.note_dir, self.limit)
            rank = training.processes.share.rank
            raise StepTooLargeError(
                f"out of memory with {counted(before, 'sample')} at once in process {rank}, at step {training.step}: "
                f"{_first_line(error)}\n  When the run is resumed, batches are run in parts of at most "
                f"{counted(self.limit, 'sample')} a process (samples_at_once={self.limit})."
            )
        self.tell(
            f"out of memory with {counted(before, 'sample')} at once, at step {training.step}: from now on batches are "
            f"run in parts of at most {self.limit}. Batch, losses and gradients stay as they are; batch norm sees parts"
        )
        training.optimizer.zero_grad()
        training.guard.forget_step()
        training.iteration = training.plan.first_iteration(training.step)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"limit": self.limit, "wanted": self.wanted}

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Take over what ``state`` gave, unless the configuration says something else now."""
        if state is not None and state["wanted"] == self.wanted:
            self.limit = state["limit"]


def weighed_together(training: Training, micro_batches: Sequence[Sequence[Any]]) -> list[Iterator[Part]]:
    """The parts of micro-batches that follow each other from ``training.iteration`` on, for one backward pass each.

    Where a task can weigh its parts, all of these are shares of one batch: the mean of their losses is the loss of
    all micro-batches as one. Else every part counts as much as any other of its micro-batch.

    Args:
        training: Runs them.
        micro_batches: The pieces of each.

    Returns:
        For each micro-batch its parts, to be taken in order. Taking the first one may run the model.
    """
    task, first = training.task, training.iteration
    count = sum(len(pieces) for pieces in micro_batches)
    weights = task.weigh_parts(count) if task.losses_are_whole and count > 1 else None

    def of(number: int, pieces: Sequence[Any]) -> Iterator[Part]:
        if weights is not None:
            if number == 0:
                _count(training, micro_batches, weights)
            _reseed(training, first + number)
        weighing = nullcontext if weights is None else weights.weighing
        for place, piece in enumerate(pieces, start=1):
            yield Part(piece, len(pieces), place == len(pieces), weighing)

    return [of(number, pieces) for number, pieces in enumerate(micro_batches)]


def _count(training: Training, micro_batches: Sequence[Sequence[Any]], weights: PartWeights) -> None:
    """Have the task look at every piece without gradients. It stays as it was."""
    kept = [(buffer, buffer.clone()) for buffer in training.task.buffers()]
    with torch.no_grad():
        for number, pieces in enumerate(micro_batches):
            _reseed(training, training.iteration + number)
            for piece in pieces:
                with weights.counting(), training.precision.autocast():
                    training.task(piece)
        for buffer, value in kept:
            buffer.copy_(value)
    weights.end_counting()


def _reseed(training: Training, iteration: int) -> None:
    reseed(training.device, training.seed, iteration, training.processes.share.rank)


def largest_share(training: Training, samples: int) -> int:
    """Samples that the process with most of them has of a batch."""
    return -(-samples // training.processes.share.count)


def free_memory(device: torch.device) -> None:
    """Give back what a failed step held. To be called when nothing refers to its tensors any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def leave_note(run_dir: Path, limit: int) -> None:
    """Write down how many samples at once the next start of a run may take."""
    with suppress(OSError):  # the folder may be another machine's
        replace_file(run_dir / NOTE_FILE, json.dumps({"samples_at_once": limit}).encode() + b"\n")


def take_note(run_dir: Path) -> int | None:
    """What ``leave_note`` wrote, which is gone then; None without."""
    path = run_dir / NOTE_FILE
    try:
        limit = json.loads(path.read_bytes())["samples_at_once"]
        path.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return limit if type(limit) is int and limit >= 1 else None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
