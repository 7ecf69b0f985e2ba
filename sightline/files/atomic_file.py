"""Files and folders that are either the old ones or the new ones, never half of each."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

WRITING = ".writing-"
"""Start of the name of everything that is still being written; what a killed process leaves is known by it."""


def replace_file(path: Path, data: bytes | Iterable[bytes | memoryview], *, durable: bool = True) -> None:
    """Put ``data`` at ``path`` in one stroke: readers see the old content or the new one.

    Args:
        path: The file; its folder exists.
        data: All of its new content, in one piece or in several.
        durable: Wait until the disk has it, so that it outlives a power cut too. Without, it outlives a kill.

    Raises:
        OSError: It cannot be written, names it; the old file is untouched.
    """
    temporary = path.parent / f"{WRITING}{os.getpid()}-{path.name}"
    try:
        with naming(path):
            with temporary.open("wb") as file:
                for part in (data,) if isinstance(data, bytes) else data:
                    file.write(part)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_path(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An ``OSError`` inside names this file: a full disk says nothing of its own accord."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def fsync_path(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder.

    Raises:
        OSError: The disk refused.
    """
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders; its renames are written through
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
