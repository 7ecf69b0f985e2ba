"""Sides of objects that are lost, thinned out and exchanged."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.transforms.points import PointScene
from sightline.data.transforms.pyramids import PyramidConfig, change_pyramids
from sightline.ops.point_pairs import inside_pairs
from tests.data.point_scenes import random_scene

NOTHING = PyramidConfig(drop=0, thin=0, swap=0)
ALL = np.ones(2, bool)

FACES = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])


def two_boxes(points_a, points_b, labels=(0, 0)):
    """A cube of side 2 at the origin, and one of 4 x 8 x 2 metres at (20, 0, 0) that heads to y.

    Points are given in half sizes; numbers tell them apart.
    """
    a = np.array(points_a, float).reshape(-1, 3)
    b = np.array(points_b, float).reshape(-1, 3) * (2, 4, 1)
    b = np.stack((20 - b[:, 1], b[:, 0], b[:, 2]), axis=1)
    outside = np.array([[50.0, 50, 0]])
    points = np.concatenate((a, b, outside))
    boxes = np.array([[0, 0, 0, 2, 2, 2, 0], [20, 0, 0, 4, 8, 2, math.pi / 2]], np.float32)
    points = np.concatenate((points, np.arange(len(points))[:, None]), axis=1).astype(np.float32)
    return PointScene(points, boxes, np.array(labels))


def test_a_side_that_is_lost_is_one_of_six():
    scene = two_boxes(0.5 * FACES, 0.5 * FACES)
    lost = set()
    for seed in range(60):
        after = change_pyramids(scene, NOTHING.but(drop=1), np.random.default_rng(seed), ALL)
        gone = set(scene.points[:, 3]) - set(after.points[:, 3])
        assert len({i for i in gone if i < 6}) == len({i for i in gone if i >= 6}) == 1 and 12 not in gone
        lost |= gone
    assert lost == set(range(12))


def test_a_side_is_the_one_that_a_point_is_nearest_to_in_half_sizes():
    # In metres (1.2, 1.4): nearer to y, but the box is twice as long that way.
    scene = two_boxes([], [[0.6, 0.35, 0], [0.6, 0.35, 0.1], [0.35, 0.6, 0]])
    for seed in range(40):
        after = change_pyramids(scene, NOTHING.but(drop=1), np.random.default_rng(seed), ALL)
        assert len({0.0, 1.0} & set(after.points[:, 3])) in (0, 2)


def test_thinned_sides_keep_so_many_points():
    side = np.tile([0.5, 0, 0], (20, 1)) + np.linspace(0, 0.1, 20)[:, None] * (0, 1, 0)
    scene = two_boxes(side, np.concatenate((side[:3], 0.5 * FACES[3:])))
    config = NOTHING.but(thin=1, thin_points=4)
    counts = set()
    for seed in range(40):
        after = change_pyramids(scene, config, np.random.default_rng(seed), ALL)
        assert len(after.points) - (after.points[:, 3] < 20).sum() == 7  # the other box and outside
        counts.add(int((after.points[:, 3] < 20).sum()))
    assert counts == {4, 20}  # its side was drawn, or an empty one


def exchanged(scene, config=None, is_changed=ALL):
    """The scene after the first seed that changes it, or None."""
    for seed in range(60):
        config = config or NOTHING.but(swap=1, swap_points=1)
        after = change_pyramids(scene, config, np.random.default_rng(seed), is_changed)
        if (after.points != scene.points).any():
            return after
    return None


def test_exchanged_points_keep_their_place_in_half_sizes_and_their_numbers():
    scene = two_boxes([[0.5, 0.1, 0.2], [0.8, 0, 0], [0, 0, 0.5]], [[0.9, 0, 0.5], [0.7, 0.2, 0]])
    there = two_boxes([[0.9, 0, 0.5], [0.7, 0.2, 0]], [[0.5, 0.1, 0.2], [0.8, 0, 0]])
    # Both objects draw: where both draw this side, it goes there and back, which is no change.
    after = exchanged(scene)
    order = [3, 4, 0, 1]  # those of the first box are now numbered as they were in the second
    np.testing.assert_allclose(after.points[order, :3], there.points[:4, :3], atol=1e-6)
    np.testing.assert_array_equal(after.points[:, 3], scene.points[:, 3])
    np.testing.assert_array_equal(after.points[[2, 5]], scene.points[[2, 5]])


def test_only_dense_sides_of_one_class_among_those_that_may_change_are_exchanged():
    a, b = [[0.5, 0.1, 0.2], [0.8, 0, 0]], [[0.9, 0, 0.5], [0.7, 0.2, 0]]
    assert exchanged(two_boxes(a, b)) is not None
    assert exchanged(two_boxes(a, b, labels=(0, 1))) is None
    assert exchanged(two_boxes(a, b[:1])) is None
    assert exchanged(two_boxes(a, b), NOTHING.but(swap=1, swap_points=2)) is None
    assert exchanged(two_boxes(a, b), is_changed=np.array([True, False])) is None


@given(st.integers(0, 2**32 - 1))
def test_points_outside_and_objects_that_may_not_change_stay(seed):
    scene = random_scene(seed, points_per_box=40)
    before = scene.points.copy()
    is_changed = scene.labels >= 0
    config = PyramidConfig(drop=0.5, thin=0.5, thin_points=2, swap=0.8, swap_points=2)
    after = change_pyramids(scene, config, np.random.default_rng(seed), is_changed)
    np.testing.assert_array_equal(scene.points, before)
    rows, owners = inside_pairs(scene.points, scene.boxes3d)
    touched = set(scene.points[rows[is_changed[owners]], 3])
    untouched = scene.points[[number not in touched for number in scene.points[:, 3]]]
    np.testing.assert_array_equal(after.points[[number not in touched for number in after.points[:, 3]]], untouched)
    inside = inside_pairs(after.points, scene.boxes3d)[0]
    assert touched & set(after.points[:, 3]) <= set(after.points[inside, 3])


@pytest.mark.parametrize("num_points, num_boxes", [(0, 2), (3, 0), (0, 0)])
def test_empty_scenes_stay(num_points, num_boxes):
    boxes = np.zeros((num_boxes, 7), np.float32)
    scene = PointScene(np.zeros((num_points, 4), np.float32), boxes, np.zeros(num_boxes, np.int64))
    config = PyramidConfig(drop=1, thin=1, swap=1)
    after = change_pyramids(scene, config, np.random.default_rng(0), np.ones(num_boxes, bool))
    assert (len(after.points), len(after.boxes3d)) == (num_points, num_boxes)
