"""A table of texts: the same rows for a terminal, a pipe and a test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d*(e[-+]?\d+)?(%|/[\d,?]+)?")


@dataclass(frozen=True)
class Table:
    """Rows under a head. ``str`` gives them in columns, without any control character."""

    columns: tuple[str, ...]
    """Words of the head; a table without words has no head."""
    rows: Sequence[tuple[str, ...]]
    title: str = ""

    def is_number(self, column: int) -> bool:
        """Whether every cell of a column is a number or ``-``; such columns stand on the right."""
        return bool(self.rows) and all(_NUMBER.fullmatch(row[column]) for row in self.rows)

    def __str__(self) -> str:
        """The title, the head and the rows, one a line."""
        lines = [*([self.columns] if any(self.columns) else []), *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        numbers = [self.is_number(column) for column in range(len(self.columns))]
        text = [
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(line, widths, numbers, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*([self.title] if self.title else []), *text])
