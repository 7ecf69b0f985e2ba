"""The pictures of a run, small enough to stand inside one page."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from sightline.config.safe_file import FileReadError, read_regular_file

MAX_BYTES = 64 << 20
MAX_PIXELS = 100_000_000
MAX_PICTURES = 24
"""Of each group; the rest is counted in a note."""
WIDEST = 1600
"""Pixels; wider or higher pictures are made smaller."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class PictureFile:
    """One picture file of a run."""

    path: Path
    caption: str
    is_training: bool
    """A training batch, rather than predictions."""


def find_pictures(folder: Path, notes: list[str]) -> list[PictureFile]:
    """The picture files of a folder in the order of their names, numbers as numbers."""
    if not folder.is_dir():
        return []
    captions = _captions(folder / "captions.json", notes)
    names = sorted((path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES), key=_natural)
    found = [
        PictureFile(folder / name, captions.get(name, Path(name).stem), name.lower().startswith("train"))
        for name in names
    ]
    chosen = []
    for is_training, what in ((False, "predictions"), (True, "training batches")):
        group = [picture for picture in found if picture.is_training == is_training]
        chosen += group[:MAX_PICTURES]
        if len(group) > MAX_PICTURES:
            notes.append(f"pictures: the first {MAX_PICTURES} of {len(group)} pictures of {what} are shown.")
    return chosen


def data_address(picture: PictureFile) -> str:
    """The picture as a ``data:`` address.

    Raises:
        ValueError: If it is no picture that can be read; says why.
    """
    from PIL import Image

    try:
        content = read_regular_file(picture.path, limit=MAX_BYTES)
    except FileReadError as error:
        raise ValueError(error.message) from None
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width} x {height} pixels are too many")
            if max(width, height) > WIDEST:
                smaller = image.convert("RGB")
                smaller.thumbnail((WIDEST, WIDEST))
                buffer = io.BytesIO()
                smaller.save(buffer, "JPEG", quality=88)
                content, kind = buffer.getvalue(), "jpeg"
            else:
                image.verify()
                kind = str(image.format).lower()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is no picture ({error})") from None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png_address(content: bytes) -> str:
    """A drawn plot as a ``data:`` address."""
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _captions(path: Path, notes: list[str]) -> dict[str, str]:
    try:
        content = json.loads(read_regular_file(path, limit=1 << 20))
    except FileReadError:
        return {}
    except (ValueError, RecursionError):
        notes.append(f"pictures/{path.name}: left out, it is no JSON.")
        return {}
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}


def _natural(name: str) -> list[tuple[int, str]]:
    """``batch_10`` comes after ``batch_9``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name.lower())]
