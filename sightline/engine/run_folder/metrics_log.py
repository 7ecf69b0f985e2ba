"""``metrics.jsonl``: the figures of a run, one JSON object per line, and part of its state.

A row is ``{"step": 900, "epoch": 3, "kind": "train", "values": {"loss": 0.31}}``. Rows hold nothing that
differs between two runs with the same seed, so a run that was killed and resumed ends with the same bytes
as one that never was. What does differ (images per second, seconds, memory) goes into ``timing.jsonl``, which
has the same form and makes no such promise.

NaN and infinities are not JSON; they are written as the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``,
and ``read_rows`` turns them back.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sightline.config.errors import RunError
from sightline.engine.run_folder.appended_file import AppendedFile

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"


@dataclass(frozen=True)
class MetricRow:
    """One line: figures by name, the step and epoch after which they were taken, and what kind they are."""

    step: int
    epoch: int
    kind: str
    values: dict[str, float]


class MetricsLog:
    """Appends rows; each is in the kernel's hands when ``append`` returns, so a kill loses none.

    A half line that a kill left at the end is cut off on opening.

    Args:
        path: The file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = AppendedFile(path)
        whole = _whole_lines(path)
        if whole < self._file.length:
            self._file.cut_back(whole)

    @property
    def length(self) -> int:
        """Bytes written so far. A checkpoint stores it, and ``cut_back_to_length`` returns to it."""
        return self._file.length

    def append(self, *, step: int, epoch: int, kind: str, values: Mapping[str, float]) -> None:
        """Add a row.

        Args:
            step: Optimizer steps taken.
            epoch: Complete passes over the data.
            kind: What the figures are, e.g. ``"train"`` or ``"evaluate"``.
            values: Plain numbers by name; NaN and infinity are allowed.

        Raises:
            OSError: The disk refused, names the file; no part of the row stays behind.
        """
        row = {"step": step, "epoch": epoch, "kind": kind, "values": {k: _to_json(v) for k, v in values.items()}}
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def cut_back_to_length(path: Path, length: int) -> int:
    """Cut a log back to the length that a checkpoint recorded.

    Args:
        path: The log. It may be missing if ``length`` is 0.
        length: ``MetricsLog.length`` when the checkpoint was taken.

    Returns:
        Bytes cut off.

    Raises:
        RunError: The log is shorter than that, or no line ends there: it is not the log of that run.
    """
    size = path.stat().st_size if path.exists() else 0
    if size < length:
        raise RunError(
            f"{path}: has {size} bytes, but the checkpoint was taken when it had {length}. "
            "It was cut or replaced; put the right file back, or resume from an older checkpoint."
        )
    if size == length:
        return 0
    with path.open("r+b") as file:
        if length:
            file.seek(length - 1)
            if file.read(1) != b"\n":
                raise RunError(
                    f"{path}: no line ends at byte {length}, where the checkpoint was taken. "
                    "It was edited; put the right file back, or resume from an older checkpoint."
                )
        file.truncate(length)
        file.flush()
        os.fsync(file.fileno())
    return size - length


def cut_back_to_step(path: Path, step: int) -> int:
    """Drop the rows from the first one after ``step``, and a half line at the end.

    For logs whose length no checkpoint records.

    Returns:
        Bytes cut off.

    Raises:
        RunError: A line is no row.
    """
    if not path.exists():
        return 0
    length = 0
    for line, row in _lines(path):
        if row.step > step:
            break
        length += line
    return cut_back_to_length(path, length)


def read_rows(path: Path, *, length: int | None = None) -> Iterator[MetricRow]:
    """The rows of a log in order. A half line at the end, as a kill leaves it, is no row.

    Args:
        path: The log.
        length: Only the rows within so many bytes; all of them without.

    Raises:
        RunError: A line is no row; names file and line.
    """
    read = 0
    for size, row in _lines(path):
        read += size
        if length is not None and read > length:
            return
        yield row


def _lines(path: Path) -> Iterator[tuple[int, MetricRow]]:
    """Length in bytes and row of every whole line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = _row(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise RunError(f"{path}:{number}: no metric row ({error}): {line[:80]!r}.") from error
            yield len(line), row


def _row(fields: Any) -> MetricRow:
    step, epoch, kind, values = fields["step"], fields["epoch"], fields["kind"], fields["values"]
    if not (type(step) is int and type(epoch) is int and isinstance(kind, str) and isinstance(values, dict)):
        raise TypeError("step and epoch are whole numbers, kind is a text, values is an object")
    return MetricRow(step, epoch, kind, {name: float(value) for name, value in values.items()})


def _to_json(value: float) -> float | str:
    number = value if type(value) is int else float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line, looking from the end."""
    block = 1 << 16
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - block)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            position = start
    return 0
