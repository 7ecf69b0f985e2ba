"""An exponential moving average of the weights, with a ramp, and its exchange with the live weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from sightline.config.base import Config
from sightline.config.errors import RunError
from sightline.engine.distributed.sharding import Sharding, own_parts


class EmaConfig(Config):
    """Averaging of the weights."""

    decay: float = Field(0.9999, ge=0, lt=1)
    """Share of the average that an update keeps, once the ramp is over."""
    ramp: NonNegativeFloat = 2000.0
    """Updates over which the decay rises: at update u it is ``decay * (1 - exp(-u / ramp))``; 0 for none."""


class Ema:
    """The average of every floating entry of a module's state, running statistics included.

    Other entries (counters such as ``num_batches_tracked``) keep the value that they had when the average was
    made, as in YOLOv7; so do buffers that are not finite then, such as masks of -inf. A tensor that the module has
    under two names is averaged once.

    The module must be on its device and in its memory format, and its tensors must stay the same objects.

    Args:
        config: Decay and ramp.
        module: What to average. The average starts as a copy of it.
        constant: Names of tensors that nothing changes while the module trains. Their average is what they are: it is
            left alone, which keeps every bit where rounding may not, and costs nothing.
    """

    def __init__(self, config: EmaConfig, module: nn.Module, *, constant: Collection[str] = ()) -> None:
        self.config = config
        self.updates = 0
        state = module.state_dict(keep_vars=True)
        copies: dict[int, Tensor] = {}
        for tensor in state.values():
            if id(tensor) not in copies:
                copies[id(tensor)] = tensor.detach().clone(memory_format=torch.preserve_format)
        self._state = {name: copies[id(tensor)] for name, tensor in state.items()}
        fixed = {id(state[name]) for name in constant if name in state}
        unique = {id(t): t for t in state.values() if id(t) not in fixed and _is_averaged(t)}
        self._live = list(unique.values())
        self._average = [copies[key] for key in unique]

    def take_parts(self, module: nn.Module, sharding: Sharding) -> None:
        """Average this process's parts alone, now that the module is cut. ``swapped`` is not possible any more."""
        live = module.state_dict(keep_vars=True)
        names = {id(average): name for name, average in reversed(self._state.items())}
        parts = {key: sharding.cut(self._state[name], live[name]) for key, name in names.items()}
        self._live = own_parts(live[names[id(average)]] for average in self._average)
        self._average = own_parts(parts[id(average)] for average in self._average)
        self._state = {name: parts[id(average)] for name, average in self._state.items()}

    def decay_at(self, update: int) -> float:
        """Decay of update number ``update``, counted from 1."""
        if self.config.ramp == 0:
            return self.config.decay
        return self.config.decay * (1.0 - math.exp(-update / self.config.ramp))

    def update(self) -> None:
        """Move the average towards the live weights: ``average += (1 - decay) * (live - average)``."""
        self.updates += 1
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._live, 1.0 - self.decay_at(self.updates))

    @contextmanager
    def swapped(self) -> Iterator[Self]:
        """Within this context the module computes with the average, and the average holds the live weights.

        Storages change hands, nothing is copied; afterwards both have their own bits again, also after an
        exception. Do not step, ``update`` or save inside.
        """
        self._exchange()
        try:
            yield self
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for live, average in zip(self._live, self._average, strict=True):
            live.data, average.data = average.data, live.data

    def state_tensors(self) -> dict[str, Tensor]:
        """The averaged state under the names of ``module.state_dict()``. Copy before the next update."""
        return dict(self._state)

    def load(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Take over an average, bit for bit.

        Args:
            tensors: From ``state_tensors``. Where a tensor has several names, one of them is enough.
            updates: How many updates it has seen.

        Raises:
            RunError: If names, shapes or dtypes do not fit. Nothing is changed then.
        """
        given = {id(self._state[name]) for name in tensors if name in self._state}
        faults = [f"{name} is missing" for name, own in self._state.items() if id(own) not in given]
        for name, tensor in tensors.items():
            own = self._state.get(name)
            if own is None:
                faults.append(f"{name} is unknown here")
            elif own.shape != tensor.shape or own.dtype != tensor.dtype:
                faults.append(
                    f"{name} is {tuple(tensor.shape)} {tensor.dtype} in the file, {tuple(own.shape)} {own.dtype} here"
                )
        if faults:
            more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise RunError(
                f"averaged weights: {len(faults)} tensors do not fit. {'; '.join(sorted(faults)[:3])}{more}. "
                "Resume with the model of the run."
            )
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._state[name].copy_(tensor)
        self.updates = updates


def _is_averaged(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return False
    return isinstance(tensor, nn.Parameter) or bool(tensor.isfinite().all())
