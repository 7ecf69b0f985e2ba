import math

import numpy as np
import pytest

from sightline.ops.points import points_in_range


def cloud(*rows, dtype=np.float32):
    return np.array(rows, dtype=dtype)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"points: expected shape \(_, at least 3\), got \(2, 2\)"):
        points_in_range(np.zeros((2, 2), np.float32), [0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="points: expected shape"):
        points_in_range(np.zeros(3, np.float32), [0, 0, 0, 1, 1, 1])


def test_the_range_includes_its_edges_and_not_height():
    points = cloud([0, -10, 0], [20, 10, 99], [20.01, 0, 0], [-0.01, 0, 0], [5, 10.01, 0], [math.nan, 0, 0])
    assert points_in_range(points, [0, -10, -3, 20, 10, 1]).tolist() == [True, True, False, False, False, False]
