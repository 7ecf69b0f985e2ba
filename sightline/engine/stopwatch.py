"""Tells to which part of the work the time of a training goes. Where nothing is profiled, a lap is an empty call."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass
class Times:
    """Seconds by part of the work."""

    host: dict[str, float] = field(default_factory=dict)
    """By the clock of the thread that trains."""
    device: dict[str, float] = field(default_factory=dict)
    """By the GPU's own clock, between the moments at which it reached each part; empty without a GPU."""


class Stopwatch:
    """Does nothing: the twin for runs that are not profiled.

    The parts of the work follow each other without a gap, so one call at the start of each is enough.
    """

    def lap(self, part: str) -> str:
        """From now on time belongs to ``part``. Returns the part before, for who wants to go back to it."""
        return part

    def waiting_for(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time until each belongs to ``data``, and what follows at first to ``transfer``."""
        return batches

    def start(self, device: torch.device) -> None:
        """Begin to measure."""

    def stop(self) -> Times:
        """End it."""
        return Times()


OFF = Stopwatch()
"""What a run without a profile carries."""


class RunningStopwatch(Stopwatch):
    """Measures between ``start`` and ``stop``.

    On a GPU every lap puts an event into the stream. Nobody waits for one before ``stop``, so the device goes on
    working ahead of the host as it does without a profile.
    """

    def __init__(self) -> None:
        self._part = "other"
        self._is_on = False
        self._laps: list[tuple[str, float]] = []
        self._events: list[torch.cuda.Event] | None = None

    def lap(self, part: str) -> str:
        """From now on time belongs to ``part``."""
        before, self._part = self._part, part
        if self._is_on and part != before:
            self._laps.append((part, time.perf_counter()))
            if self._events is not None:
                self._note_event(self._events)
        return before

    def waiting_for(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches."""
        self.lap("data")
        for batch in batches:
            self.lap("transfer")
            yield batch
            self.lap("data")

    def start(self, device: torch.device) -> None:
        """Begin to measure; on a GPU after what it still has to do."""
        self._events = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self._events = []
            self._note_event(self._events)
        self._is_on = True
        self._laps = [(self._part, time.perf_counter())]

    def stop(self) -> Times:
        """End it, after waiting for the GPU."""
        if not self._is_on:
            return Times()
        self._is_on = False
        laps, times = [*self._laps, ("", time.perf_counter())], Times()
        times.host = _sums([(part, end - begin) for (part, begin), (_, end) in pairwise(laps)])
        if self._events is not None:
            events = [*self._events]
            self._note_event(events)
            events[-1].synchronize()
            spans = [a.elapsed_time(b) / 1000 for a, b in pairwise(events)]  # seconds
            times.device = _sums([(part, span) for (part, _), span in zip(laps, spans, strict=False)])
        self._laps, self._events = [], None
        return times

    def _note_event(self, events: list[torch.cuda.Event]) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        events.append(event)


def _sums(spans: list[tuple[str, float]]) -> dict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for part, seconds in spans:
        sums[part] += seconds
    return dict(sums)
