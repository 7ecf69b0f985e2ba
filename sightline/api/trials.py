"""Trials of a search: ordinary runs in folders and processes of their own, begun, gone on with, stopped and judged."""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import Field

from sightline.api.search_plan import settings
from sightline.api.session import StoppedError
from sightline.api.training import PARENT, lacks_its_report
from sightline.config.base import Config
from sightline.config.errors import ConfigError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from sightline.engine.checkpoint.retention import BestBy
    from sightline.engine.stop import StopRequest

NOT_OF_ITS_VALUES = ("CallbackError", "LostProcessError", "MemoryError")
"""Failures that say nothing about the values of a trial; errors of the system are others."""
LOOK_SECONDS = 0.05
"""Between two looks at what trials do."""
ORPHANS = ".trials"
"""File in a search's folder that all of its trials hold locked as long as they live."""


class SearchError(RuntimeError):
    """A search cannot go on, for a reason that lies outside of what it tries."""


class TrialResult(Config):
    """What became of one trial: a line of ``trials.jsonl``."""

    trial: int
    """Counted from 0."""
    parent: int | None
    """The trial that it is a changed copy of; None for one that was drawn anew."""
    values: dict[str, Any]
    """What was tried, by key."""
    figure: float | None = None
    """The best that its evaluations gave; None for a trial that failed."""
    step: int = 0
    """Of that evaluation, in optimizer steps."""
    figures: dict[str, float] = Field(default_factory=dict)
    """All figures of that evaluation."""
    failure: str = ""
    """Why it failed."""


def trial_name(trial: int) -> str:
    """``trial_0007``: its folder, and its change file with ``.yaml`` behind."""
    return f"trial_{trial:04d}"


def spawn(arguments: list[str], errors: IO[bytes], lock: int | None) -> subprocess.Popen[bytes]:
    """Start ``sightline`` as a process that stops when this one is gone.

    Args:
        arguments: Of the command line.
        errors: Where its error stream goes.
        lock: An open file that it holds too.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "sightline.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={**os.environ, PARENT: str(os.getpid())},
        pass_fds=() if lock is None else (lock,),
    )


class Trial:
    """One trial that is being run.

    Args:
        folder: Of the search.
        trial: Its number; its change file is written.
        lock: See ``spawn``.
    """

    def __init__(self, folder: Path, trial: int, lock: int | None) -> None:
        self.number = trial
        self.run_dir = folder / trial_name(trial)
        self._lock = lock
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._begin()

    def _begin(self) -> None:
        from sightline.engine.run_folder.folder import is_run

        self._from_step = self._step()
        file = self.run_dir.with_suffix(".yaml")
        run = str(self.run_dir)
        arguments = ["resume", run] if is_run(self.run_dir) else ["train", str(file), "--out", run]
        self._process = spawn(arguments, self._errors, self._lock)

    def _step(self) -> int:
        from sightline.engine.run_folder.status import read_status

        status = read_status(self.run_dir)
        return -1 if status is None else status.step

    def exit_code(self) -> int | None:
        """None while it runs; negative after a signal that nobody here has sent."""
        return self._process.poll()

    def go_on(self) -> bool:
        """Go on with a trial that was killed. False if it got no further than the time before."""
        if self._step() <= self._from_step:
            return False
        self._begin()
        return True

    def stop(self) -> None:
        """Ask it to save and stop."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as it stands."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def said(self) -> str:
        """Its last words on the error stream, without ``error: ``."""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return text.rpartition("error: ")[2]

    def close(self) -> None:
        """Forget its words."""
        self._errors.close()


def is_judged(run_dir: Path) -> bool:
    """Whether a trial was done in an earlier session of the search, and nothing of it is missing."""
    from sightline.engine.run_folder.folder import is_run
    from sightline.engine.run_folder.run_record import read_record

    return is_run(run_dir) and read_record(run_dir).is_done and not lacks_its_report(run_dir)


def result_of_done(run_dir: Path, by: BestBy, about: Mapping[str, Any]) -> TrialResult:
    """The result of a trial that is done, as its folder tells it.

    Args:
        run_dir: The trial's folder.
        by: Which figure decides.
        about: ``trial``, ``parent`` and ``values``.
    """
    from sightline.engine.checkpoint.retention import Saved, figure_of, ranked
    from sightline.engine.run_folder.metrics_log import METRICS_FILE, read_rows

    rows = [row for row in read_rows(run_dir / METRICS_FILE) if row.kind == "eval"]
    best = ranked([Saved(row.step, row.epoch, metrics=row.values) for row in rows], by)
    if not best:
        why = "no evaluation gave a figure that is a number" if rows else "it ended without an evaluation"
        return TrialResult(**about, failure=why)
    figure = figure_of(by, best[0].metrics, what="best trial")[1]
    return TrialResult(**about, figure=figure, step=best[0].step, figures=dict(best[0].metrics))


def result_of_failed(trial: Trial, code: int, about: Mapping[str, Any]) -> TrialResult:
    """The result of a trial that failed by itself.

    Raises:
        ConfigError: If it was refused: its run can never begin, or go on.
        SearchError: If its values need not be at fault.
    """
    name = printable(trial.run_dir)
    if code == 2:
        cure = "" if trial.number == 0 else "\n  If its values are at fault, begin a search of other ranges: --out DIR"
        raise ConfigError(f"trial {trial.number} ({settings(about['values'])}) is refused: {trial.said()}{cure}")
    error, message = _crash(trial.run_dir)
    if code < 0:
        message = f"it was killed by {signal.Signals(-code).name} before it had got any further"
    elif error and not _is_of_the_system(error):
        return TrialResult(**about, failure=f"{error}: {message}")
    raise SearchError(
        f"trial {trial.number} failed, and not by its values: {message or trial.said()}\n"
        f"  When that is mended, the same command goes on with it. Its folder: {name}"
    )


def _crash(run_dir: Path) -> tuple[str, str]:
    """Name and message of what ended a run, or empty texts."""
    import json

    from sightline.engine.run_folder.crash_report import CRASH_JSON

    try:
        crash = json.loads((run_dir / CRASH_JSON).read_bytes())
        return str(crash["error"]), str(crash["message"]).partition("\n")[0]
    except (OSError, ValueError, KeyError):
        return "", ""


def _is_of_the_system(error: str) -> bool:
    kind = getattr(builtins, error, None)
    return error in NOT_OF_ITS_VALUES or (isinstance(kind, type) and issubclass(kind, OSError))


@contextlib.contextmanager
def trials_gone(folder: Path, stop: StopRequest) -> Iterator[int | None]:
    """Wait until trials of a session that was killed have saved and ended.

    The system knows who lives: every trial holds the open file that is given here.

    Yields:
        The open file, for ``spawn``; None on Windows, where nothing is waited for.

    Raises:
        StoppedError: If a stop was asked for meanwhile.
        OSError: If nothing can be written there.
    """
    if os.name == "nt":
        yield None
        return
    import fcntl

    with (folder / ORPHANS).open("ab") as file:
        is_told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_told:
                    stop.say("trials of an earlier session still save; waiting for them")
                is_told = True
            if stop():
                raise StoppedError("stopped before a trial was begun. The same command goes on.")
            time.sleep(LOOK_SECONDS)
        yield file.fileno()
