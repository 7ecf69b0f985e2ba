"""What every optimizer is: a stepper over lists of tensors, whose state is a table of named tensors.

``torch.optim`` optimizers walk their groups and states in Python at every step, and building one loads torch's
compiler. These classes keep lists of tensors and call one kernel per group. The kernels' names are private to torch:
where one is missing, or a device has none, the same update runs through public functions.

State tensors have names made of the parameter's name, so a checkpoint is a plain table of tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sightline.engine.copying import copy_exactly
from sightline.engine.distributed.sharding import Sharding, own_parts
from sightline.engine.parameter_groups import ParameterGroup
from sightline.engine.schedule import GroupValues

FUSED_DEVICES = ("cpu", "cuda")
"""Kinds of device whose fused kernels are tested here."""


class Ready(NamedTuple):
    """The tensors of a bucket that have a gradient, in one order."""

    parameters: list[Tensor]
    grads: list[Tensor]
    slots: dict[str, list[Tensor]]
    steps: list[Tensor]
    places: list[int] | None
    """Their places in the bucket, where some tensor has no gradient."""


class Bucket:
    """The tensors of one group on one device and of one dtype: what a kernel takes in one call."""

    def __init__(
        self,
        group: int,
        names: list[str],
        parameters: list[nn.Parameter],
        slots: Sequence[str],
        *,
        counts_on_host: bool = False,
    ) -> None:
        self.group = group
        self.names = names
        self.owners = parameters
        """Have the gradients."""
        self.parameters: list[Tensor] = list(parameters)
        self.device = parameters[0].device
        self.slots = {slot: [torch.zeros_like(p, requires_grad=False) for p in parameters] for slot in slots}
        self.state = self.slots
        """The same, as tensors in shards where the parameters are."""
        self.is_cut = False
        self.counts_on_host = counts_on_host
        where = "cpu" if counts_on_host else self.device
        self.counter = torch.zeros(len(parameters), dtype=torch.float32, device=where)  # (tensors,)
        self.steps = list(self.counter.unbind())  # views, so that one addition counts for all
        self._turned = {place for place, p in enumerate(parameters) if p.device.type == "cpu" and _is_channels_last(p)}

    def take_parts(self, parameters: list[nn.Parameter], sharding: Sharding) -> None:
        """Step this process's parts alone."""
        self.owners, self.is_cut = parameters, True
        self.parameters = own_parts(parameters)
        self.state = {
            slot: [sharding.cut(tensor, p) for tensor, p in zip(tensors, parameters, strict=True)]
            for slot, tensors in self.slots.items()
        }
        self.slots = {slot: own_parts(tensors) for slot, tensors in self.state.items()}
        self.device = self.parameters[0].device
        self.counter = self.counter.to("cpu" if self.counts_on_host else self.device)
        self.steps = list(self.counter.unbind())

    def ready(self) -> Ready:
        """The tensors that have a gradient."""
        grads = [parameter.grad for parameter in self.owners]
        present = [grad for grad in grads if grad is not None]
        if self.is_cut:
            present = own_parts(present)
        if len(present) == len(grads):
            if not self._turned:
                return Ready(self.parameters, present, self.slots, self.steps, None)
            return Ready(
                _as_in_memory(self.parameters, self._turned),
                _as_in_memory(present, self._turned),
                {slot: _as_in_memory(tensors, self._turned) for slot, tensors in self.slots.items()},
                self.steps,
                None,
            )
        places = [place for place, grad in enumerate(grads) if grad is not None]
        turned = {number for number, place in enumerate(places) if place in self._turned}
        return Ready(
            _as_in_memory([self.parameters[place] for place in places], turned),
            _as_in_memory(present, turned),
            {slot: _as_in_memory([tensors[p] for p in places], turned) for slot, tensors in self.slots.items()},
            [self.steps[place] for place in places],
            places,
        )


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _as_in_memory(tensors: list[Tensor], turned: set[int]) -> list[Tensor]:
    """Some of the tensors as views with the dimensions in the order in which they lie in memory.

    An update is the same for every number, so the order is free; but torch's fused kernels take three times as long
    on a CPU where it is not the usual one.
    """
    return [tensor.permute(0, 2, 3, 1) if n in turned else tensor for n, tensor in enumerate(tensors)]


