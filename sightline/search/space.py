"""What a search may try: a range of values for each of some keys.

``log(1e-4, 1e-1)`` even in the logarithm, ``uniform(0.8, 0.98)`` even in the value, ``int(2, 8)`` whole numbers with
both ends, ``choice(sgd, adamw)`` one of a list. Every value of a range is a place from 0 to 1, so that all ranges are
walked alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.override import Change, parse_value
from sightline.config.printable import printable

KINDS = ("uniform", "log", "int", "choice")
DIGITS = 6
"""Significant digits of a drawn number: more decide nothing, and nobody reads them."""
HOW = "Write uniform(LOW, HIGH), log(LOW, HIGH), int(LOW, HIGH) or choice(A, B, ...)."

_CALL = re.compile(r"\s*([A-Za-z_]+)\s*\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Dimension:
    """One key and its range."""

    key: str
    kind: str
    """One of ``KINDS``."""
    values: tuple[Any, ...]
    """Both ends, or all choices."""
    origin: str
    """Where the user wrote it."""

    @property
    def count(self) -> int | None:
        """How many values there are; None for a range of real numbers."""
        if self.kind == "choice":
            return len(self.values)
        return self.values[1] - self.values[0] + 1 if self.kind == "int" else None

    def at(self, place: float) -> Any:
        """The value at a place in [0, 1]."""
        if self.count is not None:
            index = min(int(place * self.count), self.count - 1)
            return self.values[index] if self.kind == "choice" else self.values[0] + index
        low, high = self.values
        if self.kind == "log":
            value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
        else:
            value = low + place * (high - low)
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)

    def change(self, place: float) -> Change:
        """The value at a place in [0, 1], as a change."""
        return Change(self.key, self.at(place), self.origin)

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.values))})"


def is_range(text: str) -> bool:
    """Whether a text is meant as a range: a call of a kind, or of a slip of one."""
    call = _CALL.fullmatch(text)
    return call is not None and (call[1] in KINDS or bool(did_you_mean(call[1], KINDS)))


def parse_range(change: Change) -> Dimension:
    """A range as a user writes it.

    Args:
        change: The key, the text of the range, and where it stands.

    Raises:
        ConfigError: If it is no range, or an empty one.
    """
    shown = f"{change.origin}: {change.key}={printable(change.value, limit=80)}"
    call = _CALL.fullmatch(change.value) if isinstance(change.value, str) else None
    if call is None:
        raise ConfigError(f"{shown} is no range. {HOW} A value that stays is given as KEY=VALUE.")
    kind = call[1]
    if kind not in KINDS:
        raise ConfigError(f"{shown}: there is no range {kind!r}.{did_you_mean(kind, KINDS)} {HOW}")
    values = tuple(parse_value(one) if isinstance(one, str) else one for one in parse_value(f"[{call[2]}]"))
    wrong = _choice_fault(values) if kind == "choice" else _ends_fault(kind, values)
    if wrong:
        raise ConfigError(f"{shown}: {wrong}")
    if kind in ("uniform", "log"):
        values = tuple(map(float, values))
    return Dimension(change.key, kind, values, change.origin)


def _choice_fault(values: Sequence[Any]) -> str:
    if any(values[place] in values[:place] for place in range(len(values))):
        return "a value is named twice. Leave one out."
    return "" if len(values) > 1 else "a choice needs two values or more; one alone is given as KEY=VALUE."


def _ends_fault(kind: str, values: Sequence[Any]) -> str:
    types = (int,) if kind == "int" else (int, float)
    what = "whole numbers" if kind == "int" else "numbers"
    if len(values) != 2 or any(type(one) not in types or not math.isfinite(one) for one in values):
        return f"{kind} takes two {what}: {kind}(LOW, HIGH)."
    low, high = values
    if low >= high:
        return (
            f"the low end comes first and is smaller: {kind}({high}, {low})." if low > high else "both ends are equal."
        )
    return "log needs a low end above 0." if kind == "log" and low <= 0 else ""


def parse_space(ranges: Sequence[Change]) -> tuple[Dimension, ...]:
    """All ranges of a search, in the order of their keys.

    Raises:
        ConfigError: If one is wrong, a key or its group has two, or there is none.
    """
    space = sorted((parse_range(change) for change in ranges), key=lambda one: one.key)
    if not space:
        raise ConfigError(
            "search: no key has a range. Give some, such as 'lr=log(1e-4,1e-1)' (in quotes), or a file: --space FILE"
        )
    for first, second in ((a, b) for a in space for b in space if a is not b):
        if first.key == second.key or second.key.startswith(f"{first.key}."):
            raise ConfigError(
                f"{second.origin}: {second.key} has a range already, by {first.key}={first}. Leave one out."
            )
    return tuple(space)


def values_at(space: Sequence[Dimension], places: Mapping[str, float]) -> dict[str, Any]:
    """A value for every key."""
    return {one.key: one.at(places[one.key]) for one in space}
