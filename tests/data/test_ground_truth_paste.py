"""Pasting objects of other scenes: who is tried, who finds room, and what becomes of the scene."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.config.errors import ConfigError
from sightline.data.ground_truth_database import GroundTruthDatabase
from sightline.data.transforms.ground_truth_paste import Candidates, PasteConfig, PasteObjects, ground_heights
from sightline.data.transforms.points import PointScene
from sightline.ops.frames import Calibration
from sightline.ops.point_pairs import inside_pairs
from sightline.ops.rotated_overlap import rotated_overlaps
from tests.data.point_scenes import CLASS_NAMES, random_scene, small_database

EVERYTHING = PasteConfig(min_points=0, without_levels=())
CAMERA = Calibration(
    image_from_rect=np.eye(3, 4, dtype=np.float32),
    rect_from_camera=np.eye(3, dtype=np.float32),
    camera_from_lidar=np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]], np.float32),
)
"""At the place of the LiDAR, looking ahead: x right, y down, z forward."""


GROUND = np.array([[0.0, -1.0, 0.0, 1.7]])
"""Level, 1.7 m below that camera."""


def objects_at(*places, types=None, points_each=3):
    """Cars (or others) of 2 x 2 x 2 metres standing upright at (x, y), z = 0; their points number them."""
    count = len(places)
    boxes = np.zeros((count, 7))
    boxes[:, :2] = places
    boxes[:, 3:6] = 2
    points = np.zeros((count * points_each, 4))
    points[:, 0] = np.tile(np.linspace(-0.5, 0.5, points_each), count)
    points[:, 3] = 100 + np.repeat(np.arange(count), points_each)
    return GroundTruthDatabase(
        type_names=CLASS_NAMES,
        points=points,
        offsets=np.arange(count + 1) * points_each,
        boxes3d=boxes,
        types=np.array(types or [0] * count),
        levels=np.zeros(count),
        frames=np.zeros(count),
    )


def empty_scene():
    return PointScene(np.zeros((0, 4), np.float32), np.zeros((0, 7), np.float32), np.zeros(0, np.int64))


def rows(*numbers):
    return np.array(numbers, np.int64)


# Who is tried


def test_each_class_is_tried_as_often_as_asked_without_repeats():
    objects = PasteObjects(small_database(), EVERYTHING.but(counts=(4, 3, 20)), CLASS_NAMES)
    drawn = objects.draw(np.random.default_rng(0), np.zeros(0))
    assert [(one.label, len(one.objects)) for one in drawn] == [(0, 4), (1, 3), (2, 5)]  # there are five cyclists
    for one in drawn:
        assert len(set(one.objects)) == len(one.objects)
        assert (objects.database.types[one.objects] == one.label).all()


def test_names_give_counts_and_order():
    config = EVERYTHING.but(counts=(("Cyclist", 2), ("Car", 1)))
    drawn = PasteObjects(small_database(), config, CLASS_NAMES).draw(np.random.default_rng(0), np.zeros(0))
    assert [(one.label, len(one.objects)) for one in drawn] == [(2, 2), (0, 1)]


def test_filling_up_counts_what_the_scene_has():
    objects = PasteObjects(small_database(), EVERYTHING.but(counts=3, fill_up=True), CLASS_NAMES)
    drawn = objects.draw(np.random.default_rng(0), np.array([0, 0, 1, 1, 1, 1, -1]))
    assert [(one.label, len(one.objects)) for one in drawn] == [(0, 1), (2, 3)]


def test_the_draw_depends_on_the_generator_alone():
    objects = PasteObjects(small_database(), EVERYTHING, CLASS_NAMES)
    draws = [objects.draw(np.random.default_rng(seed), np.zeros(0)) for seed in (5, 6, 5)]
    assert [one.objects.tolist() for one in draws[0]] == [one.objects.tolist() for one in draws[2]]
    assert [one.objects.tolist() for one in draws[0]] != [one.objects.tolist() for one in draws[1]]


def test_objects_with_few_points_and_of_left_out_levels_are_never_tried():
    database = small_database()
    objects = PasteObjects(database, PasteConfig(counts=99, min_points=10, without_levels=(-1, 2)), CLASS_NAMES)
    for label, found in objects.objects.items():
        wanted = (database.types == label) & (database.num_points >= 10) & np.isin(database.levels, (0, 1))
        assert found.tolist() == np.flatnonzero(wanted).tolist()
        assert 0 < len(found) < (database.types == label).sum()


def test_a_class_without_objects_is_told_once_and_not_pasted():
    objects = PasteObjects(small_database(counts=(6, 4, 0)), EVERYTHING, CLASS_NAMES)
    (message,) = objects.messages
    assert "nothing is pasted of Cyclist (of 0)" in message
    assert [one.label for one in objects.draw(np.random.default_rng(0), np.zeros(0))] == [0, 1]
    none = PasteObjects(small_database(), PasteConfig(min_points=1000), CLASS_NAMES)
    (message,) = none.messages
    assert "Car (of 12), Pedestrian (of 8), Cyclist (of 5)" in message and "min_points=1000" in message
    scene = random_scene(0)
    assert none.paste(scene, none.draw(np.random.default_rng(0), scene.labels)) is scene


def test_a_class_that_is_not_to_be_pasted_is_not_missed():
    config = EVERYTHING.but(counts=(("Car", 3), ("Cyclist", 0)))
    assert PasteObjects(small_database(counts=(6, 4, 0)), config, CLASS_NAMES).messages == ()


@pytest.mark.parametrize(
    "counts, message",
    [
        ((("Cra", 3),), r"augment\.paste\.counts: the data has no class 'Cra'\. Did you mean 'Car'\?"),
        ((("Tram", 3),), r"no class 'Tram'\. There are: Car, Pedestrian, Cyclist"),
        ((15, 10), r"2 numbers for 3 classes \(Car, Pedestrian, Cyclist\)"),
    ],
)
def test_counts_that_do_not_fit_the_classes_are_refused(counts, message):
    with pytest.raises(ConfigError, match=message):
        PasteObjects(small_database(), EVERYTHING.but(counts=counts), CLASS_NAMES)


@pytest.mark.parametrize("counts", [-1, True, 1.5, (), ("Car",), (("Car", -1),), (("Car", 1), ("Car", 2)), "Car"])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        PasteConfig(counts=counts)


# Who finds room


def test_a_candidate_in_a_box_of_the_scene_is_left_out_also_if_that_is_not_trained():
    objects = PasteObjects(objects_at((0, 0), (10, 0), (20, 0)), EVERYTHING, CLASS_NAMES)
    boxes = np.array([[1, 1, 50, 2, 2, 2, 0.3], [21.5, 0, 0, 2, 2, 2, 0]], np.float32)
    (left,) = objects.accepted(boxes, [Candidates(0, rows(0, 1, 2))])
    assert left.objects.tolist() == [1]


def test_two_candidates_of_a_class_that_meet_are_both_left_out():
    objects = PasteObjects(objects_at((0, 0), (1, 0), (2.5, 0), (9, 0)), EVERYTHING, CLASS_NAMES)
    # 0 meets 1, 1 meets 2: the third is left out although the one it meets is not there either.
    (left,) = objects.accepted(np.zeros((0, 7)), [Candidates(0, rows(0, 1, 2, 3))])
    assert left.objects.tolist() == [3]


def test_a_later_class_gives_way_to_accepted_ones_only():
    database = objects_at((0, 0), (1, 0), (0, 0), (9, 0), (9, 1), types=[0, 0, 1, 0, 1])
    objects = PasteObjects(database, EVERYTHING, CLASS_NAMES)
    cars, people = objects.accepted(np.zeros((0, 7)), [Candidates(0, rows(0, 1, 3)), Candidates(1, rows(2, 4))])
    assert cars.objects.tolist() == [3]  # 0 and 1 meet
    assert people.objects.tolist() == [2]  # where the rejected cars would have been; 4 meets the accepted 3


def test_boxes_that_touch_have_room():
    objects = PasteObjects(objects_at((0, 0), (2, 0)), EVERYTHING, CLASS_NAMES)
    (left,) = objects.accepted(np.zeros((0, 7)), [Candidates(0, rows(0, 1))])
    assert left.objects.tolist() == [0, 1]


def test_regions_without_a_box_are_not_in_the_way():
    objects = PasteObjects(objects_at((0, 0)), EVERYTHING, CLASS_NAMES)
    nowhere = np.array([[0, 0, 0, -1, -1, -1, 0], [math.nan] * 7])
    (left,) = objects.accepted(nowhere, [Candidates(0, rows(0))])
    assert left.objects.tolist() == [0]


# What becomes of the scene


def test_pasted_points_come_first_and_those_they_replace_go():
    scene = PointScene(
        np.array([[5, 0, 0, 1], [5.9, 0.9, 0.9, 2], [5, 0, 1.1, 3], [7, 0, 0, 4]], np.float32),
        np.array([[30, 0, 0, 2, 2, 2, 0]], np.float32),
        np.array([-1]),
    )
    objects = PasteObjects(objects_at((50, 9), (5, 0), types=[0, 1]), EVERYTHING, CLASS_NAMES)
    after = objects.paste(scene, [Candidates(0, rows(0)), Candidates(1, rows(1))])
    assert after.points[:, 3].tolist() == [100, 100, 100, 101, 101, 101, 3, 4]
    np.testing.assert_allclose(after.points[3:6, :3], [[4.5, 0, 0], [5, 0, 0], [5.5, 0, 0]])
    assert after.labels.tolist() == [-1, 0, 1]
    np.testing.assert_allclose(after.boxes3d[1:, :3], [[50, 9, 0], [5, 0, 0]])
    assert after.boxes3d.dtype == after.points.dtype == np.float32 and after.labels.dtype == np.int64


def test_more_room_can_be_cleared():
    points = np.array([[5, 0, 1.1, 3], [7, 0, 0, 4]], np.float32)
    scene = PointScene(points, np.zeros((0, 7), np.float32), np.zeros(0, np.int64))
    config = EVERYTHING.but(extra_size=(0, 0, 0.3))  # in all: 0.15 m above
    after = PasteObjects(objects_at((5, 0)), config, CLASS_NAMES).paste(scene, [Candidates(0, rows(0))])
    assert after.points[:, 3].tolist() == [100, 100, 100, 4]
    np.testing.assert_allclose(after.boxes3d[:, 3:6], [[2, 2, 2]])


def test_velocities_of_pasted_objects_are_zero():
    scene = random_scene(0, velocity=True)
    objects = PasteObjects(small_database(), EVERYTHING, CLASS_NAMES)
    after = objects.paste(scene, objects.draw(np.random.default_rng(0), scene.labels))
    assert len(after.boxes3d) > len(scene.boxes3d)
    assert (after.boxes3d[len(scene.boxes3d) :, 7:] == 0).all()


def test_an_object_stands_on_the_plane_with_its_points():
    # Seen by a camera at the LiDAR's place, y = 1.7 is the ground 1.7 m below: bottoms go from -1 to -1.7.
    plane = GROUND[0]
    objects = PasteObjects(objects_at((5, 0)), EVERYTHING, CLASS_NAMES)
    after = objects.paste(empty_scene(), [Candidates(0, rows(0))], calibration=CAMERA, plane=plane)
    np.testing.assert_allclose(after.boxes3d[0, :3], [5, 0, -0.7], rtol=1e-6)
    np.testing.assert_allclose(after.points[:, 2], -0.7, rtol=1e-6)
    stays = PasteObjects(objects_at((5, 0)), EVERYTHING.but(onto_plane=False), CLASS_NAMES)
    after = stays.paste(empty_scene(), [Candidates(0, rows(0))], calibration=CAMERA, plane=plane)
    assert after.boxes3d[0, 2] == 0


def test_the_ground_rises_where_the_plane_does():
    # y = 2 - 0.1 z: at 10 m the ground is 1 m below, at 30 m 1 m above.
    boxes = np.array([[10, 5, 3, 1, 1, 1, 0], [30, -5, 3, 1, 1, 1, 0]], np.float64)
    np.testing.assert_allclose(ground_heights(boxes, CAMERA, np.array([0, 1, 0.1, -2])), [-1, 1])


@pytest.mark.parametrize("plane", [None, np.full(4, math.nan), np.array([1.0, 0, 0, 0])])
def test_without_a_usable_plane_objects_keep_their_height(plane):
    objects = PasteObjects(objects_at((5, 0)), EVERYTHING, CLASS_NAMES)
    after = objects.paste(empty_scene(), [Candidates(0, rows(0))], calibration=CAMERA, plane=plane)
    assert after.boxes3d[0, 2] == 0
    assert (after.points[:, 2] == 0).all()


def test_frames_without_a_plane_are_told_once():
    objects = PasteObjects(objects_at((5, 0)), EVERYTHING.but(counts=(("Car", 1),)), CLASS_NAMES)
    assert objects.messages_about(GROUND) == ()
    (message,) = objects.messages_about(np.full((3, 4), math.nan))
    assert "augment.paste.onto_plane: no frame has a known ground plane" in message
    (message,) = objects.messages_about(np.concatenate((GROUND, np.full((3, 4), math.nan))))
    assert "3 of 4 frames have no known ground plane" in message
    onto_nothing = PasteObjects(objects.database, objects.config.but(onto_plane=False), CLASS_NAMES)
    assert onto_nothing.messages_about(np.full((3, 4), math.nan)) == ()


def test_points_of_other_numbers_are_refused():
    objects = PasteObjects(objects_at((50, 20)), EVERYTHING, CLASS_NAMES)
    with pytest.raises(ValueError, match="expected 4 numbers as in the database, got 5"):
        objects.paste(random_scene(0, features=5), [Candidates(0, rows(0))])


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_whatever_is_pasted_the_scene_stays_sound(seed, fill_up):
    scene = random_scene(seed)
    before = scene.points.copy()
    objects = PasteObjects(small_database(seed % 7), EVERYTHING.but(counts=5, fill_up=fill_up), CLASS_NAMES)
    after = objects.paste(scene, objects.draw(np.random.default_rng(seed), scene.labels))
    np.testing.assert_array_equal(scene.points, before)
    old = len(scene.boxes3d)
    np.testing.assert_array_equal(after.boxes3d[:old], scene.boxes3d)
    new = after.boxes3d[old:]
    overlaps = rotated_overlaps(new * (1, 1, 1, 0.999, 0.999, 1, 1), after.boxes3d)
    assert overlaps.sum() == len(new)  # each with itself alone
    is_pasted = after.points[:, 3] >= 1000
    assert not is_pasted[np.argmin(is_pasted) :].any()  # in front
    found = inside_pairs(after.points, new)[0]
    assert (after.points[found, 3] >= 1000).all()  # nothing of the old scene is in a new box
    gone = set(scene.points[:, 3]) - set(after.points[~is_pasted, 3])
    assert gone == set(scene.points[inside_pairs(scene.points, new)[0], 3])


def test_objects_travel_to_worker_processes():
    objects = PasteObjects(small_database(), EVERYTHING, CLASS_NAMES)
    copy = pickle.loads(pickle.dumps(objects))
    scene = random_scene(1)
    ours, theirs = (one.paste(scene, one.draw(np.random.default_rng(0), scene.labels)) for one in (objects, copy))
    np.testing.assert_array_equal(ours.points, theirs.points)
