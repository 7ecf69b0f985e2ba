"""A file that only grows by whole pieces."""

from __future__ import annotations

from pathlib import Path

from sightline.files.atomic_file import naming


class AppendedFile:
    """Appends; each piece is in the kernel's hands when ``write`` returns, and none stays behind in part.

    Args:
        path: The file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self.length = self._file.tell()
        """Bytes it has."""

    def write(self, piece: bytes) -> None:
        """Add a piece.

        Raises:
            OSError: The disk refused, names the file.
        """
        try:
            with naming(self.path):
                written = 0
                while written < len(piece):
                    written += self._file.write(piece[written:])
        except OSError:
            self.cut_back(self.length)
            raise
        self.length += len(piece)

    def cut_back(self, length: int) -> None:
        """Leave the first ``length`` bytes."""
        self._file.truncate(length)
        self.length = length

    def flush(self) -> None:
        """Nothing waits here; for writers that ask."""

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._file.close()
