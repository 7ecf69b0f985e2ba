"""Reading a file that a stranger wrote: regular files only, up to a size, and every failure has a name."""

import os
import stat
from itertools import islice
from pathlib import Path

from sightline.config.errors import did_you_mean
from sightline.config.printable import printable

MOST_NEIGHBOURS = 1000
"""Files of a folder that are looked at for a hint."""

# A named pipe would block open() for ever; O_NONBLOCK lets us open it and look at what it is.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class FileReadError(Exception):
    """A file cannot be read. Callers turn it into an error of their own with the file's part in the work."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """``missing_file``, ``not_a_file``, ``unreadable_file`` or ``file_too_big``."""
        self.message = message


def open_regular_file(path: Path | str) -> tuple[int, int]:
    """Open a regular file for reading.

    Returns:
        The descriptor, which the caller closes, and the size in bytes.

    Raises:
        FileReadError: If it is missing, a folder, a pipe or a device, or may not be read.
    """
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except FileNotFoundError:
        raise FileReadError("missing_file", "the file does not exist") from None
    except NotADirectoryError:
        raise FileReadError("missing_file", "the file does not exist (a part of its path is no folder)") from None
    except PermissionError:
        raise FileReadError("unreadable_file", "no permission to read it") from None
    except OSError as error:
        raise FileReadError("unreadable_file", f"cannot be opened: {error.strerror or error}") from None
    except ValueError as error:  # a null byte, or text that no file name can hold
        raise FileReadError("missing_file", f"no file can have this name ({error})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise FileReadError("not_a_file", f"is {what}, not a file")
    return descriptor, status.st_size


def read_exactly(descriptor: int, count: int) -> bytes:
    """Up to ``count`` bytes from where the descriptor stands; fewer only at the end of the file.

    Raises:
        FileReadError: If the disk refuses.
    """
    parts = []
    try:
        while count > 0 and (part := os.read(descriptor, min(count, 1 << 30))):
            parts.append(part)
            count -= len(part)
    except OSError as error:
        raise FileReadError("unreadable_file", f"cannot be read: {error.strerror or error}") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_regular_file(path: Path | str, *, limit: int) -> bytes:
    """The whole content of a regular file.

    Args:
        path: The file.
        limit: Largest size to accept, in bytes.

    Raises:
        FileReadError: As ``open_regular_file``; or the file is larger than ``limit``.
    """
    descriptor, size = open_regular_file(path)
    try:
        if size > limit:
            raise FileReadError("file_too_big", f"has {size:,} bytes; at most {limit:,} are read")
        return read_exactly(descriptor, size)
    finally:
        os.close(descriptor)


def cure_of(error: FileReadError, path: Path, *, pattern: str = "*") -> str:
    """What a user may do about a file that cannot be read, as a sentence.

    Args:
        error: Why it cannot.
        path: The file.
        pattern: What files of its kind are called, such as ``*.json``.
    """
    if error.kind == "unreadable_file":
        return "Check its owner, its permissions and the disk."
    if error.kind == "file_too_big":
        return "Give a smaller one."
    if error.kind == "not_a_file":
        inside = [*_some(path, pattern), *_some(path, f"*/{pattern}")]
        return f"Give a file, such as {printable(inside[0])}." if inside else "Give a file."
    near = did_you_mean(path.name, [one.name for one in _some(path.parent, pattern)]).strip()
    return near or "Give the path of a file that exists."


def _some(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(islice((one for one in folder.glob(pattern) if one.is_file()), MOST_NEIGHBOURS))
    except (OSError, ValueError):
        return []