class Optimizer(ABC):
    """Updates the parameters of a list of groups.

    Args:
        groups: The parameter groups, from ``split_parameters``.
        fused: Whether to use fused kernels where torch and the device have them.
    """

    slots: ClassVar[tuple[str, ...]]
    """Kinds of state tensors of the shape of their parameter."""
    counts_steps: ClassVar[bool]
    """Whether the update depends on how often a parameter was updated."""
    counts_on_host: ClassVar[bool] = False
    """Whether the host reads these counts in every step, so that they are kept where that costs nothing."""
    kernel: ClassVar[str]
    """torch's private name of the fused kernel."""

    def __init__(self, groups: Sequence[ParameterGroup], *, fused: bool = True) -> None:
        self.groups = tuple(groups)
        self._buckets: list[Bucket] = []
        for number, group in enumerate(self.groups):
            parts: dict[tuple[torch.device, torch.dtype], list[tuple[str, nn.Parameter]]] = {}
            for name, parameter in zip(group.names, group.parameters, strict=True):
                parts.setdefault((parameter.device, parameter.dtype), []).append((name, parameter))
            for members in parts.values():
                names, parameters = [name for name, _ in members], [parameter for _, parameter in members]
                bucket = Bucket(number, names, parameters, self.slots, counts_on_host=self.counts_on_host)
                self._buckets.append(bucket)
        self._parameters = [parameter for bucket in self._buckets for parameter in bucket.owners]
        self._kernel: Callable[..., Any] | None = getattr(torch, self.kernel, None) if fused else None

    def take_parts(self, module: nn.Module, sharding: Sharding) -> None:
        """Step this process's parts alone, now that the module is cut."""
        parameters = dict(module.named_parameters())
        for bucket in self._buckets:
            bucket.take_parts([parameters[name] for name in bucket.names], sharding)
        self.groups = tuple(
            replace(group, parameters=tuple(parameters[name] for name in group.names)) for group in self.groups
        )
        self._parameters = [parameter for bucket in self._buckets for parameter in bucket.owners]

    def gradients(self) -> list[Tensor]:
        """The gradients that exist, for clipping and unscaling. Changing them in place changes the update."""
        grads = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return own_parts(grads) if self._buckets[0].is_cut else grads

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self, values: Sequence[GroupValues], *, found_inf: Tensor | None = None) -> None:
        """Update every parameter that has a gradient.

        Args:
            values: Learning rate and momentum of every group, from ``Schedule.at``.
            found_inf: () float32, 1 to skip the update and leave all states alone. A fused kernel reads it on the
                device, so that the host does not wait.
        """
        with torch.no_grad():
            for bucket in self._buckets:
                ready = bucket.ready()
                if not ready.grads:
                    continue
                flag = found_inf if found_inf is None else found_inf.to(bucket.device, non_blocking=True)
                if self._kernel is not None and bucket.device.type in FUSED_DEVICES:
                    self._step_fused(self._kernel, bucket, ready, values[bucket.group], flag)
                elif flag is None or not flag.item():
                    self._step_slowly(bucket, ready, values[bucket.group])

    @abstractmethod
    def _step_fused(
        self,
        kernel: Callable[..., Any],
        bucket: Bucket,
        ready: Ready,
        values: GroupValues,
        found_inf: Tensor | None,
    ) -> None: ...

    @abstractmethod
    def _step_slowly(self, bucket: Bucket, ready: Ready, values: GroupValues) -> None: ...

    def state_tensors(self) -> dict[str, Tensor]:
        """The live state by name, e.g. ``momentum/backbone.conv.weight``. Copy before the next step."""
        tensors: dict[str, Tensor] = {}
        for bucket in self._buckets:
            for slot, members in bucket.state.items():
                tensors.update({f"{slot}/{name}": tensor for name, tensor in zip(bucket.names, members, strict=True)})
            if self.counts_steps:
                tensors.update({f"step/{name}": step for name, step in zip(bucket.names, bucket.steps, strict=True)})
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that ``state_tensors`` gave, bit for bit.

        Raises:
            RunError: If names, shapes or dtypes are not those of this optimizer. Nothing is changed then.
        """
        copy_exactly(
            self.state_tensors(),
            tensors,
            where="optimizer state",
            what="tensors",
            cure="Resume with the model and optimizer of the run.",
        )
