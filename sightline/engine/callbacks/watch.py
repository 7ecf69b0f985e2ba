"""Figures of activations and gradients by layer, at an interval.

Hooks are in the model only during the steps that are due, so all other steps cost one comparison. Everything is
computed on the device; the host waits for it once in a step that is due.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sightline.config.base import Config, Patterns
from sightline.engine.callback import Callback, StepReport
from sightline.engine.log import LogRow, Sink
from sightline.engine.loop import Training
from sightline.engine.tensor_names import matching_layers


class WatchConfig(Config):
    """Mean, standard deviation, largest magnitude and share of zeros of what layers put out, and of its gradient."""

    layers: Patterns = Field(min_length=1)
    """Names of layers, whole or from one of their dots on; ``*`` stands for any text, as in ``network.layers.0*``."""
    every_steps: PositiveInt = 50
    """Optimizer steps between two looks."""


class Moments(NamedTuple):
    """What a tensor, or several as one, look like."""

    size: float
    mean: float
    variance: float
    """Over all values, not an estimate for more."""
    max_abs: float
    zeros: float

    def joined(self, other: Moments) -> Moments:
        """Of both as one (Chan et al., "Updating formulae and a pairwise algorithm for sample variances", 1979)."""
        size = self.size + other.size
        delta = other.mean - self.mean
        share = other.size / size
        variance = self.variance * (1 - share) + other.variance * share + delta * delta * share * (1 - share)
        largest = math.nan if math.isnan(self.max_abs + other.max_abs) else max(self.max_abs, other.max_abs)
        return Moments(size, self.mean + delta * share, variance, largest, self.zeros + other.zeros)


def moments_of(values: Tensor) -> Tensor:
    """(5,) float32 on the device: ``Moments`` of a tensor with at least one value."""
    flat = values.detach().float().flatten()  # (n,)
    variance, mean = torch.var_mean(flat, correction=0)
    size = torch.full((), flat.numel(), dtype=torch.float32, device=flat.device)
    return torch.stack([size, mean, variance, flat.abs().amax(), (flat == 0).sum().float()])


class Watch(Callback):
    """Gives a row of kind ``watch`` to every sink: ``LAYER/activation/mean``, ``LAYER/gradient/max_abs`` and so on.

    A gradient is that of the step's loss by the layer's output. Steps of several micro-batches count as one.

    Args:
        config: Which layers, and when.
        task: The layers' root.
        sinks: Take the rows.

    Raises:
        ConfigError: If a pattern fits no layer.
    """

    def __init__(self, config: WatchConfig, task: nn.Module, sinks: Sequence[Sink]) -> None:
        self.every_steps = config.every_steps
        self.layers = matching_layers(task, config.layers, key="watch.layers")
        self.sinks = sinks
        self._hooks: list[RemovableHandle] = []
        self._seen: list[tuple[str, Tensor]] = []
        self._loss_scale: Tensor | None = None

    def on_run_start(self, training: Training) -> None:
        """Look from the first step on, if it is due."""
        self._prepare(training, training.step + 1)

    def on_step_end(self, training: Training, report: StepReport) -> None:
        """Write the row of a step that was due; look at the next one if it is."""
        if self._hooks:
            self._put_away()
            row = LogRow("watch", report.step, report.epoch, self._values())
            for sink in self.sinks:
                sink.write(row)
        self._prepare(training, report.step + 1)

    def on_run_end(self, training: Training, outcome: str) -> None:
        """Leave the model as it was."""
        self._put_away()

    def _prepare(self, training: Training, step: int) -> None:
        if step % self.every_steps == 0:
            self._seen = []
            scaler = training.precision.scaler
            self._loss_scale = None if scaler is None else scaler.state_tensors()["scale"].clone()
            self._hooks = [layer.register_forward_hook(self._hook(name)) for name, layer in self.layers.items()]

    def _put_away(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _hook(self, name: str) -> Any:
        def see(layer: nn.Module, inputs: Any, output: Any) -> None:
            if not torch.is_grad_enabled():  # an evaluation between two steps
                return
            for tensor in _tensors_of(output):
                self._seen.append((f"{name}/activation", moments_of(tensor)))
                if tensor.requires_grad:
                    tensor.register_hook(see_gradient)  # type: ignore[no-untyped-call]

        def see_gradient(gradient: Tensor) -> None:
            self._seen.append((f"{name}/gradient", moments_of(gradient)))

        return see

    def _values(self) -> Mapping[str, float]:
        """Figures by name; gradients without the factor that fp16 puts on the loss."""
        loss_scale = 1.0 if self._loss_scale is None else float(self._loss_scale)
        seen, self._seen = self._seen, []
        if not seen:
            return {}
        joined: dict[str, Moments] = {}
        for (name, _), numbers in zip(seen, torch.stack([one for _, one in seen]).tolist(), strict=True):
            moments = Moments(*numbers)
            joined[name] = joined[name].joined(moments) if name in joined else moments
        values: dict[str, float] = {}
        for layer in self.layers:
            for kind, scale in (("activation", 1.0), ("gradient", loss_scale)):
                found = joined.get(f"{layer}/{kind}")
                if found is not None:
                    values[f"{layer}/{kind}/mean"] = found.mean / scale
                    values[f"{layer}/{kind}/std"] = math.sqrt(found.variance) / scale
                    values[f"{layer}/{kind}/max_abs"] = found.max_abs / scale
                    values[f"{layer}/{kind}/zeros"] = found.zeros / found.size
        return values


def _tensors_of(output: Any) -> Iterator[Tensor]:
    """Tensors of real numbers in what a layer gave, in lists and mappings too."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.numel():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors_of(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors_of(value)
