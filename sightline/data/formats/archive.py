"""Files read straight out of compressed ones, up to a size; nothing is unpacked to the disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, cure_of, read_regular_file
from sightline.data.faults import FormatError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")
MAX_BYTES = 1 << 30
"""Of an archive, compressed and unpacked."""
MAX_MEMBERS = 1000


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _TooMuchError(ValueError):
    """An archive that may be sound, but holds more than is read out of one."""


class _Limited(io.RawIOBase):
    """A stream that ends with an error after so many bytes, so that a small file cannot unfold without end."""

    def __init__(self, stream: _Readable, limit: int) -> None:
        self._stream, self._left = stream, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise _TooMuchError(f"unfolds to more than {MAX_BYTES:,} bytes")
        return data


def read_whole(path: Path) -> bytes:
    """The bytes of a file; unpacked where its name ends with ``.gz``.

    Raises:
        FormatError: If it cannot be read, is cut off, or unfolds to more than ``MAX_BYTES``.
    """
    data = _bytes_of(path)
    if not path.name.endswith(".gz"):
        return data
    with _refusing(path):
        return _Limited(gzip.GzipFile(fileobj=io.BytesIO(data)), MAX_BYTES).read()


def archive_names(path: Path) -> set[str]:
    """Last parts of the names of all plain files in a tar archive.

    Raises:
        FormatError: If it cannot be read.
    """
    return {name for name, _, _ in _members(path)}


def read_from_archive(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Plain files of a tar archive by the last parts of their names.

    Raises:
        FormatError: If the archive cannot be read, or one is missing or there twice.
    """
    found: dict[str, bytes] = {}
    for name, archive, member in _members(path):
        if name not in names:
            continue
        if name in found:
            raise FormatError("bad_archive", path, f"holds two files {printable(name)!r}")
        stream = archive.extractfile(member)
        assert stream is not None, "only plain files are asked for"
        found[name] = stream.read()
    missing = [name for name in names if name not in found]
    if missing:
        raise FormatError("not_found", path / missing[0], "the archive has no such file", cure="Download it again.")
    return found


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    data = io.BytesIO(_bytes_of(path))
    plain = path.name.lower().endswith(".tar")
    with _refusing(path):
        stream = _Limited(data if plain else gzip.GzipFile(fileobj=data), MAX_BYTES)
        with tarfile.open(fileobj=stream, mode="r|") as archive:  # forwards only
            for number, member in enumerate(archive):
                if number >= MAX_MEMBERS:
                    raise _TooMuchError(f"has more than {MAX_MEMBERS:,} entries")
                if member.isreg():
                    yield PurePosixPath(member.name).name, archive, member


def _bytes_of(path: Path) -> bytes:
    try:
        return read_regular_file(path, limit=MAX_BYTES)
    except FileReadError as error:
        kind = "not_found" if error.kind == "missing_file" else "unreadable_file"
        raise FormatError(kind, path, error.message, cure=cure_of(error, path)) from None


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what the unpackers raise into a fault of the file."""
    try:
        yield
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, OverflowError) as error:
        message = f"cannot be unpacked: {printable(error, limit=120) or type(error).__name__}"
        cure = "Unpack it, and name the folder." if isinstance(error, _TooMuchError) else "Download it again."
        raise FormatError("bad_archive", path, message, cure=cure) from None
