"""Changes of point clouds: by hand for single points, and what must stay the same whatever is drawn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.transforms.points import (
    ObjectMoves,
    PointScene,
    WorldMove,
    cropped,
    draw_object_moves,
    draw_object_noise,
    draw_shares,
    draw_world_move,
    drop_from_objects,
    drop_from_world,
    move_objects,
    move_world,
    shuffled,
)
from sightline.ops.point_pairs import inside_pairs
from sightline.ops.rotated_overlap import rotated_overlaps
from tests.data.point_scenes import random_scene

SEEDS = st.integers(0, 2**32 - 1)


def one_car(*points, velocity=(3.0, 1.0)):
    """A car of 4 x 2 x 2 metres at (10, 2, 0), heading to x."""
    box = np.array([[10, 2, 0, 4, 2, 2, 0, *velocity]], np.float32)
    rows = np.array([[*point, 0.5] for point in points], np.float32).reshape(-1, 4)
    return PointScene(rows, box, np.zeros(1, np.int64))


def pairs_of(scene):
    """Which point (by the number in its intensity) lies in which box."""
    rows, owners = inside_pairs(scene.points, scene.boxes3d)
    return {(int(scene.points[row, 3]), int(owner)) for row, owner in zip(rows, owners, strict=True)}


# The whole scene


def test_mirroring_at_the_x_axis_swaps_left_and_right():
    after = move_world(one_car((11, 2.5, 0.3)), WorldMove(flip_x=True))
    np.testing.assert_allclose(after.points, [[11, -2.5, 0.3, 0.5]])
    np.testing.assert_allclose(after.boxes3d, [[10, -2, 0, 4, 2, 2, 0, 3, -1]])


def test_mirroring_at_the_y_axis_swaps_front_and_back():
    after = move_world(one_car((11, 2.5, 0.3)), WorldMove(flip_y=True))
    np.testing.assert_allclose(after.points, [[-11, 2.5, 0.3, 0.5]])
    np.testing.assert_allclose(after.boxes3d, [[-10, 2, 0, 4, 2, 2, -math.pi, -3, 1]], rtol=1e-6)


def test_a_quarter_turn_takes_x_to_y():
    after = move_world(one_car((11, 2.5, 0.3)), WorldMove(angle=math.pi / 2))
    np.testing.assert_allclose(after.points, [[-2.5, 11, 0.3, 0.5]], atol=1e-6)
    np.testing.assert_allclose(after.boxes3d, [[-2, 10, 0, 4, 2, 2, math.pi / 2, -1, 3]], atol=1e-6)


def test_scaling_takes_places_sizes_and_velocities():
    after = move_world(one_car((11, 2.5, 0.3)), WorldMove(scale=2))
    np.testing.assert_allclose(after.points, [[22, 5, 0.6, 0.5]])
    np.testing.assert_allclose(after.boxes3d, [[20, 4, 0, 8, 4, 4, 0, 6, 2]])


def test_a_shift_comes_last():
    after = move_world(one_car((11, 2.5, 0.3)), WorldMove(angle=math.pi / 2, scale=2, shift=(1, 2, 3)))
    np.testing.assert_allclose(after.points, [[-4, 24, 3.6, 0.5]], atol=1e-5)
    np.testing.assert_allclose(after.boxes3d, [[-3, 22, 3, 8, 4, 4, math.pi / 2, -2, 6]], atol=1e-5)


@given(SEEDS, st.booleans(), st.integers(4, 7))
def test_points_of_a_box_stay_in_it_under_every_move_of_the_scene(seed, velocity, features):
    scene = random_scene(seed, velocity=velocity, features=features)
    before = scene.points.copy(), scene.boxes3d.copy()
    move = draw_world_move(
        np.random.default_rng(seed),
        flip_x=0.5,
        flip_y=0.5,
        rotate=(-math.pi, math.pi),
        scale=(0.5, 2),
        translate_std=(5, 5, 5),
    )
    after = move_world(scene, move)
    assert pairs_of(scene) <= pairs_of(after)  # the margin of 1 cm does not grow with the boxes, and points are inside
    np.testing.assert_array_equal(after.points[:, 3:], scene.points[:, 3:])
    np.testing.assert_array_equal(scene.points, before[0])
    np.testing.assert_array_equal(scene.boxes3d, before[1])


def test_chances_of_0_and_1_are_never_and_always():
    moves = [draw_world_move(np.random.default_rng(seed), flip_x=1, flip_y=0) for seed in range(50)]
    assert all(move.flip_x and not move.flip_y for move in moves)
    assert moves[0] == WorldMove(flip_x=True)


def test_draws_fill_their_ranges():
    random = np.random.default_rng(0)
    moves = [
        draw_world_move(random, flip_x=0.5, rotate=(-1, 2), scale=(0.9, 1.2), translate_std=(1, 2, 0))
        for _ in range(2000)
    ]
    angles, scales = np.array([m.angle for m in moves]), np.array([m.scale for m in moves])
    assert -1 <= angles.min() < -0.95 and 1.95 < angles.max() <= 2 and abs(angles.mean() - 0.5) < 0.1
    assert 0.9 <= scales.min() < 0.91 and 1.19 < scales.max() <= 1.2
    np.testing.assert_allclose(np.std([m.shift for m in moves], axis=0), (1, 2, 0), rtol=0.1)
    assert 900 < sum(move.flip_x for move in moves) < 1100


# Single objects


def test_an_object_turns_around_its_own_centre():
    moves = ObjectMoves(np.array([math.pi / 2]), np.ones(1), np.zeros((1, 3)))
    after = move_objects(one_car((11, 2.5, 0.3), (30, 0, 0)), moves)
    np.testing.assert_allclose(after.points, [[9.5, 3, 0.3, 0.5], [30, 0, 0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(after.boxes3d, [[10, 2, 0, 4, 2, 2, math.pi / 2, -1, 3]], atol=1e-6)


def test_an_object_grows_around_its_own_centre():
    moves = ObjectMoves(np.zeros(1), np.full(1, 1.5), np.zeros((1, 3)))
    after = move_objects(one_car((11, 2.5, 0.5), (30, 0, 0)), moves)
    np.testing.assert_allclose(after.points, [[11.5, 2.75, 0.75, 0.5], [30, 0, 0, 0.5]])
    np.testing.assert_allclose(after.boxes3d, [[10, 2, 0, 6, 3, 3, 0, 4.5, 1.5]])


def test_an_object_moves_with_its_points_alone():
    moves = ObjectMoves(np.zeros(1), np.ones(1), np.array([[1.0, -2, 0.5]]))
    after = move_objects(one_car((11, 2.5, 0.5), (30, 0, 0)), moves)
    np.testing.assert_allclose(after.points, [[12, 0.5, 1, 0.5], [30, 0, 0, 0.5]])
    np.testing.assert_allclose(after.boxes3d, [[11, 0, 0.5, 4, 2, 2, 0, 3, 1]])


@given(SEEDS)
def test_moves_of_objects_touch_no_other_points_and_keep_theirs_inside(seed):
    scene = random_scene(seed)
    is_moved = scene.labels >= 0
    moves = draw_object_moves(
        np.random.default_rng(seed), is_moved, rotate=(-3, 3), scale=(0.8, 1.2), translate=(-0.5, 0.5)
    )
    after = move_objects(scene, moves)
    rows, owners = inside_pairs(scene.points, scene.boxes3d)
    touched = (after.points != scene.points).any(axis=1)
    assert set(np.flatnonzero(touched)) <= set(rows[is_moved[owners]])
    np.testing.assert_array_equal(after.boxes3d[~is_moved], scene.boxes3d[~is_moved])
    assert pairs_of(scene) <= pairs_of(after)


def test_shifts_go_along_the_named_axes_only():
    moves = draw_object_moves(np.random.default_rng(0), np.ones(5, bool), translate=(1, 2), axes="xz")
    assert (moves.shifts[:, 1] == 0).all()
    assert ((moves.shifts[:, ::2] >= 1) & (moves.shifts[:, ::2] <= 2)).all()


def test_a_point_in_two_boxes_goes_with_the_first():
    box = [0, 0, 0, 4, 4, 4, 0]
    scene = PointScene(np.zeros((1, 4), np.float32), np.array([box, box], np.float32), np.zeros(2, np.int64))
    moves = ObjectMoves(np.zeros(2), np.ones(2), np.array([[1.0, 0, 0], [0, 5, 0]]))
    np.testing.assert_allclose(move_objects(scene, moves).points, [[1, 0, 0, 0]])


@given(SEEDS, st.integers(0, 25))
def test_noise_of_objects_runs_them_into_nothing(seed, num_boxes):
    scene = random_scene(seed, num_boxes=num_boxes, points_per_box=2)
    is_moved = scene.labels >= 0
    moves = draw_object_noise(
        np.random.default_rng(seed), scene.boxes3d, is_moved, rotate=math.pi, translate_std=(6, 6, 0), tries=3
    )
    after = move_objects(scene, moves).boxes3d
    np.testing.assert_array_equal(after[~is_moved], scene.boxes3d[~is_moved])
    exact = scene.boxes3d.astype(np.float64)
    exact[:, :3] += moves.shifts
    exact[:, 6] += moves.angles
    overlaps = rotated_overlaps(exact, exact)
    np.fill_diagonal(overlaps, val=False)
    assert not overlaps.any()


def test_an_object_without_room_stays():
    # Walls of other boxes around it: every move of 3 metres on average runs into one.
    boxes = [[0, 0, 0, 2, 2, 2, 0]]
    boxes += [[x, 0, 0, 1, 40, 2, 0] for x in (-1.55, 1.55)] + [[0, y, 0, 2, 1, 2, 0] for y in (-1.55, 1.55)]
    boxes = np.array(boxes, np.float32)
    is_moved = np.array([True, False, False, False, False])
    moves = draw_object_noise(
        np.random.default_rng(1), boxes, is_moved, rotate=0.8, translate_std=(0.5, 0.5, 0), tries=10
    )
    assert not moves.angles.any() and not moves.shifts.any()


# Parts that are missing


def grid_of_points():
    """Points at 0, 1, ... 10 along y and z."""
    y, z = np.meshgrid(np.arange(11.0), np.arange(11.0))
    return np.stack((np.ones(121), y.ravel(), z.ravel(), np.zeros(121)), axis=1).astype(np.float32)


@pytest.mark.parametrize(
    "side, axis, left", [("top", 2, (0, 8)), ("bottom", 2, (2, 10)), ("left", 1, (0, 8)), ("right", 1, (2, 10))]
)
def test_a_fifth_of_the_scene_is_missing_at_a_side(side, axis, left):
    boxes = np.array([[0, 1, 1, 1, 1, 1, 0], [0, 9, 9, 1, 1, 1, 0]], np.float32)
    after = drop_from_world(PointScene(grid_of_points(), boxes, np.arange(2)), [side], [0.2])
    assert (after.points[:, axis].min(), after.points[:, axis].max()) == left
    assert after.labels.tolist() == ([0] if left[0] == 0 else [1])


@pytest.mark.parametrize("side, kept", [("top", [0, 1]), ("bottom", [2, 3]), ("left", [0, 3]), ("right", [1, 2])])
def test_half_of_an_object_is_missing_at_a_side(side, kept):
    # The car heads to y, so that its left side is at small x.
    box = np.array([[0, 0, 0, 4, 2, 2, math.pi / 2]], np.float32)
    points = np.array([[0.5, 1, -0.5], [-0.5, 1, -0.5], [-0.5, 1, 0.5], [0.5, 1, 0.5], [9, 9, 9]], np.float32)
    scene = PointScene(points, box, np.zeros(1, np.int64))
    after = drop_from_objects(scene, [side], np.full((1, 1), 0.5))
    np.testing.assert_array_equal(after.points, points[[*kept, 4]])
    np.testing.assert_array_equal(after.boxes3d, box)


@given(SEEDS)
def test_what_objects_lose_is_theirs(seed):
    scene = random_scene(seed)
    shares = draw_shares(np.random.default_rng(seed), ["top", "left"], (0, 1), len(scene.labels))
    shares[scene.labels < 0] = 0
    after = drop_from_objects(scene, ["top", "left"], shares)
    rows, owners = inside_pairs(scene.points, scene.boxes3d)
    gone = set(scene.points[:, 3]) - set(after.points[:, 3])
    assert gone <= set(scene.points[rows[scene.labels[owners] >= 0], 3])


# What goes to the network


def test_cropping_asks_points_for_x_and_y_and_boxes_for_their_centre():
    points = np.array([[0, 0, 99], [5, 5, 0], [5.1, 0, 0], [0, -0.1, 0]], np.float32)
    boxes = np.array([[5, 5, 1, 9, 9, 9, 0], [1, 1, 1.1, 1, 1, 1, 0], [-0.1, 1, 0, 1, 1, 1, 0]], np.float32)
    after = cropped(PointScene(points, boxes, np.arange(3)), (0, 0, -1, 5, 5, 1))
    np.testing.assert_array_equal(after.points, points[:2])
    assert after.labels.tolist() == [0]


def test_shuffling_keeps_the_points():
    scene = random_scene(3)
    after = shuffled(scene, np.random.default_rng(0))
    assert (after.points != scene.points).any()
    np.testing.assert_array_equal(after.points[np.argsort(after.points[:, 3])], scene.points)


@pytest.mark.parametrize("num_points, num_boxes", [(0, 3), (3, 0), (0, 0)])
def test_empty_scenes_go_through_everything(num_points, num_boxes):
    scene = PointScene(
        np.zeros((num_points, 4), np.float32), np.ones((num_boxes, 7), np.float32), np.zeros(num_boxes, np.int64)
    )
    random = np.random.default_rng(0)
    is_moved = scene.labels >= 0
    scene = move_world(scene, WorldMove(True, True, 1, 2, (1, 2, 3)))
    scene = move_objects(scene, draw_object_moves(random, is_moved, rotate=(-1, 1)))
    scene = move_objects(
        scene, draw_object_noise(random, scene.boxes3d, is_moved, rotate=1, translate_std=(1, 1, 1), tries=2)
    )
    scene = drop_from_objects(scene, ["top"], np.ones((num_boxes, 1)))
    scene = drop_from_world(scene, ["left"], [0.0])
    scene = shuffled(cropped(scene, (-99, -99, -99, 99, 99, 99)), random)
    assert (len(scene.points), len(scene.boxes3d)) == (num_points, num_boxes)
