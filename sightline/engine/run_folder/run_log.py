"""``log.txt`` of a run: everything that its sessions said, with the time, every warning, and why they ended.

All of sightline speaks through Python's ``logging`` under one root logger, ``sightline``: ``sightline.console`` is what
people are told, ``sightline.warnings`` are Python's warnings, and every module that has more to say has a logger of its
own. Handlers of your own can be added to it like to any other.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

from sightline.config.errors import UserError
from sightline.config.printable import printable
from sightline.engine.run_folder.secrets import Secrets

if TYPE_CHECKING:
    from sightline.engine.console import Console

LOG_FILE = "log.txt"
Level = Literal["DEBUG", "INFO", "WARNING"]

ROOT = logging.getLogger("sightline")
WARNINGS = logging.getLogger("sightline.warnings")
CONSOLE = "sightline.console"
_SEEN_ELSEWHERE = (CONSOLE, WARNINGS.name)
"""Loggers whose words somebody has shown already."""


def log_file_name(rank: int) -> str:
    """The first process writes ``log.txt``, the others ``log_RANK.txt``."""
    return LOG_FILE if rank == 0 else f"log_{rank}.txt"


class RunLog:
    """Listens to the root logger while a session lasts, writes its file and shows on the console what that one lacks.

    What is said before the run's folder is known, and locked, waits for ``open``. Each record is written as a whole
    and at once, so a kill loses none. A disk that refuses the file does not stop a run.

    A context: an exception that leaves it is written with its traceback, a mistake of the user without.

    Args:
        console: Shows records at ``level`` and above.
        level: DEBUG writes and shows more, WARNING shows less; the first process's file has INFO in any case.
        rank: Number of the process. Others than the first write warnings alone, and no file without one.
    """

    def __init__(self, console: Console, level: Level = "INFO", *, rank: int = 0) -> None:
        self.rank = rank
        self._level = logging.getLevelNamesMapping()[level]
        console.level = self._level
        least = min(self._level, logging.INFO) if rank == 0 else logging.WARNING
        self._file = _File(least)
        self._shown = _Shown(console, self._level if rank == 0 else logging.CRITICAL)
        self._title = ""
        self._began = time.monotonic()
        self._exit_code: int | None = None
        self._before: tuple[int, bool, Any] = (logging.NOTSET, True, None)

    def __enter__(self) -> Self:
        self._before = (ROOT.level, ROOT.propagate, warnings.showwarning)
        ROOT.setLevel(min(self._level, logging.INFO))
        ROOT.propagate = False  # or a program with a log of its own would print all of it twice
        for handler in (self._file, self._shown):
            ROOT.addHandler(handler)
        warnings.showwarning = self._show_warning
        return self

    def open(self, run_dir: Path, *, title: str = "", about: Sequence[str] = ()) -> None:
        """Write to the run's folder from now on, and what was said before.

        Args:
            run_dir: The folder; of the first process, locked.
            title: Names the session in its first and last line; without one there are no such lines.
            about: What is to be told below the first one.
        """
        self._title = title
        banner = [f"==== {title} begins ====", *about]
        self._file.open(run_dir / log_file_name(self.rank), "\n".join(banner) if title else "")

    def ends_with(self, exit_code: int) -> None:
        """Say how the session ended, unless an exception tells it."""
        self._exit_code = exit_code

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._exit_code = 2 if isinstance(error, UserError) else 1
            ROOT.error("%s", _text_of(error), extra={"only_in_file": True})
        if self._title and self._exit_code is not None:
            took = time.monotonic() - self._began
            word = {0: "done", 3: "stopped"}.get(self._exit_code, "failed")
            word = "aborted" if isinstance(error, KeyboardInterrupt) else word
            self._file.write(
                logging.INFO, f"==== {self._title} ends: {word}, exit code {self._exit_code}, after {took:.1f} s ===="
            )
        level, propagates, show = self._before
        for handler in (self._file, self._shown):
            ROOT.removeHandler(handler)
            handler.close()
        ROOT.setLevel(level)
        ROOT.propagate = propagates
        if warnings.showwarning == self._show_warning:
            warnings.showwarning = show

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """As it would be shown without us, and into the log."""
        self._before[2](message, category, filename, lineno, file, line)
        WARNINGS.warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)


def _text_of(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


class _Shown(logging.Handler):
    """Shows on the console what has not been shown."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.name in _SEEN_ELSEWHERE or getattr(record, "only_in_file", False):
            return
        word = record.levelname.lower()
        self.console.show(f"{word}: {printable_lines(record.getMessage())}")


class _File(logging.Handler):
    """Appends records to a file that is not known from the beginning."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._secrets = Secrets.of_environment()
        self._path: Path | None = None
        self._descriptor: int | None = None
        self._waiting: list[bytes] = []
        self._is_given_up = False

    def open(self, path: Path, banner: str) -> None:
        """Append to ``path`` from the next record on; the banner comes before what has waited."""
        self.acquire()
        try:
            self._path = path
            waiting, self._waiting = self._waiting, []
            lines = [self._line(logging.INFO, banner, time.time())] if banner else []
            for line in [*lines, *waiting]:
                self._append(line)
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        self._append(self._line(record.levelno, text, record.created))

    def write(self, level: int, text: str) -> None:
        """A line of our own; only where there is a file."""
        self.acquire()
        try:
            if self._path is not None:
                self._append(self._line(level, text, time.time()))
        finally:
            self.release()

    def _line(self, level: int, text: str, when: float) -> bytes:
        """Time in UTC, level, text; further lines of a text stand below its first."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
        head = f"{stamp} {logging.getLevelName(level):<7} "
        first, *rest = printable_lines(self._secrets.hidden_in(text)).rstrip("\n").split("\n")
        lines = [f"{head}{first}", *(f"{' ' * len(head)}{line}" for line in rest)]
        return "".join(f"{line.rstrip(' ')}\n" for line in lines).encode("utf-8", "replace")

    def _append(self, line: bytes) -> None:
        if self._path is None:
            self._waiting.append(line)
            return
        if self._is_given_up:
            return
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
                size = os.fstat(self._descriptor).st_size
                if size and os.pread(self._descriptor, 1, size - 1) != b"\n":  # a power cut, or a full disk
                    line = b"\n" + line
            os.write(self._descriptor, line)
        except OSError as error:
            self._is_given_up = True
            if not self._path.parent.is_dir():  # taken back: the run never started
                return
            sys.stderr.write(f"{self._path} cannot be written ({error.strerror}); the run goes on without it.\n")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        super().close()


def printable_lines(text: str) -> str:
    """A text whose control characters are shown and not sent; its lines stay lines, tabs become blanks."""
    if text.isprintable():
        return text
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n"))
