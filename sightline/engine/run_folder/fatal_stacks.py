"""What is left of a process that a fatal signal ends: SIGSEGV, SIGABRT, SIGBUS, SIGFPE or SIGILL.

Such a signal comes from code in C or CUDA that crashed, and no line of Python runs afterwards. So the file for the
stacks is open while a session lasts, and Python's ``faulthandler`` writes into it on the way down. The process is lost
in any case, so the stacks of its other threads are written too. A session that comes to its end takes the file away.
"""

from __future__ import annotations

import faulthandler
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FATAL = ".fatal_"
"""Start of the name of the file; the number of the process follows."""
MOST_CHARACTERS = 100_000
"""Of a file that are looked at."""

_WHY = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_WHERE = re.compile(r'^Current thread .*\n +File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


@contextmanager
def stacks_if_it_dies(run_dir: Path | None, rank: int) -> Iterator[None]:
    """A fatal signal writes all Python stacks to ``.fatal_RANK``. Nothing is read from other handlers of signals.

    A ``faulthandler`` that was on before prints to standard error again afterwards.

    Args:
        run_dir: The run's folder; where it is not on this machine, nothing is written.
        rank: Of this process.
    """
    if run_dir is None or not run_dir.is_dir():
        yield
        return
    path, was_enabled = run_dir / f"{FATAL}{rank}", faulthandler.is_enabled()
    with path.open("w") as file:
        faulthandler.enable(file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.disable()
            if was_enabled and sys.__stderr__ is not None:
                with suppress(Exception):  # standard error may be no file
                    faulthandler.enable(sys.__stderr__, all_threads=True)
            path.unlink(missing_ok=True)


def fatal_stacks(run_dir: Path) -> dict[int, str]:
    """What processes wrote that a fatal signal ended, by their numbers; nothing of those that live or were killed."""
    found = {}
    for path in run_dir.glob(f"{FATAL}*"):
        rank = path.name.removeprefix(FATAL)
        if not (rank.isascii() and rank.isdigit() and path.is_file()):
            continue
        with suppress(OSError), path.open(errors="replace") as file:
            text = file.read(MOST_CHARACTERS).strip()
            if text:
                found[int(rank)] = text
    return dict(sorted(found.items()))


def forget_fatal_stacks(run_dir: Path, *, empty_only: bool = False) -> None:
    """Take the files away.

    Raises:
        OSError: One cannot be removed.
    """
    for path in run_dir.glob(f"{FATAL}*"):
        if not empty_only or not path.lstat().st_size:
            path.unlink(missing_ok=True)


def fatal_end(stacks: str) -> str:
    """One line about such an end: ``Segmentation fault in forward (model.py:12)``."""
    why, where = _WHY.search(stacks), _WHERE.search(stacks)
    said = why[1].strip() if why else "fatal error"
    return f"{said} in {where[3].strip()} ({where[1]}:{where[2]})" if where else said


def how_it_died(run_dir: Path) -> str:
    """Which processes of a run a fatal signal ended, and where, in one line; an empty text where none did."""
    found = fatal_stacks(run_dir)
    if list(found) == [0]:
        return fatal_end(found[0])
    return "; ".join(f"process {rank}: {fatal_end(text)}" for rank, text in found.items())
