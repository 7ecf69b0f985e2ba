"""What is written down when a run fails: enough to find out why without doing it again.

Every process that fails writes ``crash_RANK.json`` before it leaves the others; whoever comes last has put all of them
together in ``crash.json``, and for people in ``crash.txt``. Step, samples and files are found in the variables of the
functions that were running, so a run that does not fail pays nothing. Mistakes of the user and stops leave no report.

A process that a fatal signal ends leaves its stacks alone (``fatal_stacks.py``); they are part of the report where
another process lives on to write one. A process that is stuck answers no question, but SIGTERM, which a launcher sends
before it kills, makes it write where its main thread is; SIGQUIT makes it print that and go on.
"""

from __future__ import annotations

import faulthandler
import json
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from sightline.config.errors import UserError
from sightline.engine.distributed.processes import LostProcessError, is_lost
from sightline.engine.memory import peak_memory
from sightline.engine.run_folder.fatal_stacks import fatal_end, fatal_stacks, forget_fatal_stacks
from sightline.engine.run_folder.folder import is_run
from sightline.engine.run_folder.metrics_log import METRICS_FILE
from sightline.engine.run_folder.run_record import is_secret, redacted
from sightline.engine.run_folder.secrets import Secrets
from sightline.engine.stop import StoppedAtOnce
from sightline.files.atomic_file import replace_file

if TYPE_CHECKING:
    from sightline.engine.distributed.processes import Share
    from sightline.engine.run_config import RunConfig

CRASH_JSON, CRASH_TEXT = "crash.json", "crash.txt"
STACKS = ".stacks_"
"""Start of the name of a file that holds what a process wrote when SIGTERM reached it."""
LAST_ROWS, MOST_SAMPLES = 5, 256
"""How many rows of metrics.jsonl and samples of the last batch are told."""
PATIENCE_S = 3.0
"""How long a process that lost another one waits for what that one has to say."""
NO_CRASH = (UserError, KeyboardInterrupt, SystemExit, GeneratorExit, StoppedAtOnce)
_KNOWN_PART = re.compile(r"crash_\d+\.json")


@contextmanager
def crash_reported(config: RunConfig, run_dir: Path | None, share: Share) -> Iterator[None]:
    """Write a report about an exception that leaves this block, and name the report in the exception's last line.

    Args:
        config: The run.
        run_dir: Its folder, also for processes that are not the first; None where they do not know it.
        share: Which of the processes this one is.

    Raises:
        LostProcessError: In place of what an exchange with the others raises when one of them is gone.
    """
    try:
        yield
    except NO_CRASH:
        raise
    except BaseException as error:
        lost = _who_is_lost(error, run_dir, share) if share.count > 1 and is_lost(error) else ""
        path = None
        with suppress(Exception):  # what ended the run is to be told, not what its report met
            path = _write(error, config, run_dir, share, lost=lost) if run_dir is not None else None
        note = "" if path is None else f"crash report: {path}"
        if lost:
            raise LostProcessError("; ".join(filter(None, [lost, note]))) from error
        if note:
            error.add_note(note)
        raise


def forget_crash(run_dir: Path) -> None:
    """Take away the report of an earlier session. Called by the holder of the run's lock, before all others begin."""
    for path in [*run_dir.glob("crash_*.json"), *run_dir.glob(f"{STACKS}*"), *_reports(run_dir)]:
        path.unlink(missing_ok=True)
    forget_fatal_stacks(run_dir)


def close_report(run_dir: Path) -> None:
    """Called by a launcher once all processes of a run are gone: put together what they left, and clean up.

    Raises:
        OSError: The report cannot be written.
    """
    collect(run_dir)
    for path in run_dir.glob(f"{STACKS}*"):
        path.unlink(missing_ok=True)
    forget_fatal_stacks(run_dir, empty_only=True)


def collect(run_dir: Path) -> Path | None:
    """Put together what the processes of a run have written.

    Returns:
        ``crash.txt``; None if none of them has written anything.

    Raises:
        OSError: It cannot be written.
    """
    done: set[str] | None = None
    while (names := {path.name for path in run_dir.glob("crash_*.json")}) != done:  # another one may come meanwhile
        done = names
        parts = [part for name in sorted(names) if _KNOWN_PART.fullmatch(name) and (part := _read(run_dir / name))]
        if not parts:
            return None
        _write_reports(run_dir, parts)
    return run_dir / CRASH_TEXT if done else None


