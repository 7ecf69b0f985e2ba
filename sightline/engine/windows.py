"""The micro-batches of a run, each with its place in the window of an optimizer step and with its parts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sightline.engine.accumulation import MicroBatch
from sightline.engine.parts import Part, weighed_together
from sightline.engine.task import Fetched

if TYPE_CHECKING:
    from sightline.engine.loop import Training


class Portion(NamedTuple):
    """A micro-batch that is to be run."""

    fetched: Fetched
    place: MicroBatch
    parts: Iterator[Part]


def micro_batches(training: Training, fetched: Iterable[Fetched]) -> Iterator[Portion]:
    """What a loader gives, up to the last step of the run; ``training.iteration`` is to count on between two of them.

    A micro-batch counts in its window by its samples. Where the run asks for exactness, it counts by what its losses
    are means of (boxes, points); then a whole window is held, and looked at twice.
    """
    if training.plan.config.exact and training.task.losses_are_whole:
        yield from _whole_windows(training, fetched)
        return
    for one in fetched:
        if training.step >= training.plan.length.steps:
            return
        place = training.plan.at(training.iteration)
        pieces = training.at_once.cut(training, one.batch.to(training.device), place.samples)
        yield Portion(one, place, weighed_together(training, [pieces])[0])


def _whole_windows(training: Training, fetched: Iterable[Fetched]) -> Iterator[Portion]:
    held: list[tuple[Fetched, MicroBatch, Any]] = []
    for one in fetched:
        if training.step >= training.plan.length.steps:
            return
        place = training.plan.at(training.iteration + len(held))
        held.append((one, place, copy.deepcopy(one.batch).to(training.device)))  # its memory is used again
        if not place.ends_window:
            continue
        pieces = [training.at_once.cut(training, batch, place.samples) for _, place, batch in held]
        count, total = sum(map(len, pieces)), sum(place.weight for _, place, _ in held)
        parts = weighed_together(training, pieces)
        for (fetched_one, place, _), mine, some in zip(held, pieces, parts, strict=True):
            yield Portion(fetched_one, place._replace(weight=total * len(mine) / count), some)
        held = []
