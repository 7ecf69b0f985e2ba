"""Format, size and orientation of an image file from its first bytes, without decoding it.

Knows JPEG (ITU T.81, annex B), PNG (W3C PNG 3), WebP (RFC 9649), BMP and TIFF 6.0. The EXIF orientation (CIPA DC-008,
tag 274) is read from JPEG, WebP and TIFF and from a PNG's ``eXIf`` chunk before its pixels.
A header costs 10 to 20 microseconds, so a data set is looked over before a batch of it is decoded, and a bomb (a small
file that unfolds to gigabytes) is refused by what it says of itself.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.config.errors import DataError
from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, open_regular_file, read_exactly
from sightline.data.annotations import SmallInts

MAX_PIXELS = 100_000_000
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"))
OTHER_IMAGE_SUFFIXES = frozenset((".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".mpo"))
"""Suffixes of images that are not read; a file of this kind beside the others is reported, not overlooked."""

FIRST_BYTES = 4096
MAX_SEGMENTS = 4096
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ORIENTATION_TAG, WIDTH_TAG, HEIGHT_TAG = 274, 256, 257

BytesAt = Callable[[int, int], bytes]
"""``at(offset, count)`` gives up to ``count`` bytes of a file; fewer at its end."""


class ImageError(DataError):
    """An image file cannot be used. ``kind`` is one of the image kinds of ``sightline.data.faults``."""

    def __init__(self, kind: str, path: Path | str, message: str) -> None:
        super().__init__(f"{printable(path)}: {printable(message)}.")
        self.kind = kind
        self.path = Path(path)
        self.message = message


class BrokenHeader(ValueError):  # noqa: N818 - never leaves this module
    """The bytes contradict the format; the text says how."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image file says of itself."""

    format: str
    """``JPEG``, ``PNG``, ``WebP``, ``BMP`` or ``TIFF``."""
    stored_hw: tuple[int, int]
    """Size of the stored pixels."""
    orientation: int = 1
    """EXIF orientation, 1 to 8: how the stored pixels must be turned to be looked at."""
    frame_start: int = 0
    """JPEG: byte offset of the frame header; no thumbnail lies behind it."""
    riff_size: int = 0
    """WebP: size of the file as it says itself."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Size after turning."""
        height, width = self.stored_hw
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(path: Path | str) -> ImageHeader:
    """Header of an image file.

    Raises:
        ImageError: If the file is missing, empty, no image, broken, cut off, or has more than ``MAX_PIXELS`` pixels.
    """
    try:
        descriptor, size = open_regular_file(path)
    except FileReadError as error:
        kind = "missing_image" if error.kind == "missing_file" else "unreadable_image"
        raise ImageError(kind, path, error.message) from None
    try:
        first = read_exactly(descriptor, FIRST_BYTES)

        def at(offset: int, count: int) -> bytes:
            if offset + count <= len(first):
                return first[offset : offset + count]
            if offset >= size:
                return b""
            os.lseek(descriptor, offset, os.SEEK_SET)
            return read_exactly(descriptor, min(count, size - offset))

        return parse_header(at, size, path)
    except FileReadError as error:
        raise ImageError("unreadable_image", path, error.message) from None
    finally:
        os.close(descriptor)


def header_of_bytes(data: bytes, path: Path | str) -> ImageHeader:
    """Header of an image file that is in memory; ``path`` is for messages. Raises as ``read_header``."""
    return parse_header(lambda offset, count: data[offset : offset + count], len(data), path)


def read_sizes(paths: Sequence[str]) -> tuple[SmallInts, list[tuple[int, ImageError]]]:
    """Sizes of many images after EXIF rotation.

    Returns:
        (N, 2) heights and widths, (0, 0) where a header cannot be read; and (index, error) of those.
    """
    sizes_hw = np.zeros((len(paths), 2), dtype=np.int32)
    errors = []
    for index, path in enumerate(paths):
        try:
            sizes_hw[index] = read_header(path).size_hw
        except ImageError as error:
            errors.append((index, error))
    return sizes_hw, errors


