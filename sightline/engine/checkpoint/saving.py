"""The state of a training into checkpoints and back, bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch

from sightline.config.errors import RunError
from sightline.engine.callback import Callback, EvaluationReport, StepReport
from sightline.engine.callbacks.crew import Crew
from sightline.engine.checkpoint.host_buffer import hand_in
from sightline.engine.checkpoint.layout import CheckpointState
from sightline.engine.checkpoint.reader import Checkpoint, load_tensors
from sightline.engine.checkpoint.retention import CheckpointConfig, DiskUse, disk_use
from sightline.engine.checkpoint.save_schedule import SaveSchedule
from sightline.engine.checkpoint.writer import CheckpointWriter
from sightline.engine.copying import copy_exactly
from sightline.engine.culprit import non_finite_names
from sightline.engine.distributed.processes import ALONE, Processes
from sightline.engine.distributed.sharding import Sharding
from sightline.engine.finite import NonFiniteError
from sightline.engine.loop import Training

BYTES_PER_SECOND = 100e6
"""What the first checkpoint is expected to be written with; the next ones by what it took."""
LAST_GOOD = "last_good"
"""File of a checkpoint: the state that a rollback returns to."""
_log = logging.getLogger(__name__)


class Log(Protocol):
    """A file that grows with the run."""

    path: Path

    @property
    def length(self) -> int:
        """Bytes written so far."""


class Saver(Callback):
    """Takes checkpoints of the whole training when they are due, with the state of every callback.

    The first process saves. Where a training is in shards, all have one: they hand in their parts when it says so.

    Args:
        writer: None in other processes than the first.
        config: When checkpoints are due.
        run_dir: The run's folder, where a person may ask for one.
        shards: Processes that have parts of the training's tensors each.
    """

    def __init__(
        self, writer: CheckpointWriter | None, config: CheckpointConfig, run_dir: Path, *, shards: Processes = ALONE
    ) -> None:
        self.writer = writer
        self.shards = shards
        self.due = SaveSchedule(config, run_dir)
        self.crew = Crew([])
        self.logs: dict[str, Log] = {}
        self.saved_step = -1
        self._never_finite: frozenset[str] = frozenset()
        self._metrics: dict[str, float] = {}
        self._evaluated_step = self._reported_step = -1
        self._bytes = 0

    def watch(self, crew: Crew, *, logs: Mapping[str, Log]) -> None:
        """Keep the state of these callbacks and the lengths of these logs in every checkpoint."""
        self.crew = crew
        self.logs = dict(logs)

    def on_run_start(self, training: Training) -> None:
        """Get the memory for checkpoints; save if an evaluation that a stop had cut short was made up for just now."""
        self._never_finite = frozenset(non_finite_names(training.task.state_dict()))
        tensors = tensors_of(training)
        if self.writer is not None:
            self.writer.reserve(tensors)
        self._bytes = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
        if self._reported_step == training.step == self.saved_step:
            self.saved_step = -1  # the checkpoint of this step lacks the figures
            self._save_if_due(training)

    def seconds(self) -> float:
        """How long the next checkpoint will take until it is on the disk, as far as one can know."""
        known = None if self.writer is None else self.writer.seconds
        return self._bytes / BYTES_PER_SECOND if known is None else known

    def on_evaluation_end(self, training: Training, report: EvaluationReport) -> None:
        """Remember the figures for the checkpoint of this step; losses alone say nothing about the best one."""
        self._reported_step = report.step
        if not report.losses_only:
            self._metrics, self._evaluated_step = dict(report.metrics), report.step

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Save if it is due. At the end of an epoch that happens after the evaluation."""
        if not training.ends_epoch and training.step < training.plan.length.steps:
            self._save_if_due(training)

    def on_epoch_end(self, training: Training, epoch: int) -> None:
        """Save if it is due, with the figures of the evaluation."""
        self._save_if_due(training)

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Let go of the callbacks: whoever asks for ``seconds`` later shall not keep the model."""
        self.crew = Crew([])

    def _save_if_due(self, training: Training) -> None:
        reason = None
        if self.writer is not None:
            reason = self.due.reason(step=training.step, epoch=training.epoch, ends_epoch=training.ends_epoch)
        reason = self.shards.tell(reason)
        if reason is not None:
            self.save(training, reason=reason)

    def save_on_request(self, training: Training, live_weights: AbstractContextManager[None]) -> None:
        """In the middle of an evaluation: save if somebody asks. A run that goes on from there evaluates anew.

        The checkpoint that is due after the evaluation, with its figures, takes the place of this one.

        Args:
            training: What to save.
            live_weights: Puts them in their place while it lasts.
        """
        asks = self.writer is not None and self.due.is_requested() and self.saved_step != training.step
        if self.shards.tell(asks):
            with live_weights:
                self.save(training, reason="request")
            self.saved_step = -1

    def save(self, training: Training, *, reason: str) -> None:
        """Take a checkpoint now, unless this step has one."""
        if self.saved_step == training.step:
            return
        training.guard.check()
        if not self._is_fit(training):
            return
        if self.writer is None:
            for tensors in tensors_of(training).values():
                hand_in(tensors)
            self.saved_step = training.step
            return
        self.writer.save(
            CheckpointState(
                tensors=tensors_of(training),
                state={
                    "step": training.step,
                    "iteration": training.iteration,
                    "ema_updates": training.ema.updates if training.ema is not None else 0,
                    "guard": training.guard.state(),
                    "at_once": training.at_once.state(),
                    "callbacks": self.crew.states(),
                    "logs": {name: log.length for name, log in self.logs.items()},
                },
            ),
            step=training.step,
            epoch=training.epoch,
            ends_epoch=training.ends_epoch,
            metrics=self._metrics if self._evaluated_step == training.step else None,
            reason=reason,
            sync_first=[log.path for log in self.logs.values() if log.length],
        )
        self.saved_step = training.step

    def _is_fit(self, training: Training) -> bool:
        """Whether the weights are finite. If not, older checkpoints stay the newest ones."""
        bad = [name for name in non_finite_names(training.task.state_dict()) if name not in self._never_finite]
        if not self.shards.any_asks_now(bool(bad)):
            return True
        bad = bad or ["those of another process"]
        text = f"weights became NaN or infinite before step {training.step}: {', '.join(bad[:3])}"
        text += f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        if training.guard.last_good is None or training.step >= training.plan.length.steps:
            raise NonFiniteError(f"{text}. No checkpoint was taken; older ones are whole.\n  Try a lower lr.")
        _log.warning("%s; no checkpoint is taken", text)  # the next step will return to a good state
        return False


def tensors_of(training: Training) -> dict[str, dict[str, torch.Tensor]]:
    """Everything of a training that is a tensor, by file; with the state that a rollback returns to."""
    tensors, kept = live_tensors(training), training.guard.last_good
    return tensors if kept is None else {**tensors, LAST_GOOD: kept.state_tensors()}


def disk_of_checkpoints(config: CheckpointConfig, training: Training) -> DiskUse:
    """The most that the checkpoints of a training can take at any time of it."""
    length = training.plan.length
    return disk_use(
        config,
        bytes_each=sum(tensor.nbytes for group in tensors_of(training).values() for tensor in group.values()),
        total_steps=length.steps,
        steps_per_epoch=max(1, length.steps // length.epochs),
        total_epochs=length.epochs,
    )


def live_tensors(training: Training) -> dict[str, dict[str, torch.Tensor]]:
    """Every tensor that a step may change, by file."""
    tensors = {"model": training.task.state_dict(), "optimizer": training.optimizer.state_tensors()}
    if training.ema is not None:
        tensors["ema"] = training.ema.state_tensors()
    if training.precision.scaler is not None:
        tensors["scaler"] = training.precision.scaler.state_tensors()
    return tensors


def load_training(training: Training, checkpoint: Checkpoint) -> None:
    """Put a training where a checkpoint stands, bit for bit.

    Raises:
        RunError: If the checkpoint is of another model or optimizer.
    """
    tensors = load_tensors(checkpoint)
    copy_exactly(
        training.task.state_dict(),
        tensors["model"],
        where=str(checkpoint.path),
        what="weights",
        cure="It is a checkpoint of another model; resume with the run's own configuration.",
    )
    training.optimizer.load_state_tensors(tensors["optimizer"])
    if training.ema is not None:
        if "ema" not in tensors:
            raise RunError(f"{checkpoint.path}: holds no averaged weights, but ema is on. Resume with ema=null.")
        training.ema.load(tensors["ema"], updates=checkpoint.state["ema_updates"])
    if training.precision.scaler is not None and "scaler" in tensors:
        training.precision.scaler.load_state_tensors(tensors["scaler"])
    training.guard.load_state(checkpoint.state["guard"])
    kept = training.guard.last_good
    if kept is not None and LAST_GOOD in tensors:
        kept.load(tensors[LAST_GOOD], checkpoint.state["guard"]["last_good"])
    elif kept is not None:  # the run has gone without until now
        kept.keep(checkpoint.state["step"])
    training.at_once.load_state(checkpoint.state.get("at_once"))
    training.step, training.iteration = checkpoint.state["step"], checkpoint.state["iteration"]


def lead(training: Training, checkpoint: Checkpoint | None, processes: Processes) -> None:
    """Called by the first process once its training is loaded: bring all others to the same bits."""
    if checkpoint is None and training.guard.last_good is not None:
        training.guard.last_good.keep(training.step)
    if processes.share.count > 1:
        state = None if checkpoint is None else {**checkpoint.state, "guard": training.guard.state()}
        told = ("step", "iteration", "ema_updates", "guard", "at_once")
        processes.tell(state and {name: state.get(name) for name in told})
        _spread(training, processes)


def follow(training: Training, processes: Processes) -> None:
    """Called by the other processes: become what the first one is."""
    state = processes.tell(None)
    _spread(training, processes)
    if state is not None:
        training.step, training.iteration = state["step"], state["iteration"]
        if training.ema is not None:
            training.ema.updates = state["ema_updates"]
        training.guard.load_state(state["guard"])
        training.at_once.load_state(state["at_once"])
    elif training.guard.last_good is not None:
        training.guard.last_good.keep(training.step)


def _spread(training: Training, processes: Processes) -> None:
    tensors = {id(tensor): tensor for group in tensors_of(training).values() for tensor in group.values()}
    processes.spread(list(tensors.values()))
    if training.sharding is None:
        training.module = processes.join(training.task, training.device)
    else:
        _cut(training, training.sharding)


def _cut(training: Training, sharding: Sharding) -> None:
    """Leave this process its parts of everything that is in shards from now on."""
    sharding.cut_task(training.task)
    training.optimizer.take_parts(training.task, sharding)
    if training.ema is not None:
        training.ema.take_parts(training.task, sharding)
    training.guard.follow_buffers()
    if training.guard.last_good is not None:
        training.guard.last_good.take_parts(sharding)
