"""Stops that a person or a scheduler asks for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopRequest:
    """SIGTERM or Ctrl-C asks for a stop after the step; a second Ctrl-C aborts at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self.asked

    def _on_signal(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        self._say(f"{signal.Signals(number).name}: saving after this step; Ctrl-C again aborts without saving")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside; give them back after. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
