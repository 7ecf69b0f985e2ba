"""One writer per run folder.

The kernel holds the lock (``.lock``), so it is gone the moment its process is, however that dies; the file
beside it (``.lock.json``) only says who holds it. Both lie in the run folder.
"""

import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from pydantic import ValidationError

from sightline.config.base import Config
from sightline.config.errors import RunError
from sightline.engine.run_folder.process_identity import ProcessIdentity, boot_id
from sightline.engine.run_folder.status import STALE_SECONDS, read_status
from sightline.files.atomic_file import replace_file

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock.json"


class Holder(Config):
    """Who writes a run, and since when."""

    process: ProcessIdentity
    since: float
    """Unix seconds."""

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since).astimezone().isoformat(" ", "seconds")
        return f"process {self.process.pid} on {self.process.host} since {since}"


class RunLock:
    """Held by the one process that writes a run folder; a context manager.

    A forked child (a loader worker, say) does not hold it, so a killed run is free again even while its
    orphans live.

    Args:
        run_dir: The run's folder, which exists.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._lock = FileLock(run_dir / LOCK_FILE)

    def acquire(self) -> Self:
        """Become the writer, for as long as this object lives.

        Raises:
            RunError: Another process is, with its number and machine, or the folder cannot be written.
        """
        if not self.run_dir.is_dir():
            raise RunError(f"{self.run_dir}: no such folder. Give a run's folder.")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = read_holder(self.run_dir)
            raise self._in_use(str(holder) if holder else "another process") from None
        except OSError as error:
            raise RunError(
                f"{self.run_dir}: cannot be locked for writing ({error.strerror}). "
                "Check the folder's owner and permissions, or give another one: --out DIR."
            ) from error
        try:
            self._refuse_living_stranger()
            holder = Holder(process=ProcessIdentity.here(), since=time.time())
            replace_file(self.run_dir / HOLDER_FILE, holder.model_dump_json().encode() + b"\n", durable=False)
        except OSError as error:
            self._lock.release()
            raise RunError(
                f"{self.run_dir}: cannot be written ({error.strerror}). "
                "Check free space and permissions, or give another folder: --out DIR."
            ) from error
        except BaseException:
            self._lock.release()
            raise
        return self

    def release(self) -> None:
        """Give the folder back. Safe to call twice."""
        if self._lock.is_locked:
            (self.run_dir / HOLDER_FILE).unlink(missing_ok=True)
            self._lock.release()

    def _refuse_living_stranger(self) -> None:
        """See whether the holder that never gave the lock back works on another machine.

        The kernel's lock tells the truth on this machine. A shared folder may be written from another
        machine whose locks are not seen here, so there a fresh heartbeat counts as a living holder.

        Raises:
            RunError: It seems to be alive.
        """
        holder = read_holder(self.run_dir)
        if holder is not None and holder.process.boot != boot_id():
            status = read_status(self.run_dir)
            if (
                status is not None
                and status.process.pid == holder.process.pid
                and status.is_alive()
                and time.time() - status.updated < STALE_SECONDS
            ):
                raise self._in_use(f"{holder} (if it was killed, try again in {STALE_SECONDS:.0f} seconds)")

    def _in_use(self, holder: str) -> RunError:
        return RunError(
            f"{self.run_dir}: is being written by {holder}. "
            "Wait for it, stop it, or train into another folder: --out DIR."
        )

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def read_holder(run_dir: Path) -> Holder | None:
    """Who holds, or last held, the lock of a run; None where nobody does or the file is broken."""
    try:
        return Holder.model_validate_json((run_dir / HOLDER_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
