"""Rows as TensorBoard events. TensorBoard is imported in the tracker's thread, with the first row.

The events are for people to look at, nothing is read back from them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.engine.run_folder.appended_file import AppendedFile
from sightline.engine.trackers.tracker import Histogram, TrackedRow

FILE_VERSION = "brain.Event:2"
"""What every events file begins with."""
_RGB = 3


class TensorBoardTracker:
    """Writes ``events.*`` into the run's folder: ``train/loss/box``, ``lr/decay``, ``metrics/AP`` and so on.

    Args:
        run_dir: The run's folder.
        purge_step: After a resume: TensorBoard forgets what was written from this step on.
    """

    def __init__(self, run_dir: Path, *, purge_step: int | None = None) -> None:
        self.run_dir = run_dir
        self.purge_step = purge_step
        self._file: AppendedFile | None = None
        self._records: Any = None

    def open(self) -> None:
        """Nothing yet: to import TensorBoard takes time, and a run's first step comes first."""

    def write(self, rows: Sequence[TrackedRow]) -> None:
        """Add all figures of the rows at their steps.

        Raises:
            OSError: If the disk refuses.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._records is None:
            self._records = self._begun()
        for row in rows:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in row.tagged().items()]
            values += [Summary.Value(tag=name, histo=_histogram(one)) for name, one in row.histograms.items()]
            values += [
                Summary.Value(
                    tag=name,
                    image=Summary.Image(
                        height=one.height, width=one.width, colorspace=_RGB, encoded_image_string=one.jpeg
                    ),
                )
                for name, one in row.pictures.items()
            ]
            event = Event(step=row.step, wall_time=row.time, summary=Summary(value=values))
            self._records.write(event.SerializeToString())

    def _begun(self) -> Any:
        """A new events file with its first records."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Readers take files by name: two sessions in one second must not change places, or one hides rows of the other.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.0"
        self.abandon()
        self._file = AppendedFile(self.run_dir / name)
        records = RecordWriter(self._file)
        first = [Event(wall_time=time.time(), file_version=FILE_VERSION)]
        if self.purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            first.append(Event(wall_time=time.time(), step=self.purge_step, session_log=start))
        for event in first:
            records.write(event.SerializeToString())
        return records

    def close(self, outcome: str) -> None:
        """Close the file."""
        self.abandon()

    def abandon(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _histogram(of: Histogram) -> Any:
    """As TensorBoard has it: every bin by its upper edge."""
    from tensorboard.compat.proto.histogram_pb2 import HistogramProto

    width = (of.high - of.low) / len(of.counts)
    edges = [of.low + width * (place + 1) for place in range(len(of.counts))]
    return HistogramProto(
        min=of.low,
        max=of.high,
        num=sum(of.counts),
        sum=of.total,
        sum_squares=of.squares,
        bucket_limit=edges,
        bucket=of.counts,
    )