def _reports(run_dir: Path) -> tuple[Path, Path]:
    return run_dir / CRASH_JSON, run_dir / CRASH_TEXT


def _read(path: Path) -> dict[str, Any]:
    try:
        part = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return part if isinstance(part, dict) else {}


def _write(error: BaseException, config: RunConfig, run_dir: Path, share: Share, *, lost: str) -> Path | None:
    if not is_run(run_dir):  # nothing is begun yet, or the folder is another machine's
        return None
    part = {"rank": share.rank, "processes": share.count, **_told(error, config, lost=lost)}
    if share.count == 1:
        _write_reports(run_dir, [part])
        return run_dir / CRASH_TEXT
    text = json.dumps(part, indent=1, default=str).encode() + b"\n"
    replace_file(run_dir / f"crash_{share.rank}.json", text, durable=False)
    return collect(run_dir)


def _told(error: BaseException, config: RunConfig, *, lost: str) -> dict[str, Any]:
    """Everything that this process knows about its end, as plain values without secrets."""
    frames = list(_frames_of(error))
    training = next((f.f_locals["training"] for f in frames if hasattr(f.f_locals.get("training"), "step")), None)
    ids, names = _last_samples(frames)
    device = getattr(training, "device", None)
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "host": socket.gethostname(),
        "error": LostProcessError.__name__ if lost else type(error).__name__,
        "message": lost or _clean(str(error)),
        "lost_another": bool(lost),
        "traceback": [_clean(line) for line in traceback.format_exception(error)],
        "step": getattr(training, "step", None),
        "epoch": getattr(training, "epoch", None),
        "iteration": getattr(training, "iteration", None),
        "sample_ids": ids,
        "samples": [_clean(name) for name in names],
        "threads": _threads(),
        "memory": peak_memory(device) if device is not None else {},
        "command": redacted(sys.argv),
        "config": _without_secrets(config.model_dump(mode="json")),
    }


def _frames_of(error: BaseException) -> Iterator[FrameType]:
    """Functions that were running when the error came up, the outermost first; those of its cause follow."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        trace: TracebackType | None = link.__traceback__
        while trace is not None:
            yield trace.tb_frame
            trace = trace.tb_next
        link = link.__cause__ or link.__context__


def _last_samples(frames: Sequence[FrameType]) -> tuple[list[int], list[str]]:
    """Ids of the batch that was last at work, and how its loader calls them, where it says."""
    for place in reversed(range(len(frames))):
        ids = next((found for value in frames[place].f_locals.values() if (found := _ids_of(value))), None)
        if ids is None:
            continue
        loaders = (frame.f_locals.get("loader") for frame in reversed(frames[: place + 1]))
        describe = next((found for loader in loaders if (found := getattr(loader, "describe", None))), None)
        names: list[str] = []
        if describe is not None:
            with suppress(Exception):
                names = [str(describe(i)) for i in ids]
        return ids, names
    return [], []


def _ids_of(value: object) -> list[int] | None:
    """``sample_ids`` of a batch, of what a loader gave, or of a step's report."""
    with suppress(Exception):
        ids = getattr(value, "sample_ids", None) or getattr(getattr(value, "batch", None), "sample_ids", None)
        if ids is not None and len(ids):
            return [int(i) for i in list(ids)[:MOST_SAMPLES]]
    return None


