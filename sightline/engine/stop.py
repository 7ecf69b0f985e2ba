"""Stops that a person or a scheduler asks for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopRequest:
    """SIGTERM or Ctrl-C asks for a stop after the step; a second Ctrl-C aborts at once.

    A signal only leaves a mark: it may come in the middle of a line being printed, so the user is told when the
    trainer next asks.

    Args:
        say: Tells the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._asked_by: signal.Signals | None = None
        self._say = say
        self._is_said = False

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        if self._asked_by is not None and not self._is_said:
            self._is_said = True
            self._say(f"{self._asked_by.name}: saving and stopping; Ctrl-C again aborts without saving")
        return self._asked_by is not None

    def _on_signal(self, number: int, frame: object) -> None:
        if self._asked_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked_by = signal.Signals(number)

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
