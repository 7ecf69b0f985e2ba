"""The last good state of a training, kept in memory, and the way back to it.

A rollback changes tensors alone: weights, running statistics, optimizer, average and loss scale are what they were. The
run's position stays: it goes on with the samples that come next, at the learning rate that they would have met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from sightline.config.base import Config
from sightline.engine.copying import copy_exactly
from sightline.engine.culprit import non_finite_names
from sightline.engine.distributed.sharding import Sharding, own_parts
from sightline.engine.ema import Ema

TensorGroups = Mapping[str, Mapping[str, Tensor]]


class RollbackConfig(Config):
    """The way back of ``on_nonfinite=rollback``."""

    every_steps: PositiveInt = 100
    """Good steps between two states that are kept; a rollback loses fewer than that."""
    most_in_a_row: PositiveInt = 3
    """So many rollbacks to one and the same state; the next one ends the run."""
    most: PositiveInt = 20
    """So many rollbacks in the whole run; the next one ends it."""
    keep_on: Literal["device", "host"] = "device"
    """Where the state is kept: beside the weights, which is quick, or in the host's memory, which spares the GPU's."""


class LastGood:
    """A copy of everything of a training that is a tensor.

    Args:
        config: When it is renewed, and how often it is returned to.
        tensors: Gives the live tensors in groups, always the same ones.
        ema: Its counter goes with its tensors.
    """

    def __init__(self, config: RollbackConfig, tensors: Callable[[], TensorGroups], ema: Ema | None) -> None:
        self.config = config
        self._live = tensors
        self._ema = ema
        host = torch.device("cpu") if config.keep_on == "host" else None
        self._kept = {
            name: torch.empty_like(tensor, device=host or tensor.device, pin_memory=host is not None and tensor.is_cuda)
            for name, tensor in self._flat().items()
        }
        self.step: int | None = None
        """Steps that had been taken when it was kept; None before the first time."""
        self.good_steps = 0
        """Good steps since then."""
        self.returned = 0
        """Rollbacks to it."""
        self._ema_updates = 0
        self._never_finite: frozenset[str] = frozenset()
        """Names of tensors that are infinite by design, such as masks."""

    def _flat(self) -> dict[str, Tensor]:
        return {
            f"{group}/{name}": tensor for group, members in self._live().items() for name, tensor in members.items()
        }

    def take_parts(self, sharding: Sharding) -> None:
        """Keep this process's parts alone, now that the training is cut."""
        live = self._flat()
        self._kept = {name: sharding.cut(tensor, live[name]) for name, tensor in self._kept.items()}

    def state_tensors(self) -> dict[str, Tensor]:
        """The copies. They are changed when another state is kept."""
        return dict(self._kept)

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Become what ``state_tensors`` and ``state`` gave.

        Raises:
            RunError: If they are of another training. Nothing is changed then.
        """
        copy_exactly(
            self._kept,
            tensors,
            where="the last good state",
            what="tensors",
            cure="Resume with the model and optimizer of the run.",
        )
        self.load_state(state)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "step": self.step,
            "good_steps": self.good_steps,
            "returned": self.returned,
            "ema_updates": self._ema_updates,
            "never_finite": sorted(self._never_finite),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.step, self.good_steps, self.returned = state["step"], state["good_steps"], state["returned"]
        self._ema_updates, self._never_finite = state["ema_updates"], frozenset(state["never_finite"])

    def bad_tensors(self) -> list[str]:
        """Names of live tensors that are not finite and were so when the training began."""
        return [name for name in non_finite_names(self._flat()) if name not in self._never_finite]

    def keep(self, step: int) -> None:
        """The training is good now, after ``step`` steps: remember it."""
        live = self._flat()
        if self.step is None:
            self._never_finite = frozenset(non_finite_names(live))
        with torch.no_grad():
            torch._foreach_copy_(own_parts(self._kept.values()), own_parts(live[name] for name in self._kept))
        self.step, self.good_steps, self.returned = step, 0, 0
        self._ema_updates = self._ema.updates if self._ema is not None else 0

    def put_back(self) -> None:
        """Make the training what it was when it was last kept."""
        live = self._flat()
        with torch.no_grad():
            torch._foreach_copy_(own_parts(live[name] for name in self._kept), own_parts(self._kept.values()))
        if self._ema is not None:
            self._ema.updates = self._ema_updates
        self.good_steps, self.returned = 0, self.returned + 1
