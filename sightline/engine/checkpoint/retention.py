"""When checkpoints are taken, which of them stay, and how much disk they take.

The rules are configuration; they are applied by plain functions of lists. No file is touched here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from sightline.config.base import Config
from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.figures import Direction, better_direction
from sightline.config.printable import counted


class BestBy(Config):
    """What "best" means."""

    metric: str | None = None
    """Name of the figure; without one, the first that the task's metric reports."""
    direction: Direction | None = None
    """Whether a larger (max) or smaller (min) value is better. When left out, min for losses and for the figures of
    which the task knows it (a classifier's nll and ece), else max."""
    ties: Literal["earliest", "latest"] = "earliest"
    """Which of two equal checkpoints is the better one."""

    def direction_of(self, figure: str) -> Direction:
        """Which value of the figure that decides is better. Of a run, ``RunConfig.meaning_of`` comes before it."""
        return self.direction or better_direction(figure)


class KeepLast(Config):
    """The newest checkpoints."""

    rule: Literal["last"] = "last"
    count: PositiveInt = 2
    """How many."""
    epoch_ends: bool = False
    """Count only those at the end of an epoch, so that others, taken by the clock, push none of them out."""


class KeepBest(Config):
    """The best checkpoints."""

    rule: Literal["best"] = "best"
    count: PositiveInt = 1
    """How many."""
    by: BestBy | None = None
    """What best means; without it, what the run's evaluation says."""


class KeepImprovements(Config):
    """Every checkpoint that was the best one when it was taken, and the best so far, which the next one has to beat."""

    rule: Literal["improvements"] = "improvements"
    from_epoch: NonNegativeInt = 0
    """Complete epochs before which none is kept by this rule."""
    by: BestBy | None = None
    """What best means; without it, what the run's evaluation says."""


class KeepEveryEpochs(Config):
    """The checkpoints at the end of every so many epochs."""

    rule: Literal["every_epochs"] = "every_epochs"
    every: PositiveInt
    """Epochs from one to the next; 25 keeps epochs 25, 50, 75, ..."""


class KeepEverySteps(Config):
    """The checkpoints at every so many steps."""

    rule: Literal["every_steps"] = "every_steps"
    every: PositiveInt
    """Steps from one to the next."""


class KeepEpochs(Config):
    """The checkpoints at the end of named epochs."""

    rule: Literal["epochs"] = "epochs"
    epochs: tuple[PositiveInt, ...] = Field(min_length=1)
    """Counted from 1: the first epoch ends as epoch 1."""


class KeepFinalEpochs(Config):
    """The checkpoints at the end of each of the run's last epochs."""

    rule: Literal["final_epochs"] = "final_epochs"
    count: PositiveInt = 5
    """How many epochs before the planned end."""


class KeepAll(Config):
    """Every checkpoint."""

    rule: Literal["all"] = "all"


KeepRule = Annotated[
    KeepLast | KeepBest | KeepImprovements | KeepEveryEpochs | KeepEverySteps | KeepEpochs | KeepFinalEpochs | KeepAll,
    Field(discriminator="rule"),
]


class CheckpointConfig(Config):
    """When checkpoints are taken and which stay. The newest and the best one always stay."""

    every_epochs: NonNegativeInt = 1
    """Take one at the end of every so many epochs; 0 for none."""
    every_steps: NonNegativeInt = 0
    """Take one after every so many steps; 0 for none."""
    every_minutes: PositiveFloat | None = None
    """Take one when the last is so many minutes old: the most work that a crash can cost."""
    keep: tuple[KeepRule, ...] = (KeepLast(count=2),)
    """What stays, e.g. ``[{rule: last, count: 3}, {rule: every_epochs, every: 25}]``. A checkpoint stays if any
    rule wants it."""

    def meanings_of_best(self, best: BestBy) -> tuple[BestBy, ...]:
        """``best`` and every other meaning of best that a rule uses, each once."""
        asked = [rule.by for rule in self.keep if isinstance(rule, KeepBest | KeepImprovements) and rule.by]
        return tuple(dict.fromkeys([best, *asked]))


@dataclass(frozen=True)
class Saved:
    """What the rules look at.

    Attributes:
        step: Optimizer steps taken; names the checkpoint.
        epoch: Complete passes over the data.
        ends_epoch: Whether a pass was just complete.
        metrics: Figures of the evaluation at this step; empty without one.
        improved: Notes of the meanings of best by which it was better than every checkpoint before.
    """

    step: int
    epoch: int = 0
    ends_epoch: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    improved: tuple[str, ...] = ()


def ranked(saved: Sequence[Saved], by: BestBy) -> list[Saved]:
    """Best first; checkpoints without the figure, or where it is NaN or infinite, are left out."""
    age = 1 if by.ties == "earliest" else -1
    found = []
    for one in saved:
        name = _name(by, one.metrics)
        value, sign = one.metrics.get(name, math.nan), -1 if by.direction_of(name) == "max" else 1
        if math.isfinite(value):
            found.append((sign * value, age * one.step, one))
    return [one for _, _, one in sorted(found, key=lambda entry: entry[:2])]


def improvements(new: Saved, before: Sequence[Saved], meanings: Sequence[BestBy]) -> tuple[str, ...]:
    """By which of the ``meanings`` of best ``new`` is better than all ``before``, as ``Saved.improved`` notes it.

    Raises:
        ConfigError: A meaning names no figure of the evaluation.
    """
    if not new.metrics:
        return ()
    for by in meanings:
        figure_of(by, new.metrics, what="best checkpoint")
    return tuple(_note(by, new) for by in meanings if ranked([*before, new], by)[:1] == [new])


