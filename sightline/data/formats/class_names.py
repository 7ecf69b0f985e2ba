"""Class names as data sets give them: all different, printable, and those that the user expects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sightline.config.printable import printable
from sightline.data.faults import FormatError
from sightline.data.formats.image_files import exists, read_lines

MAX_CLASSES = 100_000
MAX_LETTERS = 200


def checked_names(
    path: Path, names: Iterable[object], *, wanted: Sequence[str] | None = None, lines: Sequence[int | None] = ()
) -> tuple[str, ...]:
    """Class names that can be told apart and printed.

    Args:
        path: Where they come from, for messages.
        names: Texts or numbers.
        wanted: Names that the user gave; they must be the same.
        lines: The line of each name in ``path``, where known.

    Raises:
        FormatError: Names the file, the line and the class.
    """
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        line = lines[number] if number < len(lines) else None
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
            raise FormatError("bad_names", path, f"the name of class {number} must be text, got {name!r}", line=line)
        text = str(name).strip()
        if not text.isprintable() or len(text) > MAX_LETTERS:
            shown = printable(text, limit=60)
            message = f"the name of class {number} has control characters or more than {MAX_LETTERS} letters: {shown}"
            raise FormatError("bad_names", path, message, line=line)
        if text in first:
            message = f"classes {first[text]} and {number} have the same name {text!r}"
            raise FormatError("bad_names", path, message, line=line)
        first[text] = number
    if not 0 < len(first) <= MAX_CLASSES:
        raise FormatError("bad_names", path, f"there are {len(first):,} class names")
    result = tuple(first)
    if wanted is not None and tuple(wanted) != result:
        message = f"its classes are {listed(result)}, but asked for were {listed(wanted)}"
        raise FormatError("bad_names", path, message)
    return result


def read_classes_file(folders: Iterable[Path]) -> tuple[str, ...] | None:
    """Names, one per line, from the first ``classes.txt`` in these folders; None if there is none."""
    for folder in folders:
        path = folder / "classes.txt"
        if exists(path):
            lines = read_lines(path, "list of classes")
            return checked_names(path, [name for _, name in lines], lines=[line for line, _ in lines])
    return None


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(printable(name, limit=30) for name in names[:5]) + (", ..." if len(names) > 5 else "")
