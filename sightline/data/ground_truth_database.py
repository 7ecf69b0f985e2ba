"""The objects of a split with their points, to be put into other scenes: made once, then mapped into memory.

Letters: E objects, T points of all of them. Yan et al., "SECOND: sparsely embedded convolutional detection", Sensors
2018, section 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.data.annotations import Floats, Ints, SmallInts

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class GroundTruthDatabase:
    """Objects cut out of their frames, in flat arrays that nobody may write to; in the order of frames and files."""

    type_names: tuple[str, ...]
    """All types of objects that the split names."""
    points: Array
    """(T, F) float32: x, y, z minus the centre of the object's box, metres, not rotated; intensity and what else the
    data has. In the order of the file."""
    offsets: Ints
    """(E + 1,) int64: the points of object e are rows ``offsets[e]`` to ``offsets[e + 1]``."""
    boxes3d: Floats
    """(E, 7) float64 as in ``ops.boxes3d``, where the object stood in its own frame."""
    types: SmallInts
    """(E,) int32 into ``type_names``."""
    levels: SmallInts
    """(E,) int32: 0 easy, 1 moderate, 2 hard, -1 none of them."""
    frames: SmallInts
    """(E,) int32: index of the frame in the split."""

    def __post_init__(self) -> None:
        E, T = len(self.types), len(self.points)
        arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
            "points": (np.float32, (T, *self.points.shape[1:])),
            "offsets": (np.int64, (E + 1,)),
            "boxes3d": (np.float64, (E, 7)),
            "types": (np.int32, (E,)),
            "levels": (np.int32, (E,)),
            "frames": (np.int32, (E,)),
        }
        for name, (dtype, shape) in arrays.items():
            array = np.ascontiguousarray(getattr(self, name), dtype=dtype).view()
            if array.shape != shape or (name == "points" and array.ndim != 2):
                raise ValueError(f"{name}: expected shape {shape}, got {array.shape}.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.offsets[0] != 0 or self.offsets[-1] != T or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets: expected to rise from 0 to {T}, got {self.offsets}.")
        if E and not (self.types.min() >= 0 and self.types.max() < len(self.type_names)):
            raise ValueError(f"types: expected 0 to {len(self.type_names) - 1}, got up to {self.types.max()}.")

    def __len__(self) -> int:
        """Number of objects, E."""
        return len(self.types)

    @property
    def num_points(self) -> Ints:
        """(E,) int64 points of each object."""
        return np.diff(self.offsets)

    def points_of(self, index: int) -> Array:
        """The points (n, F) of an object, relative to its centre; a view."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]

    def of_type(self, name: str) -> Ints:
        """Objects of a type in the order of the database; none of a type that the split does not name."""
        if name not in self.type_names:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.types == self.type_names.index(name))

    def select(self, objects: Iterable[int]) -> GroundTruthDatabase:
        """The same database with only these objects, in this order; points are copied."""
        chosen = np.asarray(list(objects), dtype=np.int64)
        counts = self.num_points[chosen]
        offsets = np.concatenate(([0], np.cumsum(counts)))  # (e + 1,)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return GroundTruthDatabase(
            self.type_names,
            self.points[rows],
            offsets,
            self.boxes3d[chosen],
            self.types[chosen],
            self.levels[chosen],
            self.frames[chosen],
        )