def figure_of(by: BestBy, metrics: Mapping[str, float], *, what: str) -> tuple[str, float]:
    """Name and value of the figure that decides.

    Args:
        by: Which one.
        metrics: Those of an evaluation.
        what: What it decides, for the message.

    Raises:
        ConfigError: The evaluation has no such figure.
    """
    name = _name(by, metrics)
    if name not in metrics:
        raise ConfigError(
            f"{what}: no metric {by.metric!r} in the evaluation."
            f"{did_you_mean(by.metric or '', metrics)} There are: {', '.join(metrics)}."
        )
    return name, metrics[name]


def kept_steps(
    saved: Sequence[Saved], config: CheckpointConfig, *, best: BestBy, total_epochs: int | None = None
) -> set[int]:
    """Steps of the checkpoints that stay: those that a rule wants, the newest and the best.

    Applying this after every save keeps the same ones as applying it once at the end.

    Args:
        saved: All checkpoints that exist, in any order, with different steps.
        config: The rules.
        best: What best means where a rule does not say.
        total_epochs: Epochs at which the run ends; the rule ``final_epochs`` needs it.

    Raises:
        ConfigError: ``final_epochs`` is used in a run without a planned number of epochs.
    """
    newest_first = sorted(saved, key=lambda one: -one.step)
    kept = {one.step for one in [*newest_first[:1], *ranked(saved, best)[:1]]}
    for rule in config.keep:
        match rule:
            case KeepLast():
                chosen = [one for one in newest_first if one.ends_epoch or not rule.epoch_ends][: rule.count]
            case KeepBest():
                chosen = ranked(saved, rule.by or best)[: rule.count]
            case KeepImprovements():
                by = rule.by or best
                improvements = [one for one in saved if one.epoch >= rule.from_epoch and _note(by, one) in one.improved]
                chosen = [*ranked(saved, by)[:1], *improvements]  # the first is what the next one has to beat
            case KeepEveryEpochs():
                chosen = [one for one in saved if one.ends_epoch and one.epoch % rule.every == 0]
            case KeepEverySteps():
                chosen = [one for one in saved if one.step % rule.every == 0]
            case KeepEpochs():
                chosen = [one for one in saved if one.ends_epoch and one.epoch in rule.epochs]
            case KeepFinalEpochs():
                if total_epochs is None:
                    raise ConfigError(
                        "checkpoint.keep: the rule 'final_epochs' needs a run that is measured in epochs. "
                        "Set epochs, or use the rule 'last'."
                    )
                chosen = [one for one in saved if one.ends_epoch and one.epoch > total_epochs - rule.count]
            case KeepAll():
                chosen = list(saved)
        kept |= {one.step for one in chosen}
    return kept


@dataclass(frozen=True)
class DiskUse:
    """The most that the checkpoints of a run can take: ``count`` of them, ``bytes`` in all."""

    count: int
    bytes: int

    def __str__(self) -> str:
        size = f"{self.bytes / 1e9:.2f} GB" if self.bytes >= 1e9 else f"{math.ceil(self.bytes / 1e6):,} MB"
        return f"{counted(self.count, 'checkpoint')}, {size}"


def disk_use(
    config: CheckpointConfig,
    *,
    bytes_each: int,
    total_steps: int,
    steps_per_epoch: int,
    total_epochs: int | None = None,
) -> DiskUse:
    """The most that checkpoints can take at any time of a run, the one being written included.

    Takes the worst case of what cannot be known: every evaluation an improvement, the best ones never among
    those kept for another reason. Checkpoints taken by the clock or on demand count only as newest.

    Args:
        config: When checkpoints are taken and which stay.
        bytes_each: Size of one.
        total_steps: Steps of the whole run.
        steps_per_epoch: Steps of one pass over the data.
        total_epochs: Epochs of the whole run, where it is measured in epochs.
    """
    steps = {total_steps}
    if config.every_steps:
        steps |= set(range(config.every_steps, total_steps + 1, config.every_steps))
    if config.every_epochs:
        period = config.every_epochs * steps_per_epoch
        steps |= set(range(period, total_steps + 1, period))
    saved = [Saved(step, step // steps_per_epoch, step % steps_per_epoch == 0) for step in sorted(steps)]
    kept = kept_steps(saved, config, best=BestBy(), total_epochs=total_epochs)
    best: dict[BestBy | None, int] = {None: 1}  # None is the run's own meaning of best
    for rule in config.keep:
        if isinstance(rule, KeepImprovements):
            kept |= {one.step for one in saved if one.epoch >= rule.from_epoch}
            best[rule.by] = max(best.get(rule.by, 0), 1)
        elif isinstance(rule, KeepBest):
            best[rule.by] = max(best.get(rule.by, 0), rule.count)
    count = min(len(kept) + sum(best.values()), len(saved)) + 1
    return DiskUse(count, count * bytes_each)


def _name(by: BestBy, metrics: Mapping[str, float]) -> str:
    return next(iter(metrics), "") if by.metric is None else by.metric


def _note(by: BestBy, one: Saved) -> str:
    name = _name(by, one.metrics)
    return f"{by.direction_of(name)} {name}, {by.ties} first"
