"""Learning rate and momentum as functions of progress.

Nothing here has a memory: the values of an update depend on where in the run it stands and on the
configuration alone. So a resumed run needs no scheduler state, and a plot needs no training.

The regular learning rate of a group is ``lr * lr_scale * factor``; the factor comes from one policy, or from a
chain of them. A warm-up at the start of the run leads up to the regular values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Config
from sightline.config.errors import ConfigError
from sightline.engine.parameter_groups import GroupRule

PolicyKind = Literal["constant", "linear", "cosine", "step", "poly", "exp", "inverse", "one_cycle"]
Interval = Literal["epoch", "iteration", "step"]
WarmupKind = Literal["linear", "constant", "exponential"]


class Progress(NamedTuple):
    """Where an update stands. All three count from 0."""

    iteration: int
    """Index, from the start of the run, of the micro-batch that completes the update."""
    step: int
    """Optimizer updates made before this one."""
    epoch: int


class GroupValues(NamedTuple):
    """What one parameter group uses in one update; ``momentum`` is Adam's beta1 where Adam steps."""

    lr: float
    momentum: float


@dataclass(frozen=True)
class RunLength:
    """How long a run is, in every unit that a schedule may count in."""

    iterations_per_epoch: int
    epochs: int
    iterations: int
    """Micro-batches of the whole run."""
    steps: int
    """Optimizer updates of the whole run."""
    warmup_iterations: int = 0
    """Micro-batches of warm-up: ``WarmupConfig.length``."""

    def units(self, interval: Interval) -> int:
        """The length of the run counted in ``interval``."""
        return {"epoch": self.epochs, "iteration": self.iterations, "step": self.steps}[interval]


_USED_BY: dict[str, tuple[PolicyKind, ...]] = {
    "final": ("linear", "cosine", "poly", "one_cycle"),
    "final_at": ("linear", "cosine", "poly"),
    "milestones": ("step",),
    "every": ("step",),
    "gamma": ("step", "exp", "inverse"),
    "power": ("poly", "inverse"),
    "minimum": ("step", "exp", "inverse"),
    "rise": ("one_cycle", "cosine"),
    "momentum_range": ("one_cycle", "cosine"),
}


