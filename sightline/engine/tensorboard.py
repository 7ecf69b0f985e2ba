"""Rows of the logger as TensorBoard events. TensorBoard is imported when the first row is written."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sightline.engine.log import LogRow

FLUSH_SECONDS = 10.0


class TensorBoardSink:
    """Writes ``events.*`` into the run's folder: ``train/loss/box``, ``lr/decay``, ``metrics/AP`` and so on.

    Args:
        run_dir: The run's folder.
        purge_step: After a resume: TensorBoard forgets what was written from this step on.
    """

    def __init__(self, run_dir: Path, *, purge_step: int | None = None) -> None:
        self.run_dir = run_dir
        self.purge_step = purge_step
        self._writer: Any = None
        self._last_flush = 0.0

    def write(self, row: LogRow) -> None:
        """Add all figures of a row at its step."""
        writer = self._open()
        for name, value in {**row.values, **row.timing}.items():
            writer.add_scalar(tag_of(row.kind, name), value, row.step)
        now = time.monotonic()
        if now - self._last_flush > FLUSH_SECONDS or row.kind == "eval":
            writer.flush()
            self._last_flush = now

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self.run_dir), purge_step=self.purge_step)
        return self._writer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def tag_of(kind: str, name: str) -> str:
    """``train/loss/box``, ``lr/decay``, ``metrics/AP``: the names that users of other trainers know."""
    if kind == "eval":
        return f"metrics/{name}"
    return name if name.startswith("lr/") else f"train/{name}"