def parse_header(at: BytesAt, size: int, path: Path | str) -> ImageHeader:
    """Header from a function that gives the bytes of a file of this size. Raises as ``read_header``."""
    magic = at(0, 16)
    if not magic:
        raise ImageError("empty_image", path, "the file is empty (0 bytes)")
    reader = reader_of(magic)
    if reader is None:
        other = other_format(magic)
        if other:
            raise ImageError("unsupported_image", path, f"is {other}; JPEG, PNG, WebP, BMP and TIFF are read")
        raise ImageError("not_an_image", path, f"is no image: it begins with {magic[:8]!r}")
    try:
        header = reader(at)
    except BrokenHeader as error:
        raise ImageError("broken_image", path, f"broken header: {error}") from None
    height, width = header.stored_hw
    if height <= 0 or width <= 0:
        raise ImageError("broken_image", path, f"broken header: the size is {width}x{height}")
    if height * width > MAX_PIXELS:
        millions = height * width / 1e6
        raise ImageError(
            "too_large_image",
            path,
            f"{width}x{height} are {millions:,.0f} megapixels; at most {MAX_PIXELS / 1e6:.0f} are decoded",
        )
    if is_cut_off(header, at, size):
        raise ImageError("truncated_image", path, f"the {header.format} file is cut off after {size:,} bytes")
    return header


def is_cut_off(header: ImageHeader, at: BytesAt, size: int) -> bool:
    """Whether the end of the file is missing: some decoders fill the missing part with grey and say nothing.

    JPEG and PNG end with a mark, mostly in the last bytes; where something was written behind it, it is searched for.
    (The mark of JPEG cannot occur inside its coded pixels.) WebP tells its size. BMP and TIFF show it when decoded.
    """
    if header.format == "JPEG":
        return at(size - 2, 2) != b"\xff\xd9" and b"\xff\xd9" not in at(header.frame_start, size)
    if header.format == "PNG":
        return at(size - 8, 4) != b"IEND" and b"IEND" not in at(0, size)
    return header.riff_size > size


def reader_of(magic: bytes) -> Callable[[BytesAt], ImageHeader] | None:
    """The reader for a file that begins so."""
    if magic.startswith(b"\xff\xd8\xff"):
        return read_jpeg
    if magic.startswith(b"\x89PNG\r\n\x1a\n"):
        return read_png
    if magic.startswith(b"RIFF") and magic[8:12] == b"WEBP":
        return read_webp
    if magic.startswith(b"BM"):
        return read_bmp
    return read_tiff if magic.startswith((b"II*\0", b"MM\0*")) else None


