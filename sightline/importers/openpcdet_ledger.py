"""Which values of a foreign configuration became which of ours, and which became none.

Whoever reads a value takes it out of the ledger; what nobody took is told in the end, so nothing is lost in silence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sightline.config.errors import ConfigError
from sightline.config.printable import printable

MISSING: Any = object()
UNKNOWN = "not known here; nothing was made of it"


class Note(NamedTuple):
    """A value of theirs that became none of ours, or another one."""

    path: str
    """Such as ``MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.SAMPLE_SIZE`` or ``DATA_CONFIG.DATA_PROCESSOR[1].NAME``."""
    value: str
    why: str


class Put(NamedTuple):
    """A value of ours."""

    value: Any
    source: str
    """Path of theirs that it comes from."""


class Ledger:
    """The values of a configuration, those that were taken, and ours that came of them.

    Args:
        path: Its file, for messages.
        values: All of them.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.changes: dict[str, Put] = {}
        self._notes: dict[str, Note] = {}
        self._left = dict(_leaves(values, ""))
        self.top = Section(self, "", values)

    def put(self, key: str, value: Any, source: str) -> None:
        """Set a value of ours."""
        self.changes[key] = Put(value, source)

    def take(self, path: str) -> None:
        """A value was read, with all that is below it."""
        for key in [one for one in self._left if _is_within(one, path)]:
            del self._left[key]

    def note(self, path: str, why: str) -> None:
        """Tell something of each value at or below a path; they count as taken."""
        for key in [one for one in self._left if _is_within(one, path)]:
            self.tell(key, self._left.pop(key), why)

    def tell(self, path: str, value: Any, why: str) -> None:
        """Tell something of a value, taken or not."""
        self._notes[path] = Note(path, printable(value, limit=60), why)

    def notes(self) -> tuple[Note, ...]:
        """What is to be told, with all that nobody took."""
        left = [Note(path, printable(value, limit=60), UNKNOWN) for path, value in self._left.items()]
        return (*self._notes.values(), *left)


def _is_within(path: str, group: str) -> bool:
    return path == group or path.startswith((f"{group}.", f"{group}["))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{place}]")
    else:
        yield path, value


class Section:
    """A mapping of a configuration. Each value that is asked for is taken out of the ledger."""

    def __init__(self, ledger: Ledger, path: str, values: Mapping[str, Any]) -> None:
        self.ledger = ledger
        self.path = path
        self.values = values

    def __contains__(self, key: str) -> bool:
        """Whether there is such a key."""
        return key in self.values

    def place(self, key: str) -> str:
        """The whole path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def refuse(self, key: str, why: str) -> NoReturn:
        """Stop at a value.

        Raises:
            ConfigError: Always.
        """
        value = printable(self.values[key], limit=60) if key in self.values else "missing"
        raise ConfigError(f"{printable(self.ledger.path)}: {printable(self.place(key))} is {value}: {why}.")

    def get(self, key: str, default: Any = MISSING) -> Any:
        """A value of any type."""
        if key not in self.values:
            if default is MISSING:
                self.refuse(key, "it is needed")
            return default
        self.ledger.take(self.place(key))
        return self.values[key]

    def section(self, key: str, *, optional: bool = False) -> Section:
        """A mapping; its own values are not taken yet."""
        value = self.values.get(key, {} if optional else MISSING)
        if value is MISSING:
            self.refuse(key, "it is needed")
        if not isinstance(value, Mapping):
            self.refuse(key, "expected a mapping")
        return Section(self.ledger, self.place(key), value)

    def sections(self, key: str, default: Any = MISSING) -> list[Section]:
        """A list of mappings; their own values are not taken yet."""
        value = self.values.get(key, default)
        if value is MISSING:
            self.refuse(key, "it is needed")
        if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
            self.refuse(key, "expected a list of mappings")
        if not value and key in self.values:
            self.ledger.take(self.place(key))
        return [Section(self.ledger, f"{self.place(key)}[{place}]", one) for place, one in enumerate(value)]

    def text(self, key: str, default: Any = MISSING) -> str:
        """A text."""
        value = self.get(key, default)
        if not isinstance(value, str):
            self.refuse(key, "expected a text")
        return value

    def flag(self, key: str, default: Any = MISSING) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "expected true or false")
        return value

    def number(self, key: str, default: Any = MISSING) -> float:
        """A finite number."""
        value = self.get(key, default)
        if not _is_number(value):
            self.refuse(key, "expected a number")
        return value  # type: ignore[no-any-return]

    def integer(self, key: str, default: Any = MISSING) -> int:
        """A whole number."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            self.refuse(key, "expected a whole number")
        return value

    def numbers(self, key: str, default: Any = MISSING, *, count: int | None = None) -> list[float]:
        """A list of finite numbers."""
        value = self.get(key, default)
        if not isinstance(value, list) or not all(map(_is_number, value)) or count not in (None, len(value)):
            self.refuse(key, f"expected a list of {'' if count is None else f'{count} '}numbers")
        return value

    def texts(self, key: str, default: Any = MISSING) -> list[str]:
        """A list of texts."""
        value = self.get(key, default)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.refuse(key, "expected a list of texts")
        return value

    def only(self, key: str, allowed: Sequence[Any], why: str, *, default: Any = MISSING) -> Any:
        """A value that must be one of those that are allowed; anything else is refused."""
        value = self.get(key, default)
        if not any(type(value) is type(one) and value == one for one in allowed):
            self.refuse(key, why)
        return value

    def note(self, *keys: str, why: str) -> None:
        """Tell something of values that are there."""
        for key in keys:
            if key in self.values:
                self.ledger.note(self.place(key), why)

    def note_unless(self, key: str, usual: Any, why: str) -> None:
        """Tell something of a value that is not what it usually is."""
        value = self.get(key, usual)
        if value != usual:
            self.ledger.tell(self.place(key), value, why)

    def put(self, ours: str, key: str, value: Any) -> None:
        """Set a value of ours that comes from a key of this section."""
        self.ledger.put(ours, value, self.place(key))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
