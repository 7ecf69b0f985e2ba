"""Stops that a person, a clock or a scheduler asks for."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOP_FILE = "stop"
"""``touch RUN/stop`` asks a running training to save and stop after one of its next steps."""
LOOK_SECONDS = 0.5
"""Least time between two looks for a request: every look asks the file system, which may be far away."""
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has two of them
)
"""What a person (Ctrl-C), a closed terminal and schedulers send: SLURM sends the one that was asked for."""
TWICE_SECONDS = 2.0
"""A launcher passes a Ctrl-C on that its processes got from the terminal as well: within this time they are one."""
FAREWELL_SHARE, FAREWELL_SECONDS = 0.1, 5.0
"""Of a time limit, what is left for what follows the last checkpoint: the report, and the process's end."""
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class StoppedAtOnce(BaseException):
    """A stop was asked for while there was nothing to save: before a run, or after its last checkpoint."""


def seconds_of(duration: str) -> float:
    """``"90s"``, ``"10m"``, ``"2h"``, ``"1d"`` and sums such as ``"1h30m"`` in seconds.

    Raises:
        ValueError: If it is no duration, or none at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"no duration {duration!r}; give a number and its unit: 90s, 10m, 2h, 1d or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError(f"{duration!r} leaves no time; give a number and its unit: 90s, 10m, 2h or 1d")
    return seconds


class StopRequest:
    """Whether this process is asked to stop after the step: by a signal, a file, a clock, or its launcher's end.

    A signal only leaves a mark: it may come in the middle of a line being printed, so the user is told when the
    trainer next asks. A Ctrl-C after any request aborts at once. Where ``at_once`` is set there is nothing to save,
    and the first signal raises ``StoppedAtOnce``.

    Args:
        say: Tells the user.
        began: When the session began, as ``clock`` counts.
        clock: Seconds that never jump, equal in all processes of a machine; tests pass their own.
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda text: None,
        *,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.say = say
        self.at_once = False
        self.reason = ""
        """Who or what asked, for people; empty as long as nobody has."""
        self.save_seconds: Callable[[], float] = lambda: 0.0
        """How long the last checkpoint will take, as far as one can know."""
        self._clock = clock
        self.began = clock() if began is None else began
        """When the session began, as ``clock`` counts."""
        self._is_said = False
        self._asked_at = 0.0
        self._next_look = clock()
        self._file: Path | None = None
        self._parent: int | None = None
        self._limit: str | None = None
        self._ends_at = 0.0
        self._rounds = 1
        self._last: float | None = None
        self._pace = 0.0

    def __call__(self) -> bool:
        """Whether a stop was asked for. To be asked after every step, and every batch of an evaluation."""
        if not self.reason:
            self._look()
        if self.reason and not self._is_said:
            self._is_said = True
            again = "Ctrl-C again" if self.reason == "SIGINT" else "Ctrl-C"
            self.say(f"{self.reason}: saving and stopping; {again} aborts without saving")
        return bool(self.reason)

    def limit(self, duration: str | None, *, rounds: int = 1) -> None:
        """Stop so early that the next step and its checkpoint still fit into a time, counted from ``began``.

        Args:
            duration: See ``seconds_of``; None for no limit.
            rounds: How many steps may follow an answer; with several processes two.
        """
        self._limit, self._rounds = duration, rounds
        if duration is not None:
            seconds = seconds_of(duration)
            self._ends_at = self.began + seconds - min(FAREWELL_SECONDS, FAREWELL_SHARE * seconds)

    def watch_file(self, run_dir: Path) -> None:
        """Look for ``STOP_FILE`` in a run's folder, and take it away when it is there.

        One that was left before the session began was meant for an earlier one: it is taken away now.
        """
        self._file = run_dir / STOP_FILE
        began = time.time() - (self._clock() - self.began)
        with contextlib.suppress(OSError):
            if self._file.stat().st_mtime < began:
                self._file.unlink()
                self.say(f"{self._file} was left from an earlier session and is taken away")

    def watch_parent(self, parent: int | None = None) -> None:
        """Stop when the process that started this one is gone.

        Args:
            parent: Its number, where it may be gone already; the present parent without it.
        """
        self._parent = os.getppid() if parent is None else parent

    def ask(self, reason: str) -> None:
        """Ask for a stop.

        Args:
            reason: Who or what asks, for people.
        """
        self.reason = self.reason or reason

    def _look(self) -> None:
        now = self._clock()
        if self._limit is not None:
            if self._last is not None:
                self._pace = max(now - self._last, 0.9 * self._pace)
            self._last = now
            if now + self._rounds * self._pace + self.save_seconds() >= self._ends_at:
                self.ask(f"max_time={self._limit} is nearly over")
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        if self._file is not None and self._file.exists():
            self._file.unlink(missing_ok=True)
            self.ask(str(self._file))
        if self._parent is not None and os.getppid() != self._parent:
            self.ask("the launcher is gone")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            _let_go_of_the_terminal()
        if self.at_once:
            self.at_once = False  # what cleans up now is not to be disturbed
            self.reason = signal.Signals(number).name
            raise StoppedAtOnce(self.reason)
        if self.reason and number == signal.SIGINT:
            if self._parent is not None and self._clock() - self._asked_at < TWICE_SECONDS:
                return
            raise KeyboardInterrupt
        if not self.reason:
            self.ask(signal.Signals(number).name)
            self._asked_at = self._clock()

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Within this block a signal waits until the trainer asks; after an error it waits too, which is to be told."""
        before, self.at_once = self.at_once, False
        yield
        self.at_once = before

    @contextmanager
    def impatiently(self) -> Iterator[None]:
        """Within this block there is nothing to save: a signal ends it at once with ``StoppedAtOnce``."""
        before, self.at_once = self.at_once, True
        try:
            yield
        finally:
            self.at_once = before

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside; give them back after. Only the main thread can.

        After ``nohup`` a closed terminal stays ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ignored = [getattr(signal, "SIGHUP", None)] if _is_under_nohup() else []
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS if number not in ignored}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_under_nohup() -> bool:
    return hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


_is_terminal = tuple(os.isatty(number) for number in (1, 2))
"""Whether output went to a terminal when the program began: once it is closed, nobody can tell."""


def _let_go_of_the_terminal() -> None:
    """Send output nowhere whose terminal was closed: writing to it would fail."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if _is_terminal[number - 1]:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
            with contextlib.suppress(Exception):
                stream.flush()
