"""Unfolding LZF, the compression inside of PCD files.

Format: Lehmann's LibLZF, http://oldhome.schmorp.de/marc/liblzf.html. A byte below 32 is followed by so many bytes plus
one as they are. Any other byte begins a copy of what stands before: its upper 3 bits are the length less 2 (7: the next
byte is added), its lower 5 bits and the byte behind are the distance less 1.
"""

from __future__ import annotations


class LzfError(ValueError):
    """The bytes are no LZF, or do not unfold to the size they should have."""


def lzf_decompress(data: bytes, size: int) -> bytes:
    """The ``size`` bytes that ``data`` unfolds to.

    Raises:
        LzfError: If it ends too early, points before its beginning, or unfolds to another size.
    """
    out = bytearray()
    place, end = 0, len(data)
    try:
        while place < end:
            control = data[place]
            place += 1
            if control < 32:
                out += data[place : place + control + 1]
                place += control + 1
            else:
                length = control >> 5
                if length == 7:
                    length += data[place]
                    place += 1
                length += 2
                distance = ((control & 31) << 8) + data[place] + 1
                place += 1
                first = len(out) - distance
                if first < 0:
                    raise LzfError(f"a copy from {-first} bytes before the beginning")
                if distance >= length:
                    out += out[first : first + length]
                else:  # the copy overlaps what it writes, so its beginning repeats
                    out += (out[first:] * (length // distance + 1))[:length]
            if len(out) > size:
                raise LzfError(f"unfolds to more than {size:,} bytes")
    except IndexError:
        raise LzfError("ends inside of a copy") from None
    if len(out) != size or place != end:
        raise LzfError(f"unfolds to {len(out):,} bytes, expected {size:,}")
    return bytes(out)
