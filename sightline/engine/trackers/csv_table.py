"""``metrics.csv``: the rows of ``metrics.jsonl`` as one table, for spreadsheets and data frames.

The columns are ``step``, ``epoch``, ``kind``, and every figure by its name in the order in which they first came;
a figure that a row does not have is an empty cell. A new figure makes a new column, and the file is written anew.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sightline.engine.run_folder.appended_file import AppendedFile
from sightline.engine.run_folder.metrics_log import read_rows
from sightline.engine.trackers.tracker import TrackedRow
from sightline.files.atomic_file import WRITING, naming

CSV_FILE = "metrics.csv"
FIRST_COLUMNS = ("step", "epoch", "kind")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula."""


class CsvTracker:
    """Appends rows to a table. On opening it is made of the log, so that it is cut back when the log is.

    Args:
        path: The table.
        log: ``metrics.jsonl`` of the run.
        log_length: Bytes of it that are rows of before.
    """

    def __init__(self, path: Path, *, log: Path, log_length: int) -> None:
        self.path = path
        self.log, self.log_length = log, log_length
        self._columns: list[str] = []
        self._file: AppendedFile | None = None

    def open(self) -> None:
        """Write the table of the rows of before.

        Raises:
            OSError: If the disk refuses.
            RunError: If a line of the log is no row.
        """
        before: list[tuple[int, int, str, Mapping[str, float]]] = []
        if self.log_length:
            rows = read_rows(self.log, length=self.log_length)
            before = [(row.step, row.epoch, row.kind, row.values) for row in rows]
        self._columns = list(dict.fromkeys(name for *_, values in before for name in values))
        self._replace([self._header(), *(self._line(*row) for row in before)])

    def write(self, rows: Sequence[TrackedRow]) -> None:
        """Add rows, and columns where they bring new figures.

        Raises:
            OSError: If the disk refuses; the table is as before.
        """
        known = set(self._columns)
        new = list(dict.fromkeys(name for row in rows for name in row.values if name not in known))
        if new:
            self._add_columns(new)
        assert self._file is not None, "open() comes first"
        self._file.write(b"".join(self._line(row.step, row.epoch, row.kind, row.values) for row in rows))

    def close(self, outcome: str) -> None:
        """Close the table."""
        self.abandon()

    def abandon(self) -> None:
        """Close the table."""
        if self._file is not None:
            self._file.close()

    def _add_columns(self, names: Sequence[str]) -> None:
        """Write the table anew, every row longer by empty cells."""
        before, self._columns = self._columns, [*self._columns, *names]
        try:
            with self.path.open("rb") as old:
                next(old)
                longer = (line.rstrip(b"\n") + b"," * len(names) + b"\n" for line in old)
                self._replace(itertools.chain([self._header()], longer))
        except OSError:
            self._columns = before
            raise

    def _replace(self, lines: Iterable[bytes]) -> None:
        """Put a whole table in the place of the old one, and go on behind its last line."""
        temporary = self.path.parent / f"{WRITING}{os.getpid()}-{self.path.name}"
        try:
            with naming(self.path):
                with temporary.open("wb") as file:
                    file.writelines(lines)
                temporary.replace(self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.abandon()
        self._file = AppendedFile(self.path)

    def _header(self) -> bytes:
        return _csv_line([*FIRST_COLUMNS, *map(harmless, self._columns)])

    def _line(self, step: int, epoch: int, kind: str, values: Mapping[str, float]) -> bytes:
        figures = (repr(float(values[name])) if name in values else "" for name in self._columns)
        return _csv_line([str(step), str(epoch), harmless(kind), *figures])


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula: an apostrophe comes before what looks like one.

    Numbers need none: ``-0.5`` is a number.
    """
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return f"'{shown}" if text.lstrip(" ").startswith(FORMULA) else shown


def _csv_line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
