"""Callbacks watch a run: they log, evaluate, save, draw and ask for a stop. They never change the mathematics.

Six moments are enough: run start, step end, epoch end, evaluation start and end, run end. At each moment the
callbacks are called in the order of their list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from sightline.engine.schedule import GroupValues

if TYPE_CHECKING:
    from sightline.engine.loop import Training


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did. Tensors are detached and still on the device: reading one waits for it."""

    step: int
    """Optimizer steps done so far, this one included."""
    epoch: int
    """Epoch this step belongs to, from 0."""
    losses: Mapping[str, Tensor]
    """Mean over the step's micro-batches of each loss."""
    grad_norm: Tensor | None
    """Global norm before clipping; None where nobody asked for it."""
    values: Sequence[GroupValues]
    """Learning rate and momentum of each parameter group."""
    sample_ids: tuple[int, ...]
    """Samples of this process."""
    num_samples: int
    """Samples of all processes."""


@dataclass(frozen=True)
class EvaluationReport:
    """Figures of one evaluation; ``details`` holds JSON-able tables and curves.

    Losses of the validation data, where they were measured, stand among the figures as ``loss`` and ``loss/NAME``.
    """

    step: int
    epoch: int
    metrics: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    losses_only: bool = False
    """Nothing was predicted: the figures are losses, and there are no details."""


class Callback:
    """Does nothing at every moment; override the ones you need. ``state`` goes into every checkpoint.

    In a run of several processes the first one alone has callbacks, but for those that say otherwise.
    """

    in_every_process: ClassVar[bool] = False
    """True where all processes must do or decide it together. What it decides by is then equal in all of them."""

    def on_run_start(self, training: Training) -> None:
        """Before the first step, or before the first step after a resume."""

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """After every optimizer step."""

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """After the last step of ``epoch``."""

    def on_evaluation_start(self, training: Training) -> None:
        """Before an evaluation; one that makes way for a stop has no end."""

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        """After an evaluation."""

    def on_run_end(self, training: Training, outcome: str) -> None:
        """When the loop is over: ``outcome`` is done, stopped or failed. Called after an error too."""

    def state(self) -> dict[str, Any]:
        """Plain JSON-able values that a resumed run needs."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` gave."""
