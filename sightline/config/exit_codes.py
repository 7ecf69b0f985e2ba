"""Which exit code an error ends a command with, and the few words that a user reads.

0 done, 1 failed, 2 the user must change something, 3 stopped on request with a resumable checkpoint.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from sightline.config.errors import UserError

STOPPED = 3

LATER_SECONDS = 5.0
"""How long a process that is not the first waits with a mistake of the user: the first one mostly tells the same."""


def told(error: BaseException) -> tuple[str, int] | None:
    """Message and exit code of an error that needs no traceback; None for one of ours. Its report is named last."""
    known = _told(error)
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("crash report:")]
    return known and ("\n".join([known[0], *notes]), known[1])


def _told(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}", 1
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: lower batch_size or image_size. {str(error).splitlines()[0]}", 1
    if type(error).__name__ in ("LostProcessError", "CallbackError", "StepTooLargeError", "SearchError"):
        return str(error), 1
    if type(error).__name__ == "StoppedError":
        return str(error), STOPPED
    return None


def leave(error: BaseException, *, must_end: Callable[[], bool] = lambda: False) -> NoReturn:
    """End this process of several with the exit code of an error, saying what it was.

    A mistake of the user is found by all processes; the first one tells of it, and its end ends the others.

    Args:
        error: What happened.
        must_end: Whether this process is being ended.

    Raises:
        SystemExit: Always, but for errors that need their traceback, which go on.
    """
    if isinstance(error, SystemExit):
        raise error
    known = told(error)
    if known is None:
        raise error
    if type(error).__name__ == "CallbackError":  # of a user's own file: shown as Python shows it
        traceback.print_exception(error.__cause__)
    rank = int(os.environ.get("RANK", "0"))
    if rank > 0 and isinstance(error, UserError):
        until = time.monotonic() + LATER_SECONDS
        while time.monotonic() < until and not must_end():
            time.sleep(0.05)
    if rank == 0 or not (known[1] == STOPPED or must_end()):
        say(known[0], rank=rank, is_error=known[1] != STOPPED)
    sys.exit(known[1])


def say(message: str, *, rank: int = 0, is_error: bool = True) -> None:
    """Print an error, or why there is none. Control characters (of file names, say) are shown, not sent."""
    shown = "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in message)
    start = "error: " if rank == 0 else f"error in process {rank}: "
    if not is_error:
        start = ""
    red, plain = ("\x1b[31m", "\x1b[0m") if start and sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{red}{start}{plain}{shown}\n")
    sys.stderr.flush()