class PolicyConfig(Config):
    """One curve of the factor that multiplies every group's learning rate.

    With t from 0 to 1 over the policy's part of the run, and n counting intervals since its begin:
    constant ``initial``; linear, cosine and poly go from ``initial`` to ``final`` along ``t``,
    ``(1 - cos(pi t)) / 2`` and ``1 - (1 - t) ** power``; step multiplies by ``gamma`` at each milestone; exp is
    ``gamma ** n``; inverse is ``(1 + gamma n) ** -power``; one_cycle rises along a cosine from ``initial`` to 1,
    then falls along a cosine to ``final``, while the momentum goes from high to low to high.
    """

    kind: PolicyKind = "constant"
    """Shape of the curve, see above: constant, linear, cosine, step, poly, exp, inverse or one_cycle."""
    interval: Interval = "iteration"
    """What is counted: passes over the data, micro-batches, or optimizer updates."""
    begin: NonNegativeInt = 0
    """Interval at which the curve begins; before it the factor is ``initial``."""
    initial: NonNegativeFloat | None = None
    """Factor at the beginning; 1, or 0.04 for one_cycle, when left out."""
    final: NonNegativeFloat | None = None
    """Factor at the end; 0, or 4e-6 for one_cycle, when left out."""
    final_at: Literal["end", "last"] | None = None
    """Whether ``final`` is reached just after the last interval ("end", when left out) or in it ("last")."""
    milestones: tuple[PositiveInt, ...] | None = None
    """step: intervals, counted from the start of the run, at which the factor drops."""
    every: PositiveInt | None = None
    """step: drop after every so many intervals, in place of milestones."""
    gamma: PositiveFloat | None = None
    """step: factor of one drop (0.1 when left out); exp: factor of one interval; inverse: speed."""
    power: PositiveFloat | None = None
    """poly, inverse: exponent; 1 when left out."""
    minimum: NonNegativeFloat | None = None
    """step, exp, inverse: the factor never falls below it."""
    rise: float | None = Field(None, ge=0, le=1)
    """one_cycle: share of the run in which the rate rises; 0.3 when left out. cosine: share in which the momentum
    falls, where it has a range."""
    momentum_range: tuple[float, float] | None = None
    """one_cycle, cosine: lowest and highest momentum, which goes from high to low to high, iteration by iteration; when
    left out the momentum stays as the optimizer has it."""

    @classmethod
    def useless(cls, values: Mapping[str, Any]) -> tuple[str, ...]:
        """What belongs to other kinds of curves."""
        return tuple(key for key, kinds in _USED_BY.items() if values.get("kind", "constant") not in kinds)

    @model_validator(mode="after")
    def _every_key_is_used(self) -> Self:
        for key in PolicyConfig.useless({"kind": self.kind}):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"{key} does nothing in a {self.kind!r} policy; it belongs to {', '.join(_USED_BY[key])}. "
                    "Leave it out, or change kind."
                )
        if self.kind == "step" and (self.milestones is None) == (self.every is None):
            raise ValueError("a 'step' policy needs either milestones or every, and not both.")
        if self.kind in ("exp", "inverse") and self.gamma is None:
            raise ValueError(f"a {self.kind!r} policy needs gamma.")
        if self.milestones is not None and any(a >= b for a, b in pairwise(self.milestones)):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}.")
        if self.kind == "cosine" and self.rise is not None and self.momentum_range is None:
            raise ValueError("rise does nothing in a 'cosine' policy without momentum_range. Leave it out.")
        if self.momentum_range is not None and not 0 <= self.momentum_range[0] <= self.momentum_range[1] < 1:
            raise ValueError(f"momentum_range must be lowest, highest in [0, 1), got {list(self.momentum_range)}.")
        return self


