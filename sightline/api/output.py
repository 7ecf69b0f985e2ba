"""Files that a user names for results: looked at before the work, written after it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightline.config.errors import RunError
from sightline.config.printable import printable


def check_output(path: str | os.PathLike[str] | None, *, suffix: str | None = None) -> None:
    """See early whether a file can be written, so that no work is lost at the end. Makes nothing.

    Args:
        path: The file; None for none.
        suffix: What its name must end with.

    Raises:
        RunError: If it is a folder, or lies in something that is none or may not be written to.
    """
    if path is None:
        return
    path = Path(path).expanduser()
    if suffix is not None and path.suffix.lower() != suffix:
        raise RunError(f"{printable(path)}: the name must end with {suffix}, since that is what is written.")
    if path.is_dir():
        raise RunError(f"{printable(path)}: is a folder. Name a file in it, such as {printable(path / 'result')}.")
    check_output_folder(path.parent)


def check_output_folder(path: Path) -> None:
    """As ``check_output`` for a folder that is to be made.

    Raises:
        RunError: If the nearest part of the path that exists is no folder or may not be written to.
    """
    there = next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))
    if not there.is_dir():
        raise RunError(
            f"{printable(path)}: cannot be made, since {printable(there)} is no folder. Name another folder."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"{printable(path)}: no permission to write in {printable(there)}. Name another folder.")


def write_output(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file, making its folders; gives its path.

    Raises:
        RunError: If the disk refuses; names the file.
    """
    path = Path(path).expanduser()
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def finite(value: Any) -> Any:
    """None in the place of NaN and infinities, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Refusals of the disk inside become errors that name the file.

    Raises:
        RunError: If the disk refuses.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{printable(path)}: cannot be written ({error.strerror}). Name another place.") from error
