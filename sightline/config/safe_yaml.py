"""YAML as plain values: dicts, lists, text, numbers, booleans and null; nothing in a file can make anything else.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/, section 10.3.2), so ``1e-3`` is a number and
``no``, ``on`` or ``2024-01-31`` are text. Refused, with line and column: duplicate keys, tags, merge keys (``<<``),
keys that are lists or maps, several documents, more than 100 aliases, aliases that unfold to more than a million
values, nesting deeper than 64, files above 1 MiB.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sightline.config.errors import ConfigError
from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, cure_of, read_regular_file

MAX_BYTES = 1 << 20
MAX_ALIASES = 100
MAX_DEPTH = 64
MAX_VALUES = 1_000_000
MAX_DIGITS = 400

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}

KeyPath = tuple[Any, ...]


class YamlError(ValueError):
    """A YAML text is refused."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        """From 1; None if the file as a whole is meant."""
        self.column = column


@dataclass(frozen=True)
class YamlDocument:
    """The value of a YAML file and where its keys stand."""

    value: Any
    lines: Mapping[KeyPath, int]
    """Line (from 1) of every key and list item, by its path such as ``("optimizer", "lr")`` or ``("names", 3)``."""


def read_yaml(path: Path, *, what: str) -> Any:
    """The plain value of a YAML file.

    Args:
        path: The file.
        what: What it is to the user, for messages: ``"change file"``.

    Raises:
        ConfigError: Names file, line and column of what is refused.
    """
    return read_yaml_document(path, what=what).value


def read_yaml_document(path: Path, *, what: str) -> YamlDocument:
    """As ``read_yaml``, with the line of every key."""
    try:
        return parse_yaml(read_regular_file(path, limit=MAX_BYTES))
    except FileReadError as problem:
        cure = cure_of(problem, path, pattern="*.y*ml")
        raise ConfigError(f"{what} {printable(path)}: {problem.message}. {cure}") from None
    except YamlError as problem:
        place = ":".join(str(part) for part in (printable(path), problem.line, problem.column) if part is not None)
        raise ConfigError(f"{place}: {what}: {printable(problem.message)}.") from None


@dataclass
class Open:
    """A list or map whose end has not been seen."""

    value: dict[Any, Any] | list[Any]
    anchor: str | None
    path: KeyPath
    values: int = 1
    """Number of values inside, itself included, aliases unfolded."""
    height: int = 1
    key: Any = None
    has_key: bool = False


@dataclass
class Builder:
    """Makes values from parser events, without recursion."""

    stack: list[Open] = field(default_factory=list)
    root: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    anchors: dict[str, tuple[Any, int, int] | None] = field(default_factory=dict)
    aliases: int = 0
    total: int = 0

    def take(self, event: Any) -> None:
        """Add one event."""
        if isinstance(event, yaml.ScalarEvent):
            refuse_tag(event)
            self.put(scalar(event), event)
        elif isinstance(event, yaml.AliasEvent):
            self.put_alias(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            refuse_tag(event)
            self.open(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closed = self.stack.pop()
            if closed.anchor is not None:
                self.anchors[closed.anchor] = (closed.value, closed.values, closed.height)
            self.count(closed.values, closed.height, event)

    def next_path(self, event: Any) -> KeyPath:
        """Where the next value goes; the path of a map's own key is that of the map."""
        if not self.stack:
            return ()
        top = self.stack[-1]
        if isinstance(top.value, list):
            path = (*top.path, len(top.value))
            self.lines[path] = event.start_mark.line + 1
            return path
        return (*top.path, top.key) if top.has_key else top.path

    def put(self, value: Any, event: Any) -> None:
        """A finished scalar: a key, or a value of the innermost list or map."""
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, 1, 0)
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.value, dict) and not top.has_key:
            self.put_key(top, value, event)
            return
        self.attach(value, event)
        self.count(1, 0, event)

    def put_key(self, top: Open, key: Any, event: Any) -> None:
        """A scalar where the innermost map waits for a key."""
        if key == "<<" and event.implicit[0]:
            raise problem_at(event, "merge keys ('<<') are not supported; write the keys out")
        path = (*top.path, key)
        if key in top.value:
            raise problem_at(event, f"the key {key!r} is given twice (first in line {self.lines[path]})")
        self.lines[path] = event.start_mark.line + 1
        top.key, top.has_key = key, True

    def attach(self, value: Any, event: Any) -> None:
        """Hand a value to the innermost list or map."""
        self.next_path(event)
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.has_key:
            top.value[top.key] = value
            top.has_key = False
        else:
            raise problem_at(event, "a list, a map or an alias cannot be a key")

    def open(self, event: Any) -> None:
        """A list or map begins."""
        if len(self.stack) >= MAX_DEPTH:
            raise problem_at(event, f"nested more than {MAX_DEPTH} deep")
        path = self.next_path(event)
        value: dict[Any, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.attach(value, event)
        if event.anchor is not None:
            self.anchors[event.anchor] = None  # not finished: an alias inside it would be endless
        self.stack.append(Open(value, event.anchor, path))

    def put_alias(self, event: Any) -> None:
        """A copy of what an anchor named."""
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise problem_at(event, f"more than {MAX_ALIASES} aliases")
        if event.anchor not in self.anchors:
            raise problem_at(event, f"the alias '*{event.anchor}' names no anchor")
        known = self.anchors[event.anchor]
        if known is None:
            raise problem_at(event, f"the alias '*{event.anchor}' lies inside itself")
        value, values, height = known
        if len(self.stack) + height > MAX_DEPTH:
            raise problem_at(event, f"nested more than {MAX_DEPTH} deep")
        self.total += values
        if self.total > MAX_VALUES:
            raise problem_at(event, f"the aliases unfold to more than {MAX_VALUES:,} values")
        self.attach(copy.deepcopy(value), event)
        self.count(values, height, event)

    def count(self, values: int, height: int, event: Any) -> None:
        """Tell the innermost list or map how much it grew."""
        if self.stack:
            self.stack[-1].values += values
            self.stack[-1].height = max(self.stack[-1].height, height + 1)
        elif values > MAX_VALUES:
            raise problem_at(event, f"more than {MAX_VALUES:,} values")


def parse_yaml(data: bytes) -> YamlDocument:
    """The plain value of a YAML text in UTF-8.

    Raises:
        YamlError: If anything in it is refused.
    """
    if len(data) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError("is not UTF-8 text", data[: error.start].count(b"\n") + 1) from None
    builder = Builder()
    documents = 0
    try:
        for event in yaml.parse(text, Loader=LOADER):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise problem_at(event, "holds more than one document")
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise syntax_problem(error, text) from None
    except yaml.YAMLError as error:  # a reader error: the only kind without marks
        position = getattr(error, "position", None)
        line = None if position is None else text[:position].count("\n") + 1
        raise YamlError("holds a control character", line) from None
    return YamlDocument(builder.root, builder.lines)


def scalar(event: Any) -> Any:
    """The value of a scalar by the core schema; quoted and block scalars are text."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    if text in WORDS:
        return WORDS[text]
    if len(text) > MAX_DIGITS:
        return text
    if INTEGER.fullmatch(text):
        return int(text, 0) if text[1:2] in ("o", "x") else int(text)
    return float(text) if FLOAT.fullmatch(text) else text


def refuse_tag(event: Any) -> None:
    """A tag asks for an object that is no plain value, or for another reading of a scalar."""
    if event.tag is not None:
        raise problem_at(event, f"the tag {event.tag!r} is refused; only plain values are read")


def problem_at(event: Any, message: str) -> YamlError:
    """A problem where an event starts."""
    return YamlError(message, event.start_mark.line + 1, event.start_mark.column + 1)


def syntax_problem(error: yaml.MarkedYAMLError, text: str) -> YamlError:
    """The parser's complaint with the line it is about."""
    mark = error.problem_mark or error.context_mark
    message = " ".join(part for part in (error.problem, error.context) if part)
    if mark is None:
        return YamlError(message)
    lines = text.splitlines()
    shown = f": {lines[mark.line].strip()[:60]!r}" if mark.line < len(lines) else ""
    return YamlError(f"{message}{shown}", mark.line + 1, mark.column + 1)