class WarmupConfig(Config):
    """How the first iterations lead up to the regular values. Its length is the longer of epochs and iterations."""

    epochs: NonNegativeFloat = 0.0
    """Length in epochs; the number of iterations is rounded."""
    iterations: NonNegativeInt = 0
    """Length in micro-batches; with ``epochs`` the least length."""
    max_fraction: float | None = Field(None, gt=0, le=1)
    """Never longer than this share of the run, so that a short run leaves its warm-up."""
    kind: WarmupKind = "linear"
    """linear from the start value; constant at the start value; exponential from the start value."""
    start_factor: NonNegativeFloat = 0.0
    """Start value of the learning rate, as a multiple of the regular one."""
    bias_lr: NonNegativeFloat | None = None
    """Start value, as a learning rate, of the groups that have ``uses_bias_warmup``."""
    momentum: float | None = Field(None, ge=0, lt=1)
    """Start value of the momentum; when left out the momentum has no warm-up."""
    leads_to: Literal["policy", "lr"] = "policy"
    """What the rate comes to: the value that the policy has at that moment, or the run's ``lr`` itself, from which it
    falls to the policy's value when the warm-up ends."""

    @classmethod
    def useless(cls, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Start and limit of a warm-up that has no length."""
        return () if values.get("epochs") or values.get("iterations") else ("max_fraction", "bias_lr", "momentum")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        for key in self.useless({"epochs": self.epochs, "iterations": self.iterations}):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} does nothing without epochs or iterations of warm-up.")
        if self.kind == "exponential" and (self.start_factor == 0 or self.bias_lr == 0 or self.momentum == 0):
            raise ValueError("an exponential warm-up cannot start at 0: give start_factor, e.g. 0.001.")
        return self

    def without_effect(self) -> dict[str, str]:
        """The shape of a warm-up that has no length."""
        if self.epochs or self.iterations:
            return {}
        return dict.fromkeys(
            ("kind", "start_factor", "leads_to"), "there is no warm-up (schedule.warmup.epochs and iterations are 0)"
        )

    def length(self, *, iterations_per_epoch: int, iterations: int) -> int:
        """Micro-batches of warm-up in a run of ``iterations`` micro-batches; the first regular one has this index."""
        wanted = max(round(self.epochs * iterations_per_epoch), self.iterations)
        return wanted if self.max_fraction is None else min(wanted, int(self.max_fraction * iterations))


class ScheduleConfig(PolicyConfig):
    """The policy of a run, its warm-up, and the policies that follow it."""

    count_from: Literal[0, 1] = 0
    """Number of the first iteration and update; 1 repeats libraries that count updates before using the count: an epoch
    then begins, for policies by epoch, with the last iteration of the one before."""
    epochs_late: Literal[0, 1] = 0
    """1 repeats YOLOv7, whose scheduler counts the first epoch twice: in every epoch after the one in which the
    warm-up ends, policies by epoch give the value of the epoch before."""
    warmup: WarmupConfig = WarmupConfig()
    """The first iterations."""
    chain: tuple[PolicyConfig, ...] = ()
    """Later policies; each takes over at its ``begin``, where the one before it ends."""

    @classmethod
    def useless(cls, values: Mapping[str, Any]) -> tuple[str, ...]:
        """What belongs to other kinds of curves, and a late count of epochs where only one curve is, by steps."""
        alone_by_steps = values.get("interval", "iteration") != "epoch" and not values.get("chain")
        return (*super().useless(values), *(("epochs_late",) if alone_by_steps else ()))

    @model_validator(mode="after")
    def _links_follow_each_other(self) -> Self:
        links: tuple[PolicyConfig, ...] = (self, *self.chain)
        if len({link.interval == "step" for link in links}) == 2:
            raise ValueError("chain: policies by 'step' and policies by epoch or iteration cannot be mixed.")
        if self.epochs_late and all(link.interval != "epoch" for link in links):
            raise ValueError("epochs_late does nothing without a policy by epoch.")
        for number, (before, after) in enumerate(pairwise(links)):
            if after.begin == 0 or (after.interval == before.interval and after.begin <= before.begin):
                raise ValueError(f"chain.{number}.begin must be later than the begin before it, got {after.begin}.")
        return self


class _Policy:
    """A policy with its place in a run: ``factor`` and ``momentum`` of an interval."""

    def __init__(self, config: PolicyConfig, begin: float, end: float) -> None:
        self.config = config
        self.begin = begin
        self.length = max(end - begin, 0.0)
        one_cycle = config.kind == "one_cycle"
        self.initial = config.initial if config.initial is not None else 0.04 if one_cycle else 1.0
        self.final = config.final if config.final is not None else 4e-6 if one_cycle else 0.0
        self.gamma = config.gamma if config.gamma is not None else 0.1
        self.power = config.power if config.power is not None else 1.0
        self.minimum = config.minimum if config.minimum is not None else 0.0
        self.span = self.length - 1 if config.final_at == "last" else self.length
        self.peak = int((0.3 if config.rise is None else config.rise) * self.length)
        self._curve: Callable[[float], float] = {
            "constant": self._constant,
            "linear": self._linear,
            "cosine": self._cosine,
            "step": self._step,
            "poly": self._poly,
            "exp": self._exp,
            "inverse": self._inverse,
            "one_cycle": self._one_cycle,
        }[config.kind]

    def factor(self, position: float) -> float:
        """Factor of the learning rate at an interval counted from the start of the run."""
        return self._curve(max(position - self.begin, 0.0))

    def momentum(self, position: float) -> float:
        """Momentum of a one_cycle that has a range."""
        assert self.config.momentum_range is not None
        low, high = self.config.momentum_range
        return self._cycle(max(position - self.begin, 0.0), high, low, high)

    def _share(self, n: float) -> float:
        return min(n / self.span, 1.0) if self.span > 0 else float(n > 0)

    def _constant(self, n: float) -> float:
        return self.initial

    def _linear(self, n: float) -> float:
        return self.initial + (self.final - self.initial) * self._share(n)

    def _cosine(self, n: float) -> float:
        return _cosine_between(self.initial, self.final, self._share(n))

    def _poly(self, n: float) -> float:
        return self.final + (self.initial - self.final) * math.pow(1.0 - self._share(n), self.power)

    def _step(self, n: float) -> float:
        if self.config.every is not None:
            drops = int(n // self.config.every)
        else:
            assert self.config.milestones is not None
            drops = sum(self.begin + n >= milestone for milestone in self.config.milestones)
        return max(self.initial * self.gamma**drops, self.minimum)

    def _exp(self, n: float) -> float:
        return max(self.initial * math.pow(self.gamma, n), self.minimum)

    def _inverse(self, n: float) -> float:
        return max(self.initial * math.pow(1.0 + self.gamma * n, -self.power), self.minimum)

    def _one_cycle(self, n: float) -> float:
        return self._cycle(n, self.initial, 1.0, self.final)

    def _cycle(self, n: float, start: float, peak: float, end: float) -> float:
        if n < self.peak:
            return _cosine_between(start, peak, n / self.peak)
        fall = self.length - self.peak
        return _cosine_between(peak, end, min((n - self.peak) / fall, 1.0) if fall > 0 else float(n > self.peak))


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0


def _warmed(kind: WarmupKind, start: float, regular: float, share: float) -> float:
    if kind == "constant":
        return start
    if kind == "linear":
        return start + (regular - start) * share
    return start * math.pow(regular / start, share) if regular > 0 else 0.0


class Schedule:
    """Learning rate and momentum of every parameter group at any point of a run.

    Args:
        config: The policies and the warm-up.
        lr: Learning rate that the factors and the groups' scales multiply.
        momentum: Momentum, or Adam's beta1, outside of warm-up and one-cycle.
        rules: The rules of the parameter groups, in the optimizer's order.
        length: The run's length.

    Raises:
        ConfigError: If a policy begins after the run's end, or the bias warm-up has no group that uses it.
    """

    def __init__(
        self, config: ScheduleConfig, *, lr: float, momentum: float, rules: Sequence[GroupRule], length: RunLength
    ) -> None:
        self.config = config
        self.length = length
        self.group_names = tuple(rule.name for rule in rules)
        if config.warmup.bias_lr is not None and not any(rule.uses_bias_warmup for rule in rules):
            raise ConfigError(
                f"schedule.warmup.bias_lr: {config.warmup.bias_lr} is used by no parameter group. "
                "Set uses_bias_warmup on a rule of optimizer.groups, or leave it out."
            )
        self._base_lrs = tuple(lr * rule.lr_scale for rule in rules)
        self._starts = tuple(config.warmup.bias_lr if rule.uses_bias_warmup else None for rule in rules)
        self._momentum = momentum
        self._policies = self._place(config, length)
        self._cycles = [_momentum_cycle(policy, length) for policy in self._policies]
        self._last: tuple[float, float, tuple[GroupValues, ...]] | None = None

    @staticmethod
    def _place(config: ScheduleConfig, length: RunLength) -> list[_Policy]:
        links: tuple[PolicyConfig, ...] = (config, *config.chain)
        for link in links:
            if link.begin > 0 and link.begin >= length.units(link.interval):
                raise ConfigError(
                    f"schedule: the {link.kind!r} policy begins at {link.interval} {link.begin}, but the run has "
                    f"{length.units(link.interval)}. Begin earlier, or train longer."
                )
        policies = []
        for number, link in enumerate(links):
            end = float(length.units(link.interval))
            if number + 1 < len(links):
                following = links[number + 1]
                end = following.begin * _per(following.interval, length) / _per(link.interval, length)
            policies.append(_Policy(link, float(link.begin), end))
        return policies

    def at(self, progress: Progress) -> tuple[GroupValues, ...]:
        """Values of every group for the update at ``progress``. The same object as last time while nothing changes."""
        iteration, step, epoch = progress
        if self.config.count_from:
            iteration, step = iteration + 1, step + 1
            epoch = iteration // self.length.iterations_per_epoch
        if self.config.epochs_late and epoch > self.length.warmup_iterations // self.length.iterations_per_epoch:
            epoch -= 1
        positions = {"epoch": epoch, "iteration": iteration, "step": step}
        policy, cycle = self._policies[0], self._cycles[0]
        for following, its_cycle in zip(self._policies[1:], self._cycles[1:], strict=True):
            if positions[following.config.interval] < following.begin:
                break
            policy, cycle = following, its_cycle
        factor = policy.factor(positions[policy.config.interval])
        momentum = self._momentum if cycle is None else cycle.momentum(positions[cycle.config.interval])
        if iteration < self.length.warmup_iterations:
            return self._warming(iteration / self.length.warmup_iterations, factor, momentum)
        if self._last is None or self._last[:2] != (factor, momentum):
            values = tuple([GroupValues(base * factor, momentum) for base in self._base_lrs])
            self._last = factor, momentum, values
        return self._last[2]

    def _warming(self, share: float, factor: float, momentum: float) -> tuple[GroupValues, ...]:
        warmup = self.config.warmup
        if warmup.momentum is not None:
            momentum = _warmed(warmup.kind, warmup.momentum, momentum, share)
        values = []
        for base, own_start in zip(self._base_lrs, self._starts, strict=True):
            regular = base * factor if warmup.leads_to == "policy" else base
            start = warmup.start_factor * regular if own_start is None else own_start
            values.append(GroupValues(_warmed(warmup.kind, start, regular, share), momentum))
        return tuple(values)


def _momentum_cycle(policy: _Policy, length: RunLength) -> _Policy | None:
    """What gives the momentum; None where the policy leaves it alone.

    Beside a cosine by epoch it goes by iteration, as everywhere.
    """
    config = policy.config
    if config.momentum_range is None:
        return None
    if config.kind == "one_cycle":
        return policy
    per = _per(config.interval, length)
    interval: Interval = "iteration" if config.interval == "epoch" else config.interval
    cycle = PolicyConfig(kind="one_cycle", interval=interval, rise=config.rise, momentum_range=config.momentum_range)
    return _Policy(cycle, policy.begin * per, (policy.begin + policy.length) * per)


def _per(interval: Interval, length: RunLength) -> int:
    return length.iterations_per_epoch if interval == "epoch" else 1


@dataclass(frozen=True)
class ScheduleCurve:
    """A schedule over a run. Shapes: P points, G groups."""

    group_names: tuple[str, ...]
    iterations: NDArray[np.int64]
    """(P,) micro-batch index."""
    steps: NDArray[np.int64]
    """(P,) updates before."""
    epochs: NDArray[np.int64]
    """(P,)"""
    lr: NDArray[np.float64]
    """(P, G)"""
    momentum: NDArray[np.float64]
    """(P, G)"""


def curve(
    schedule: Schedule, progress_of: Callable[[int], Progress], *, iterations: Sequence[int] | NDArray[Any]
) -> ScheduleCurve:
    """The values at the given micro-batches, without training.

    Args:
        schedule: The schedule.
        progress_of: Where a micro-batch stands: ``AccumulationPlan.progress``.
        iterations: Micro-batch indices, e.g. ``curve_points(schedule.length)``.
    """
    points = [progress_of(int(iteration)) for iteration in iterations]
    values = np.array([schedule.at(point) for point in points], dtype=np.float64)
    values = values.reshape(len(points), len(schedule.group_names), 2)  # (P, G, lr and momentum)
    places = np.array(points, dtype=np.int64).reshape(len(points), 3)
    return ScheduleCurve(schedule.group_names, places[:, 0], places[:, 1], places[:, 2], values[..., 0], values[..., 1])


def curve_points(length: RunLength, *, most: int = 4000) -> NDArray[np.int64]:
    """Micro-batches to look at: all of them in a short run, else about ``most`` with the first and last of it."""
    count = min(length.iterations, most)
    return np.unique(np.linspace(0, max(length.iterations - 1, 0), count).round().astype(np.int64))
