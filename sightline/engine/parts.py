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
from sightline.engine.atomic_file import replace_file
from sightline.engine.seed import reseed

if TYPE_CHECKING:
    from sightline.engine.loop import Training

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

    def parts(self, training: Training, batch: Any, samples: int) -> Sequence[Part] | Iterator[Part]:
        """The batch, or its parts in their order. All processes have equally many.

        Args:
            training: Runs them.
            batch: This process's share, on its device.
            samples: Of the whole batch, over all processes.
        """
        count = 1 if self.limit is None else -(-largest_share(training, samples) // self.limit)
        return (Part(batch, 1, True),) if count <= 1 else self._cut(training, batch, count)

    def _cut(self, training: Training, batch: Any, count: int) -> Iterator[Part]:
        length, task = len(batch), training.task
        bounds = [place * length // count for place in range(count + 1)]
        parts = [batch.part(first, end) for first, end in pairwise(bounds)]
        weights = task.weigh_parts(count) if task.losses_are_whole else None
        if weights is None:
            for place, part in enumerate(parts):
                yield Part(part, count, place == count - 1)
            return
        kept = [(buffer, buffer.clone()) for buffer in task.buffers()]
        with torch.no_grad():
            for part in parts:
                with weights.counting(), training.precision.autocast():
                    task(part)
            for buffer, value in kept:
                buffer.copy_(value)
        weights.end_counting()
        reseed(training.device, training.seed, training.iteration, training.processes.share.rank)
        for place, part in enumerate(parts):
            yield Part(part, count, place == count - 1, weights.weighing)

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
