"""A tracker of a foreign package, in a process of its own.

Such packages start threads, wait for networks, hold the interpreter and hang at its exit. In another process none of
that touches a run, and what hangs can be ended. Rows go there as lines of JSON through a pipe; after each comes an
answer. Tokens reach it by the environment alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from sightline.engine.trackers.tracker import TrackedRow, TrackerGoneError

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from sightline.engine.trackers.child import main; main()"
)
"""The child finds what this process finds, whatever lies in the folder where it starts."""


class TrackerApart:
    """Starts the process and feeds it.

    Args:
        name: Which tracker.
        settings: Gives what it is told on opening, plain values.
    """

    def __init__(self, name: Literal["mlflow", "wandb"], settings: Callable[[], Mapping[str, Any]]) -> None:
        self.name = name
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._is_abandoned = False

    def open(self) -> None:
        """Start the process and let it open its tracker.

        Raises:
            TrackerGoneError: If the tracker refused, or the process ended.
            OSError: If no process could be started.
        """
        settings = self._settings()
        self._end_process()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which then ends this process in its turn
        )
        if self._is_abandoned:
            self._end_process()
        try:
            self._ask({"open": self.name, "settings": settings})
        except BaseException:
            self._end_process()
            raise

    def write(self, rows: Sequence[TrackedRow]) -> None:
        """Send rows.

        Raises:
            TrackerGoneError: If the process ended.
            RuntimeError: If the tracker refused them.
        """
        self._ask({"rows": [asdict(row) for row in rows]})

    def close(self, outcome: str) -> None:
        """Let the tracker finish, and its process end.

        Raises:
            TrackerGoneError: If the process had ended.
            RuntimeError: If the tracker refused.
        """
        try:
            self._ask({"end": outcome})
        finally:
            self._end_process()

    def abandon(self) -> None:
        """End the process, whatever it does."""
        self._is_abandoned = True
        process = self._process
        if process is not None:
            _kill(process)

    def _ask(self, request: Mapping[str, Any]) -> None:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None, "open() comes first"
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:  # a broken pipe
            answer = b""
        if not answer:
            self._end_process()
            raise TrackerGoneError("its process ended")
        refusal = json.loads(answer)["error"]
        if refusal is not None:
            raise TrackerGoneError(refusal) if "open" in request else TrackerRefusedError(refusal)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class TrackerRefusedError(RuntimeError):
    """The foreign package raised; the text says what."""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started; nothing where it has ended."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