def other_format(magic: bytes) -> str:
    """Name of a well-known image format that is not read, or an empty text."""
    if magic[4:8] == b"ftyp":
        return {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF"}.get(magic[8:12], "a video or HEIF")
    names = {b"GIF8": "GIF", b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x0a": "JPEG XL", b"II+\0": "BigTIFF", b"%PDF": "PDF"}
    return next((name for start, name in names.items() if magic.startswith(start)), "")


def unpack(layout: str, at: BytesAt, offset: int) -> tuple[int, ...]:
    """Whole numbers at an offset."""
    data = at(offset, struct.calcsize(layout))
    if len(data) < struct.calcsize(layout):
        raise BrokenHeader("the file ends inside it")
    return struct.unpack(layout, data)


def read_jpeg(at: BytesAt) -> ImageHeader:
    """Walk the marker segments up to the frame header."""
    offset, orientation = 2, 1
    for _ in range(MAX_SEGMENTS):
        mark, code = unpack("BB", at, offset)
        if mark != 0xFF:
            raise BrokenHeader(f"no marker at byte {offset}")
        if code == 0xFF:  # a fill byte
            offset += 1
            continue
        if code == 0x01 or 0xD0 <= code <= 0xD8:  # markers without a segment
            offset += 2
            continue
        if code in (0xD9, 0xDA):
            raise BrokenHeader("pixels or end before the size")
        (length,) = unpack(">H", at, offset + 2)
        if length < 2:
            raise BrokenHeader(f"a segment of length {length} at byte {offset}")
        if code in FRAME_MARKERS:
            height, width = unpack(">HH", at, offset + 5)
            return ImageHeader("JPEG", (height, width), orientation, frame_start=offset)
        if code == 0xE1 and orientation == 1 and at(offset + 4, 6) == b"Exif\0\0":
            orientation = exif_orientation(at(offset + 10, length - 8))
        offset += 2 + length
    raise BrokenHeader(f"more than {MAX_SEGMENTS} segments before the size")


def read_png(at: BytesAt) -> ImageHeader:
    """The first chunk tells the size; the following ones up to the pixels may tell the orientation."""
    if at(8, 8) != b"\0\0\0\x0dIHDR":
        raise BrokenHeader("the first chunk is not IHDR")
    width, height = unpack(">II", at, 16)
    offset, orientation = 33, 1
    for _ in range(MAX_SEGMENTS):
        chunk = at(offset, 8)
        if len(chunk) < 8 or chunk[4:] in (b"IDAT", b"IEND"):
            break
        length = int.from_bytes(chunk[:4], "big")
        if chunk[4:] == b"eXIf":
            orientation = exif_orientation(at(offset + 8, min(length, 1 << 16)))
        offset += 12 + length
    return ImageHeader("PNG", (height, width), orientation)


def read_webp(at: BytesAt) -> ImageHeader:
    """Lossy, lossless or extended WebP."""
    riff_size = int.from_bytes(at(4, 4), "little") + 8
    kind = at(12, 4)
    if kind == b"VP8 ":
        if at(23, 3) != b"\x9d\x01\x2a":
            raise BrokenHeader("no start code")
        width, height = unpack("<HH", at, 26)
        return ImageHeader("WebP", (height & 0x3FFF, width & 0x3FFF), riff_size=riff_size)
    if kind == b"VP8L":
        signature, bits = unpack("<BI", at, 20)
        if signature != 0x2F:
            raise BrokenHeader("no signature")
        return ImageHeader("WebP", ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1), riff_size=riff_size)
    if kind != b"VP8X":
        raise BrokenHeader(f"unknown first chunk {kind!r}")
    flags, low_w, high_w, low_h, high_h = unpack("<B3xHBHB", at, 20)
    orientation = webp_orientation(at) if flags & 0x08 else 1
    size_hw = ((high_h << 16 | low_h) + 1, (high_w << 16 | low_w) + 1)
    return ImageHeader("WebP", size_hw, orientation, riff_size=riff_size)


def webp_orientation(at: BytesAt) -> int:
    """Orientation from the EXIF chunk, which stands behind the pixels."""
    offset = 12
    for _ in range(MAX_SEGMENTS):
        chunk = at(offset, 8)
        if len(chunk) < 8:
            return 1
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"EXIF":
            exif = at(offset + 8, min(length, 1 << 16))
            return exif_orientation(exif.removeprefix(b"Exif\0\0"))
        offset += 8 + length + length % 2
    return 1


def read_bmp(at: BytesAt) -> ImageHeader:
    """A bitmap's information header; a negative height means that the top row comes first."""
    (length,) = unpack("<I", at, 14)
    if length == 12:
        width, height = unpack("<HH", at, 18)
    elif length >= 40:
        width, height = unpack("<ii", at, 18)
    else:
        raise BrokenHeader(f"an information header of length {length}")
    return ImageHeader("BMP", (abs(height), width))


def read_tiff(at: BytesAt) -> ImageHeader:
    """Size and orientation from the tags of the first picture."""
    tags = tiff_tags(at)
    if WIDTH_TAG not in tags or HEIGHT_TAG not in tags:
        raise BrokenHeader("no size among the tags")
    orientation = tags.get(ORIENTATION_TAG, 1)
    size_hw = (tags[HEIGHT_TAG], tags[WIDTH_TAG])
    return ImageHeader("TIFF", size_hw, orientation if 1 <= orientation <= 8 else 1)


def exif_orientation(exif: bytes) -> int:
    """Orientation in a block of EXIF data, which is a small TIFF; 1 where it is missing or makes no sense."""
    try:
        value = tiff_tags(lambda offset, count: exif[offset : offset + count]).get(ORIENTATION_TAG, 1)
    except BrokenHeader:
        return 1
    return value if 1 <= value <= 8 else 1


def tiff_tags(at: BytesAt) -> dict[int, int]:
    """Tags of the first directory whose value is one whole number of 16 or 32 bits."""
    order = {b"II": "<", b"MM": ">"}.get(at(0, 2))
    if order is None or unpack(f"{order}H", at, 2) != (42,):
        raise BrokenHeader("not a TIFF structure")
    (offset,) = unpack(f"{order}I", at, 4)
    (count,) = unpack(f"{order}H", at, offset)
    entries = at(offset + 2, 12 * count)
    tags = {}
    for start in range(0, len(entries) - 11, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", entries, start)
        if length == 1 and kind in (3, 4):
            tags[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", entries, start + 8)[0]
    return tags
