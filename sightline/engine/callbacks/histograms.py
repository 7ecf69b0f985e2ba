"""Histograms of weights and gradients for TensorBoard, at an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import torch
from pydantic import NonNegativeInt, model_validator
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sightline.config.base import Config
from sightline.engine.callback import Callback, StepReport
from sightline.engine.loop import Training
from sightline.engine.trackers.tracker import Histogram

BINS = 64


class HistogramConfig(Config):
    """Histograms of every trained tensor and of its gradient."""

    every_steps: NonNegativeInt = 500
    """Optimizer steps between two of them; 0 for none."""
    every_epochs: NonNegativeInt = 0
    """Of the last step of every so many epochs, and of the weights that the run begins with; 0 for none."""

    @model_validator(mode="after")
    def _some_are_due(self) -> Self:
        if not self.every_steps and not self.every_epochs:
            raise ValueError("every_steps and every_epochs are both 0: give one of them, or histograms=null")
        return self


class HistogramSink(Protocol):
    """Takes histograms: the trackers, for TensorBoard."""

    def write_histograms(self, step: int, epoch: int, histograms: Mapping[str, Histogram]) -> None:
        """Take all histograms of a step, by name."""


def histograms_of(tensors: Mapping[str, Tensor]) -> dict[str, Histogram]:
    """Histograms of tensors of one device; the host waits for the device once."""
    kept = {name: tensor.detach() for name, tensor in tensors.items() if tensor.numel()}
    if not kept:
        return {}
    measured = [_measure(tensor) for tensor in kept.values()]
    ranges = torch.stack([numbers for numbers, _ in measured]).tolist()  # (tensors, 4)
    counts = torch.stack([counts for _, counts in measured]).tolist()  # (tensors, BINS)
    return {
        name: Histogram(low, high, total, squares, row)
        for name, (low, high, total, squares), row in zip(kept, ranges, counts, strict=True)
    }


def _measure(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """(4,) low, high, sum, sum of squares; (BINS,) int64 counts. Values that are not finite are left out."""
    values = tensor.float().flatten()
    is_finite = torch.isfinite(values)
    low = values.where(is_finite, torch.inf).amin()
    high = values.where(is_finite, -torch.inf).amax()
    values = values.where(is_finite, 0.0)
    width = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    place = ((values - low) / width * BINS).nan_to_num(0.0).clamp(0, BINS - 1).long()
    counts = torch.zeros(BINS, dtype=torch.int64, device=values.device).scatter_add_(0, place, is_finite.long())
    return torch.stack([low, high, values.sum(), values.square().sum()]), counts


class Histograms(Callback):
    """Weights after a step that is due, and the gradients that the optimizer took in it: unscaled and clipped.

    Where they come by epochs, the weights before the first step too.

    Args:
        config: When.
        sink: Takes them.
    """

    def __init__(self, config: HistogramConfig, sink: HistogramSink) -> None:
        self.config = config
        self.sink = sink
        self._hooks: list[RemovableHandle] = []
        self._gradients: dict[str, Tensor] = {}

    def on_run_start(self, training: Training) -> None:
        """Show the weights that a run begins with; keep hold of the gradients of the first step, if it is due."""
        if self.config.every_epochs and training.step == 0:
            self.sink.write_histograms(0, 0, histograms_of(_weights(training)))
        self._prepare(training, training.step + 1)

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Write the histograms of a step that was due."""
        if self._hooks:
            self._put_away()
            gradients, self._gradients = self._gradients, {}
            self.sink.write_histograms(report.step, report.epoch, histograms_of({**_weights(training), **gradients}))
        self._prepare(training, report.step + 1)

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Leave the parameters as they were."""
        self._put_away()

    def _prepare(self, training: Training, step: int) -> None:
        if not self._is_due(training, step):
            return

        def hold(name: str, parameter: Tensor) -> None:
            def see(parameter: Tensor) -> None:
                if parameter.grad is not None:  # zero_grad lets go of it before callbacks are told
                    self._gradients[f"gradients/{name}"] = parameter.grad

            self._hooks.append(parameter.register_post_accumulate_grad_hook(see))  # type: ignore[no-untyped-call]

        for group in training.optimizer.groups:
            for name, parameter in zip(group.names, group.parameters, strict=True):
                hold(name, parameter)

    def _is_due(self, training: Training, step: int) -> bool:
        """Whether histograms of ``step``, the next one, are wanted."""
        steps, epochs = self.config.every_steps, self.config.every_epochs
        if steps and step % steps == 0:
            return True
        length, end = training.plan.length, training.epoch + 1
        iterations = end * length.iterations_per_epoch
        if not epochs or end % epochs or iterations > length.iterations:
            return False
        return step == training.plan.steps_before(iterations)

    def _put_away(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _weights(training: Training) -> dict[str, Tensor]:
    return {
        f"weights/{name}": parameter
        for group in training.optimizer.groups
        for name, parameter in zip(group.names, group.parameters, strict=True)
    }