def _threads() -> dict[str, list[str]]:
    """Where every thread of this process is, by its name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        f"{names.get(ident, 'unknown')} ({ident})": [_clean(line) for line in traceback.format_stack(frame)]
        for ident, frame in sys._current_frames().items()
    }


def _clean(text: str) -> str:
    """Without what is held in confidence."""
    return Secrets.of_environment().hidden_in(text)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: "***" if is_secret(key) and item else _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return _clean(value) if isinstance(value, str) else value


def _who_is_lost(error: BaseException, run_dir: Path | None, share: Share) -> str:
    """One line about the process that is gone: in its own words, if it had time for some."""
    deadline = time.monotonic() + PATIENCE_S
    while run_dir is not None:
        for path in sorted(run_dir.glob("crash_*.json")):
            part = _read(path)
            if part and part.get("rank") != share.rank and not part.get("lost_another"):
                reason = str(part["message"]).partition("\n")[0]
                return f"lost process {part['rank']}: it failed with {part['error']}: {reason}"
        for rank, stacks in fatal_stacks(run_dir).items():
            if rank != share.rank:
                return f"lost process {rank}: it was ended by a fatal signal: {fatal_end(stacks)}"
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    others = f"process {1 - share.rank}" if share.count == 2 else f"one of the {share.count - 1} other processes"
    why = _clean(str(error)).partition("\n")[0].partition(". This is ")[0].rpartition(".cc:")[2].partition("] ")[2]
    why = why or type(error).__name__
    return f"lost process: {others} is gone without a word, as if it was killed or had no memory left ({why})"


def _write_reports(run_dir: Path, parts: Sequence[dict[str, Any]]) -> None:
    first = min(parts, key=lambda part: (bool(part.get("lost_another")), part["time"]))
    stacks = {path.name.removeprefix(STACKS): path.read_text() for path in sorted(run_dir.glob(f"{STACKS}*"))}
    shared = ("time", "error", "message", "step", "epoch", "iteration", "sample_ids", "samples", "command", "config")
    own = ("command", "config")
    report = {
        "version": 1,
        **{name: first[name] for name in shared},
        "rank": first["rank"],
        "processes": first["processes"],
        "last_rows": _last_rows(run_dir),
        "ranks": [{name: value for name, value in part.items() if name not in own} for part in parts],
        "stacks_at_sigterm": {rank: text for rank, text in stacks.items() if text},
        "stacks_at_fatal_signal": {str(rank): text for rank, text in fatal_stacks(run_dir).items()},
    }
    json_path, text_path = _reports(run_dir)
    replace_file(json_path, json.dumps(report, indent=1).encode() + b"\n", durable=False)
    replace_file(text_path, _as_text(report).encode("utf-8", "backslashreplace"), durable=False)


def _last_rows(run_dir: Path) -> list[str]:
    try:
        with (run_dir / METRICS_FILE).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 64 * 1024))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[-LAST_ROWS:]


def _as_text(report: Mapping[str, Any]) -> str:
    samples = ", ".join(map(str, report["samples"] or report["sample_ids"])) or "none"
    lines = [
        f"{report['error']}: {report['message']}",
        "",
        f"time     {report['time']}",
        f"process  {report['rank']} of {report['processes']}",
        f"step     {report['step']}, epoch {report['epoch']} (from 0), micro-batch {report['iteration']}",
        f"batch    sample ids {report['sample_ids']}",
        f"samples  {samples}",
        f"command  {' '.join(report['command'])}",
        "",
        "last rows",
        *(f"  {row}" for row in report["last_rows"]),
    ]
    for part in report["ranks"]:
        memory = ", ".join(f"{name} {value}" for name, value in part["memory"].items())
        kind = " (lost another process)" if part["lost_another"] else ""
        lines += ["", f"process {part['rank']} on {part['host']} at step {part['step']}{kind}; memory: {memory}"]
        lines += _indented("".join(part["traceback"]))
        for name, stack in part["threads"].items():
            lines += ["", f"  thread {name}", *_indented("".join(stack), by=4)]
    for rank, text in report["stacks_at_sigterm"].items():
        lines += ["", f"process {rank} when it was told to stop", *_indented(text)]
    for rank, text in report["stacks_at_fatal_signal"].items():
        lines += ["", f"process {rank} when a fatal signal ended it", *_indented(text)]
    lines += ["", "configuration", *_indented(json.dumps(report["config"], indent=1))]
    return "\n".join(lines) + "\n"


def _indented(text: str, *, by: int = 2) -> list[str]:
    return [" " * by + line for line in text.splitlines()]


@contextmanager
def stacks_on_request(run_dir: Path | None, rank: int) -> Iterator[None]:
    """SIGTERM writes the main thread's stack to ``.stacks_RANK`` before anything else; SIGQUIT prints it.

    The file stays behind only when the process does not come to its end. Other threads run on while a signal is
    handled: looking at their stacks from there has brought processes down, so they are left out.

    Args:
        run_dir: The run's folder.
        rank: Of this process.
    """
    can = hasattr(faulthandler, "register") and threading.current_thread() is threading.main_thread()
    if not can or run_dir is None or not run_dir.is_dir():
        yield
        return
    path = run_dir / f"{STACKS}{rank}"
    with path.open("w") as file:
        faulthandler.register(signal.SIGTERM, file, all_threads=False, chain=True)
        with suppress(Exception):  # standard error may be no file
            faulthandler.register(signal.SIGQUIT, sys.stderr, all_threads=False)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGTERM)
            faulthandler.unregister(signal.SIGQUIT)
            path.unlink(missing_ok=True)
