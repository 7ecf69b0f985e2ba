"""JSON from strangers: size and depth are limited, NaN and infinite tokens and doubled keys are refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, cure_of, read_regular_file
from sightline.data.faults import FormatError

MAX_BYTES = 4 << 30


def read_json(path: Path, *, keep: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON file in UTF-8.

    Args:
        path: The file.
        keep: Called with every finished object, inner ones first; its result takes the object's place. Dropping what
            is not needed here keeps a large file from filling the memory.

    Raises:
        FormatError: A ``DataError`` that names the file and, for broken syntax, the line.
    """
    return parse_json(bytes_of(path), path, keep=keep)  # without a name here, the bytes can go once they are decoded


def bytes_of(path: Path) -> bytes:
    """Content of a file. Raises as ``read_json``."""
    try:
        return read_regular_file(path, limit=MAX_BYTES)
    except FileReadError as error:
        kind = "not_found" if error.kind == "missing_file" else "unreadable_file"
        raise FormatError(kind, path, error.message, cure=cure_of(error, path, pattern="*.json")) from None


def parse_json(data: bytes, path: Path, *, keep: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """As ``read_json`` for bytes; ``path`` is for messages."""
    if not data.strip():
        raise FormatError("bad_json", path, "the file is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError("bad_json", path, "is not UTF-8 text", line=line) from None
    del data

    def finish(pairs: list[tuple[str, Any]]) -> Any:
        value = dict(pairs)
        if len(value) != len(pairs):
            doubled = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise FormatError("bad_json", path, f"the key {doubled[:40]!r} is given twice in one object")
        return value if keep is None else keep(value)

    def refuse_constant(token: str) -> NoReturn:
        raise FormatError("bad_json", path, f"the number {token} is refused; JSON has no such number")

    try:
        return json.loads(text, object_pairs_hook=finish, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        message = f"{printable(error.msg)} (column {error.colno})"
        raise FormatError("bad_json", path, message, line=error.lineno) from None
    except RecursionError:
        raise FormatError("bad_json", path, "lists or objects are nested too deep") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise FormatError("bad_json", path, f"a number cannot be read: {str(error)[:80]}") from None
