"""What is tried next, as a function of names: the seed, the number of the trial, the key, and results before.

Trials come in generations. The first is spread over the space; each trial after it changes some values of one of the
best trials of all earlier generations. So the values of a trial depend on no clock, on no order in which others ended,
and on no number of them that run at once. Every number is a hash of what it is for, and stays what it is when another
version of Python or of a package comes.

Reference:
    McKay, Beckman, Conover, "A comparison of three methods for selecting values of input variables", Technometrics
    1979 (Latin hypercubes: of N trials, each key has one in every N-th of its range).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from sightline.search.space import Dimension

Method = Literal["evolve", "random"]

PARENTS = 3
"""So many of the best trials may have children; the best one as many times as often as the last."""
STEP = 0.15
"""Standard deviation of a change, as a share of the range."""
SHARE = 0.4
"""Chance that a key is changed; one always is."""


@dataclass(frozen=True)
class Proposal:
    """What a trial tries."""

    places: dict[str, float]
    """By key, where in its range; in [0, 1]."""
    parent: int | None
    """Number of the trial that was changed; None for one that was drawn anew."""


class Proposals:
    """Proposals of a search.

    Args:
        space: What may be tried.
        seed: Decides every draw.
        generation: Trials of a generation.
        method: ``evolve`` as above; with ``random`` every generation is spread over the space.
    """

    def __init__(
        self, space: Sequence[Dimension], *, seed: int = 0, generation: int = 8, method: Method = "evolve"
    ) -> None:
        self.space, self.seed, self.generation, self.method = space, seed, generation, method
        self._scores: dict[int, float] = {}
        self._known: dict[int, Proposal] = {}
        self._told = 0

    def tell(self, score: float | None) -> None:
        """The result of the next trial, in the order of their numbers: larger is better; None for a failed one."""
        if score is not None:
            self._scores[self._told] = score
        self._told += 1

    def is_open(self, trial: int) -> bool:
        """Whether enough results were told to propose a trial."""
        return self.method == "random" or self._told >= trial - trial % self.generation

    def propose(self, trial: int) -> Proposal:
        """What a trial, counted from 0, tries; ``is_open`` says that it can be known."""
        assert self.is_open(trial)
        if trial not in self._known:
            parent = self._parent_of(trial)
            places = self._spread(trial) if parent is None else self._changed(trial, self.propose(parent).places)
            self._known[trial] = Proposal(places, parent)
        return self._known[trial]

    def _parent_of(self, trial: int) -> int | None:
        """One of the best trials of earlier generations; None in the first, and for the first of a later one."""
        generation, place = divmod(trial, self.generation)
        before = [number for number in self._scores if number < generation * self.generation]
        is_anew = place == 0 and self.generation > 1
        if self.method == "random" or not before or is_anew:
            return None
        best = sorted(before, key=lambda number: (-self._scores[number], number))[:PARENTS]
        draw = self._draw("parent", trial) * len(best) * (len(best) + 1) / 2  # the weights are n, n-1, ..., 1
        rank = 0
        while (draw := draw - (len(best) - rank)) >= 0:
            rank += 1
        return best[rank]

    def _spread(self, trial: int) -> dict[str, float]:
        """A place in a Latin hypercube of the trial's generation."""
        block, place = divmod(trial, self.generation)
        places = {}
        for one in self.space:
            draws = [self._draw("order", block, one.key, part) for part in range(self.generation)]
            rank = sorted(draws).index(draws[place])
            places[one.key] = (rank + self._draw("jitter", trial, one.key)) / self.generation
        return places

    def _changed(self, trial: int, parent: dict[str, float]) -> dict[str, float]:
        """The places of a parent, some of them moved."""
        surely = self.space[int(self._draw("surely", trial) * len(self.space))].key
        return {
            one.key: self._moved(one, parent[one.key], trial)
            if one.key == surely or self._draw("whether", trial, one.key) < SHARE
            else parent[one.key]
            for one in self.space
        }

    def _moved(self, one: Dimension, place: float, trial: int) -> float:
        """Another place near by; of a choice any other value."""
        draw = self._draw("how", trial, one.key)
        if one.kind == "choice":
            count = len(one.values)
            index = int(place * count) + 1 + int(draw * (count - 1))
            return (index % count + 0.5) / count
        step = STEP * NormalDist().inv_cdf(draw)
        if one.count is not None:  # at least to the next whole number
            step = math.copysign(max(abs(step), 1 / one.count), step)
            if one.at(_reflected(place + step)) == one.at(place):  # it came back from an end
                step = -step
        return _reflected(place + step)

    def _draw(self, *names: object) -> float:
        """A number in (0, 1) that is a function of the seed and of what it is for."""
        digest = hashlib.sha256(repr((self.seed, *names)).encode()).digest()
        return ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / 2**52


def _reflected(place: float) -> float:
    """A place beyond an end of [0, 1] comes back from it as far as it went over."""
    place = abs(place) % 2
    return 2 - place if place > 1 else place
