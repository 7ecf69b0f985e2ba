"""Rows of the logger as TensorBoard events. TensorBoard is imported when the first row is written.

Every row is in the kernel's hands when ``write`` returns, so a kill loses none. The events are for people to look
at, nothing is read back from them: a disk that refuses them does not stop a run.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sightline.engine.log import LogRow

FILE_VERSION = "brain.Event:2"
"""What every events file begins with."""
_log = logging.getLogger(__name__)


class TensorBoardSink:
    """Writes ``events.*`` into the run's folder: ``train/loss/box``, ``lr/decay``, ``metrics/AP`` and so on.

    Args:
        run_dir: The run's folder.
        purge_step: After a resume: TensorBoard forgets what was written from this step on.
    """

    def __init__(self, run_dir: Path, *, purge_step: int | None = None) -> None:
        self.run_dir = run_dir
        self.purge_step = purge_step
        self._records: Any = None
        self._is_refused = False

    def write(self, row: LogRow) -> None:
        """Add all figures of a row at its step."""
        if self._is_refused:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=tag_of(row.kind, name), simple_value=value)
            for name, value in {**row.values, **row.timing}.items()
        ]
        try:
            if self._records is None:
                self._begin()
            self._put(Event(step=row.step, summary=Summary(value=values)))
        except OSError as error:
            self._is_refused = True
            _log.warning("%s: no more TensorBoard events are written: %s", self.run_dir, error.strerror)

    def _begin(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Readers take files by name: two sessions in one second must not change places, or one hides rows of the other.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.0"
        self._records = RecordWriter((self.run_dir / name).open("ab", buffering=0))
        self._put(Event(file_version=FILE_VERSION))
        if self.purge_step is not None:
            self._put(Event(step=self.purge_step, session_log=SessionLog(status=SessionLog.START)))

    def _put(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._records is not None:
            self._records.close()


def tag_of(kind: str, name: str) -> str:
    """``train/loss/box``, ``lr/decay``, ``metrics/AP``: the names that users of other trainers know."""
    if kind == "eval":
        return f"metrics/{name}"
    return name if name.startswith("lr/") else f"train/{name}"
