"""Which process on which machine: enough to tell later whether it still lives."""

import os
import socket
from functools import cache
from pathlib import Path
from typing import Self

import psutil

from sightline.config.base import Config

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessIdentity(Config):
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    """Process number."""
    host: str
    """Name of the machine or container."""
    boot: str
    """Names the machine's current boot; equal in all containers of a machine."""
    started: float
    """When the process started, Unix seconds."""

    @classmethod
    def here(cls) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(pid=pid, host=socket.gethostname(), boot=boot_id(), started=psutil.Process(pid).create_time())

    def is_alive(self) -> bool | None:
        """Whether it still runs; None where that cannot be told from here (another machine or container)."""
        if self.host != socket.gethostname():
            return None
        if self.boot != boot_id():
            return False
        try:
            process = psutil.Process(self.pid)
            # Clocks are set now and then; a second of difference is still the same process.
            return abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@cache
def boot_id() -> str:
    """A text that changes when the machine starts anew."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"
