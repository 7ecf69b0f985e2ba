"""The search for the largest batch whose step fits into memory. What a step takes is measured by the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pydantic import Field, PositiveInt

from sightline.config.base import Config
from sightline.config.errors import ConfigError

SMALLEST = 2
"""Tried first: batch norm needs two samples."""
PATIENCE = 1.3
"""A trial is begun only if so many times the seconds that it should take are left."""


def number_or_auto(value: Any) -> Any:
    """A batch size as it was given.

    Raises:
        ValueError: If it is neither a number from 1 on nor ``auto``.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 1 and value % 1 == 0
    if not is_number and value != "auto":
        raise ValueError("expected a number of samples from 1 on, or auto")
    return value


class AutoBatchConfig(Config):
    """How ``batch_size=auto`` is found."""

    share: float = Field(0.7, gt=0, le=1)
    """Share of the free memory that a step may take: of the GPU, or of the host where the run computes on a CPU."""
    most: PositiveInt = 64
    """Largest number of samples for a process."""


class Measured(NamedTuple):
    """What a step with so many samples took."""

    samples: int
    bytes: int
    seconds: float
    saved_bytes: int = 0
    """Kept for the backward pass: grows with the samples whatever else the allocator does."""


class FoundBatch(NamedTuple):
    """The largest batch that fits."""

    samples: int
    bytes: int
    """That a step takes."""
    tried: tuple[int, ...]
    """Sizes that were measured."""
    is_measured: bool
    """Whether this very size was; else it follows from smaller ones."""


def sizes(room: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: powers of two and the middle between two of them, up to ``room``."""
    return sorted({n for k in range(room.bit_length()) for n in (2**k, 3 * 2**k) if n <= room})


def find_batch(
    measure: Callable[[int], Measured | None], *, budget: int, room: int, seconds_left: Callable[[], float]
) -> FoundBatch:
    """Double the batch while it fits; then try the middle between the last that did and its double.

    Args:
        measure: Takes a step with so many samples; None where memory ran out.
        budget: Bytes that a step may take.
        room: Samples that there are, at most.
        seconds_left: Time for more trials. Where it ends, the size follows from the straight line through the largest
            batches that were measured.

    Raises:
        ConfigError: If a single sample is too much.
    """
    tried: list[Measured] = []
    size, goes_on = min(SMALLEST, room), True
    while goes_on:
        found = measure(size)
        if found is None or found.bytes > budget:
            break
        tried.append(found)
        goes_on = 2 * size <= room and _bytes_at(tried, 2 * size) <= budget
        if goes_on and seconds_left() < PATIENCE * _seconds_at(tried, 2 * size):
            return _estimated(tried, budget=budget, room=room)
        size *= 2
    if not tried:
        alone = measure(1) if size > 1 else None
        if alone is None or alone.bytes > budget:
            raise ConfigError(
                "batch_size=auto: a step with a single sample does not fit into the share of memory that it may take. "
                "Raise auto_batch.share, or take a smaller model, smaller samples or a device with more memory."
            )
        tried.append(alone)
    middle = tried[-1].samples * 3 // 2
    if (
        middle > tried[-1].samples
        and middle <= room
        and _bytes_at(tried, middle) <= budget
        and seconds_left() > PATIENCE * _seconds_at(tried, middle)
    ):
        found = measure(middle)
        if found is not None and found.bytes <= budget:
            tried.append(found)
    return FoundBatch(tried[-1].samples, tried[-1].bytes, tuple(one.samples for one in tried), True)


def _estimated(tried: Sequence[Measured], *, budget: int, room: int) -> FoundBatch:
    fitting = [n for n in sizes(room) if n >= tried[-1].samples and _bytes_at(tried, n) <= budget]
    best = max(fitting, default=tried[-1].samples)
    done = tuple(one.samples for one in tried)
    return FoundBatch(best, int(_bytes_at(tried, best)), done, best == done[-1])


def _bytes_at(tried: Sequence[Measured], samples: int) -> float:
    last = tried[-1]
    slope = last.saved_bytes / last.samples
    if len(tried) > 1:
        slope = max(slope, (last.bytes - tried[-2].bytes) / (last.samples - tried[-2].samples))
    return last.bytes + slope * (samples - last.samples)


def _seconds_at(tried: Sequence[Measured], samples: int) -> float:
    return tried[-1].seconds * samples / tried[-1].samples
