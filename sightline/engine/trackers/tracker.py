"""What a tracker is, and the row that it takes. Nothing here needs PyTorch: a tracker's process starts quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of the finite values of a tensor in bins of equal width between the smallest and the largest."""

    low: float
    high: float
    total: float
    """Sum of the values."""
    squares: float
    """Sum of their squares."""
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class TrackedPicture:
    """A picture as the bytes of a JPEG file."""

    width: int
    height: int
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class TrackedRow:
    """One row of the logger, plain values only."""

    kind: str
    """``train``, ``eval``, ``watch``, ``histograms`` or ``pictures``."""
    step: int
    epoch: int
    values: Mapping[str, float]
    """A function of the run alone."""
    timing: Mapping[str, float]
    """What depends on the machine."""
    time: float
    """When it was logged, Unix seconds."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    """By name; only TensorBoard is given a row that has some ..."""
    pictures: Mapping[str, TrackedPicture] = field(default_factory=dict)
    """... and so with these."""

    def tagged(self) -> dict[str, float]:
        """All figures by the names that users of other trainers know."""
        return {tag_of(self.kind, name): value for name, value in {**self.values, **self.timing}.items()}


class Tracker(Protocol):
    """Takes rows. Its methods are called one after another, in a thread of its own, and may raise anything."""

    def open(self) -> None:
        """Get ready. Called first; where it raised, called again later."""

    def write(self, rows: Sequence[TrackedRow]) -> None:
        """Take rows in their order; where it raises, they count as lost."""

    def close(self, outcome: str) -> None:
        """The run is over: ``done``, ``stopped`` or ``failed``. Called once if ``open`` went well."""

    def abandon(self) -> None:
        """Nobody waits for this tracker any more: free what it holds. Called from another thread."""


class TrackerGoneError(Exception):
    """A tracker needs ``open`` again before it can take more rows."""


def tag_of(kind: str, name: str) -> str:
    """``train/loss/box``, ``val/loss/box``, ``lr/decay``, ``metrics/AP``."""
    if kind == "eval" and name.partition("/")[0] == "loss":
        return f"val/{name}"
    if kind != "train":
        return f"metrics/{name}" if kind == "eval" else f"{kind}/{name}"
    return name if name.startswith("lr/") else f"train/{name}"
