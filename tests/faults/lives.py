"""Lives of one training: forked children, so that a new one begins in milliseconds, and their sudden ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import psutil

from tests.forked import forked

PATIENCE_S = 300.0
"""For anything to happen that takes seconds on a machine with nothing else to do."""


class Life:
    """A forked child that does ``work`` in a process group of its own. Its exit code is what ``work`` returns."""

    def __init__(self, work: Callable[[], int], log: Path) -> None:
        self.log = log
        self.ended: int | None = None
        """As ``os.waitpid`` gives it."""
        cv2.setNumThreads(1)  # ends OpenCV's pool of threads, which would not survive the fork
        self.pid = forked(partial(self._be, work))
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(self.pid, self.pid)  # the child does it too: whoever is first

    def _be(self, work: Callable[[], int]) -> int:
        os.setpgid(0, 0)
        out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return work()
        finally:
            sys.stderr.flush()

    def is_alive(self) -> bool:
        if self.ended is None:
            pid, ended = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended = ended
        return self.ended is None

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Wait until something happened; False if the life ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            if not self.is_alive():
                return False
            assert time.monotonic() < deadline, f"nothing happened for {PATIENCE_S} seconds; see {self.log}"
            time.sleep(0.001)
        return True

    def kill(self, *, with_children: bool = True) -> None:
        """SIGKILL for it, and for all that it started."""
        if self.ended is None:
            (os.killpg if with_children else os.kill)(self.pid, signal.SIGKILL)
            _, self.ended = os.waitpid(self.pid, 0)

    def bury(self) -> None:
        """Let nothing of it live on, whatever became of it."""
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.kill()

    def send(self, number: signal.Signals) -> None:
        """A signal for the process itself."""
        os.kill(self.pid, number)

    def exit_code(self) -> int:
        """Wait for its end. The negative signal number if a signal ended it."""
        self.wait_for(lambda: not self.is_alive())
        assert self.ended is not None
        return os.waitstatus_to_exitcode(self.ended)

    def said(self) -> str:
        """Everything that was printed into the log, by earlier lives too."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def children_left(self) -> list[int]:
        """Processes of its group that live."""
        left = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process.pid)
            except (psutil.Error, ProcessLookupError):
                continue
        return left
