"""Memory that is used again and again, because touching fresh pages costs more than decoding an image."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

Image = np.ndarray[Any, np.dtype[np.uint8]]

_LARGEST_KEPT = 32 << 20


def keep_freed_memory() -> None:
    """Make this process's allocator keep freed memory instead of handing it back to the system.

    The C library of Linux gives every large block fresh pages, until a block of that size has been freed once; from
    then on it keeps blocks up to that size. Decoders allocate a block per image, and the fresh pages of a 640x480
    image cost more than decoding it. So free one block of the largest size that it learns from; none of it is
    touched, so this costs nothing, and it does nothing elsewhere.
    """
    block = np.empty(_LARGEST_KEPT - (1 << 16), np.uint8)
    del block


class Scratch(threading.local):
    """Named buffers of the calling thread. What is in one stays until the same name is asked for again."""

    def __init__(self) -> None:
        self._buffers: dict[str, Image] = {}

    def array(self, name: str, shape: tuple[int, ...]) -> Image:
        """Memory of this shape, uint8, with any content."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = np.empty(size, np.uint8)
        return buffer[:size].reshape(shape)

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()
