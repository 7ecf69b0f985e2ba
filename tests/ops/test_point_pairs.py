"""The quick search for points in boxes, against the rule asked for every point and box."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops import point_pairs
from sightline.ops.point_pairs import inside_pairs


def asked_one_by_one(points, boxes, margin=0.01):
    """The rule in float64 for every pair, and how near each decision was."""
    p, b = points[None, :, :3].astype(np.float64), boxes[:, None, :7].astype(np.float64)
    x, y, z = np.moveaxis(p - b[..., :3], 2, 0)
    along = np.abs(x * np.cos(b[..., 6]) + y * np.sin(b[..., 6]))
    across = np.abs(y * np.cos(b[..., 6]) - x * np.sin(b[..., 6]))
    gaps = np.stack((b[..., 5] / 2 - np.abs(z), b[..., 3] / 2 + margin - along, b[..., 4] / 2 + margin - across))
    return (gaps > 0).all(axis=0), np.abs(gaps).min(axis=0)


def mask_of(points, boxes, **options):
    mask = np.zeros((len(boxes), len(points)), bool)
    rows, owners = inside_pairs(points, boxes, **options)
    mask[owners, rows] = True
    assert mask.sum() == len(rows)
    return mask


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.sampled_from([5.0, 60.0, 3000.0]),
    st.integers(3, 6),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([0.01, 0.0]),
)
def test_the_pairs_are_those_of_the_rule(seed, num_boxes, spread, features, dtype, margin):
    random = np.random.default_rng(seed)
    boxes = np.concatenate((random.uniform(-1, 1, (num_boxes, 3)), random.uniform(0.2, 6, (num_boxes, 4))), axis=1)
    boxes[:, :2] *= spread
    boxes = boxes.astype(dtype)
    points = random.uniform(-1.2, 1.2, (400, features)).astype(dtype)
    points[:, :2] *= spread
    if num_boxes:  # most of them near boxes
        near = random.integers(0, num_boxes, 300)
        points[:300, :3] = boxes[near, :3] + random.uniform(-4, 4, (300, 3))
    inside, gap = asked_one_by_one(points, boxes, margin)
    is_clear = gap > (1e-3 if dtype == np.float32 else 1e-9) * max(1, spread / 60)
    np.testing.assert_array_equal(mask_of(points, boxes, side_margin=margin)[is_clear], inside[is_clear])


def test_the_heading_turns_from_x_to_y():
    points = np.array([[1.2, 1.2, 0, 0.5], [1.2, -1.2, 0, 0.5]], np.float32)
    boxes = np.array([[0, 0, 0, 4, 1, 1, math.pi / 4], [0, 0, 0, 4, 1, 1, -math.pi / 4]], np.float32)
    assert mask_of(points, boxes).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("far", [1e5, 4e6])
def test_far_from_the_origin_no_point_within_the_faces_is_lost_to_rounding(far):
    # float32 is known to 8 mm there, or to half a metre; the coarse map must not be narrower than the rule.
    random = np.random.default_rng(0)
    boxes = np.zeros((20, 7), np.float32)
    boxes[:, :2] = far + random.uniform(-20, 20, (20, 2))
    boxes[:, 3:6] = 2
    points = np.repeat(boxes[:, :3], 50, axis=0)
    points[:, :2] += random.uniform(-1, 1, (1000, 2)).astype(np.float32)
    gaps = np.abs(points[None, :, :2] - boxes[:, None, :2]).max(axis=2)  # exact: neighbours in float32
    np.testing.assert_array_equal(mask_of(points, boxes), gaps < 1.01)


def test_thousands_of_boxes_in_one_place_take_bounded_memory(monkeypatch):
    random = np.random.default_rng(0)
    boxes = np.tile(np.array([[0, 0, 0, 40, 40, 4, 0.5]], np.float32), (30, 1))
    points = random.uniform(-25, 25, (200, 3)).astype(np.float32)
    at_once = mask_of(points, boxes)
    sizes = []
    monkeypatch.setattr(point_pairs, "_PAIRS_AT_ONCE", 100)
    whole = point_pairs._is_inside
    monkeypatch.setattr(point_pairs, "_is_inside", lambda p, *rest: sizes.append(len(p)) or whole(p, *rest))
    np.testing.assert_array_equal(mask_of(points, boxes), at_once)
    assert len(sizes) > 10 and max(sizes) <= 100 + 30


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"points: expected shape \(_, at least 3\), got \(2, 2\)"):
        inside_pairs(np.zeros((2, 2), np.float32), np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="boxes3d: expected shape"):
        inside_pairs(np.zeros((2, 3), np.float32), np.zeros((2, 5), np.float32))


def test_points_rise_and_so_do_the_boxes_of_one_point():
    boxes = np.tile(np.array([[0, 0, 0, 4, 4, 4, 0]], np.float32), (3, 1))
    rows, owners = inside_pairs(np.zeros((2, 4), np.float32), boxes)
    assert (rows.tolist(), owners.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])


def test_a_box_is_one_centimetre_wider_but_not_higher():
    box = np.array([[0, 0, 0, 2, 2, 2, 0]], np.float32)
    points = np.array([[1.009, 0, 0], [1.011, 0, 0], [0, -1.009, 0], [0, 0, 1.0], [0, 0, 1.001]], np.float32)
    assert mask_of(points, box).tolist() == [[True, False, True, True, False]]


def test_points_that_are_not_finite_lie_in_no_box():
    bad = np.array([[math.nan, 0, 0], [0, math.inf, 0], [0, 0, math.nan], [-math.inf, 0, 0], [0, 0, 0]], np.float32)
    rows, _ = inside_pairs(bad, np.array([[0, 0, 0, 4, 4, 4, 0.3]], np.float32))
    assert rows.tolist() == [4]


def test_boxes_that_are_not_finite_hold_nothing():
    boxes = np.array([[0, 0, 0, math.nan, 4, 4, 0], [0, 0, 0, 4, 4, 4, 0]], np.float32)
    assert inside_pairs(np.zeros((1, 3), np.float32), boxes)[1].tolist() == [1]


def test_boxes_of_negative_size_hold_nothing():
    boxes = np.array(
        [[-1000, -1000, -1000, -1, -1, -1, 0], [0, 0, 0, -2, -2, -2, 0], [0, 0, 0, 4, 4, 4, 0]], np.float32
    )
    assert inside_pairs(np.zeros((1, 3), np.float32), boxes)[1].tolist() == [2]


def test_far_away_points_are_no_trouble():
    points = np.array([[1e30, -1e30, 0], [3e9, 0, 0], [0, 0, 0]], np.float32)
    assert inside_pairs(points, np.array([[0, 0, 0, 4, 4, 4, 0]], np.float32))[0].tolist() == [2]


@pytest.mark.parametrize("num_points, num_boxes", [(0, 3), (3, 0), (0, 0)])
def test_nothing_in_nothing(num_points, num_boxes):
    rows, owners = inside_pairs(np.zeros((num_points, 4), np.float32), np.zeros((num_boxes, 7), np.float32))
    assert len(rows) == len(owners) == 0
