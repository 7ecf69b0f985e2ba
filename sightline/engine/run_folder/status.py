"""``status.json``, the heartbeat of a run: what it does now, for people and tools that look from outside.

The file is replaced as a whole, so a reader never sees half of it. It is news, not state: nothing is read
back from it when a run resumes, and a disk that refuses it does not stop a run.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from sightline.config.base import Config
from sightline.engine.run_folder.atomic_file import replace_file
from sightline.engine.run_folder.process_identity import ProcessIdentity

STATUS_FILE = "status.json"
STALE_SECONDS = 60.0
"""A heartbeat older than this, of a process that cannot be asked, counts as dead."""

State = Literal["starting", "running", "evaluating", "done", "failed", "interrupted"]
_ENDED = ("done", "failed", "interrupted")
_log = logging.getLogger(__name__)


class Status(Config):
    """What a run last said about itself."""

    state: State
    """What it does, or how it ended."""
    step: int = 0
    """Optimizer steps taken."""
    total_steps: int | None = None
    """Steps at which the run ends, where known."""
    epoch: int = 0
    """Passes over the data that are complete."""
    total_epochs: int | None = None
    """Passes at which the run ends, where known."""
    eta_s: float | None = None
    """Seconds of training left, judged by the recent pace."""
    samples_per_s: float | None = None
    """Recent throughput."""
    unit: str = "samples"
    """What a sample is called."""
    losses: dict[str, float] = Field(default_factory=dict)
    """The losses last logged."""
    message: str = ""
    """One line for people, such as the reason of a failure."""
    updated: float
    """When this was written, Unix seconds."""
    process: ProcessIdentity
    """Who wrote it."""

    def is_alive(self, now: float | None = None) -> bool:
        """Whether a process still works on the run: it has not ended, and it is there or spoke lately."""
        if self.state in _ENDED:
            return False
        alive = self.process.is_alive()
        if alive is not None:
            return alive
        return (time.time() if now is None else now) - self.updated < STALE_SECONDS

    def time_left(self, now: float | None = None) -> float:
        """``eta_s`` less what has passed since it was written; 0 where nothing is known."""
        passed = (time.time() if now is None else now) - self.updated
        return max(0.0, (self.eta_s or 0.0) - max(0.0, passed))

    def word(self) -> str:
        """The state in one word; ``dead`` for a run that stopped without saying so."""
        return self.state if self.state in _ENDED or self.is_alive() else "dead"


class Heartbeat:
    """Writes ``status.json``, at most once per ``period_s``; changes of state are written at once.

    Args:
        run_dir: The run's folder.
        total_steps: Steps at which the run ends.
        total_epochs: Epochs at which the run ends.
        period_s: Least time between two writings.
        unit: What a sample is called.
        clock: Seconds that never jump; tests pass their own.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        total_steps: int | None = None,
        total_epochs: int | None = None,
        period_s: float = 1.0,
        unit: str = "samples",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = run_dir / STATUS_FILE
        self.total_steps = total_steps
        self.total_epochs = total_epochs
        self.period_s = period_s
        self.unit = unit
        self._clock = clock
        self._process = ProcessIdentity.here()
        self._next = float("-inf")
        self._state: State | None = None
        self._step = self._epoch = 0
        self._losses: dict[str, float] = {}
        self._samples_per_s: float | None = None
        self._eta_s: float | None = None
        self._complained = False

    def is_due(self) -> bool:
        """Whether ``beat`` would write now. Costs one look at the clock, so a loop may ask at every step."""
        return self._clock() >= self._next

    def beat(
        self,
        state: State = "running",
        *,
        step: int | None = None,
        epoch: int | None = None,
        losses: Mapping[str, float] | None = None,
        samples_per_s: float | None = None,
        eta_s: float | None = None,
        message: str = "",
    ) -> bool:
        """Say where the run is; what is not given stays as it was.

        Args:
            state: What the run does.
            step: Optimizer steps taken.
            epoch: Complete passes over the data.
            losses: Plain numbers, the last ones known.
            samples_per_s: Throughput.
            eta_s: Seconds left.
            message: One line for people.

        Returns:
            Whether the file was due and written.
        """
        now = self._clock()
        self._step = self._step if step is None else step
        self._epoch = self._epoch if epoch is None else epoch
        self.know(losses=losses, samples_per_s=samples_per_s)
        self._eta_s = self._eta_s if eta_s is None else eta_s
        if state == self._state and now < self._next:
            return False
        self._state = state
        self._next = now + self.period_s
        return self._write(state, message)

    def know(self, *, losses: Mapping[str, float] | None = None, samples_per_s: float | None = None) -> None:
        """Take figures for the next writing, whenever that comes."""
        self._losses = self._losses if losses is None else dict(losses)
        self._samples_per_s = self._samples_per_s if samples_per_s is None else samples_per_s

    def _write(self, state: State, message: str) -> bool:
        status = Status(
            state=state,
            step=self._step,
            total_steps=self.total_steps,
            epoch=self._epoch,
            total_epochs=self.total_epochs,
            eta_s=None if state in _ENDED else self._eta_s,
            samples_per_s=None if state in _ENDED else self._samples_per_s,
            unit=self.unit,
            losses=self._losses,
            message=message,
            updated=time.time(),
            process=self._process,
        )
        try:
            replace_file(self.path, status.model_dump_json(indent=1).encode() + b"\n", durable=False)
        except OSError as error:
            if not self._complained:
                _log.warning("%s cannot be written (%s); the run goes on without it.", self.path, error.strerror)
            self._complained = True
            return False
        return True


def read_status(run_dir: Path) -> Status | None:
    """The heartbeat of a run; None where there is none or a power cut left it broken."""
    try:
        return Status.model_validate_json((run_dir / STATUS_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
