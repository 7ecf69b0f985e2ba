"""Image files to pixels: (H, W, 3) uint8, RGB, turned as EXIF asks, with the same result for every OpenCV release."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.data.image_header import ImageError, header_of_bytes

Pixels = NDArray[np.uint8]

MAX_FILE_BYTES = 1 << 30


def read_image_bytes(path: Path | str) -> bytes:
    """The encoded bytes of an image file.

    Raises:
        ImageError: If it is missing, not a file, unreadable or larger than ``MAX_FILE_BYTES``.
    """
    try:
        return read_regular_file(path, limit=MAX_FILE_BYTES)
    except FileReadError as error:
        kind = "missing_image" if error.kind == "missing_file" else "unreadable_image"
        raise ImageError(kind, path, error.message) from None


def decode_image(path: Path | str, *, out: Pixels | None = None) -> Pixels:
    """Read and decode an image file; arguments, result and errors as ``decode_bytes``."""
    return decode_bytes(read_image_bytes(path), path, out=out)


def decode_bytes(data: bytes, path: Path | str, *, out: Pixels | None = None) -> Pixels:
    """Decode an image.

    Args:
        data: The encoded file.
        path: Where it comes from, for messages.
        out: (H, W, 3) uint8, of the size after turning, to write the pixels to; its rows must be contiguous.

    Returns:
        (H, W, 3) RGB, ``out`` where it was given. Transparency is dropped, 16 bits become 8, grey becomes RGB.

    Raises:
        ImageError: A ``DataError`` with the path: no image, above the limit of pixels (told by its header, before any
            memory is taken), cut off, or refused by the decoder.
        ValueError: If ``out`` has another shape or type.
    """
    header = header_of_bytes(data, path)
    cv2 = quiet_cv2()
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError("broken_image", path, f"the {header.format} decoder refuses it")
    if header.format != "TIFF":  # OpenCV turns TIFF by itself, whatever the flag says
        pixels = turned(pixels, header.orientation)
    height, width = header.size_hw
    if pixels.shape != (height, width, 3):
        raise ImageError(
            "broken_image", path, f"the header says {width}x{height}, the pixels {pixels.shape[1]}x{pixels.shape[0]}"
        )
    if out is not None and (out.shape != pixels.shape or out.dtype != np.uint8):
        raise ValueError(f"out: expected {pixels.shape} uint8, got {out.shape} {out.dtype}.")
    if out is None:
        rgb: Pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return rgb
    written = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=out)
    if not np.shares_memory(written, out):
        np.copyto(out, written)
    return out


def turned(pixels: Any, orientation: int) -> Any:
    """(H, W, 3) stored pixels, turned and mirrored by EXIF orientation 1 to 8; (W, H, 3) for 5 to 8."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


@cache
def quiet_cv2() -> Any:
    """OpenCV, told to leave the reporting of broken images to us."""
    import cv2

    logging = getattr(cv2.utils, "logging", cv2)  # it moved with release 4.11
    logging.setLogLevel(0)
    return cv2
