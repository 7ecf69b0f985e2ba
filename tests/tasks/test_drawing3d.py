"""Maps from above and boxes in camera pictures: where things are, in which colour, and what is left out."""

import numpy as np
import pytest

from sightline.data.world.camera import inverse_pose, transform
from sightline.data.world.config import EmbeddedLidarConfig
from sightline.data.world.kitti_writer import kitti_frame
from sightline.data.world.scene import make_scene
from sightline.ops.frames import Calibration
from sightline.tasks.drawing import PALETTE
from sightline.tasks.drawing3d import Extent, ShownBoxes, draw_from_above, draw_in_camera, one_above_the_other

NAMES = ("Car", "Pedestrian")
EXTENT = Extent(0, -10, 40, 10)
"""At 400 pixels for 40 m a metre is 10 pixels; x = 40 is the upper border, y = 10 the left one."""
NO_POINTS = np.zeros((0, 4), np.float32)
NONE_FOUND = ShownBoxes(np.zeros((0, 7)), np.zeros(0, int), np.zeros(0))
WHITE = (255, 255, 255)


def boxes(*rows, labels=None, scores=None) -> ShownBoxes:
    table = np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    return ShownBoxes(table, np.zeros(len(rows), int) if labels is None else np.array(labels), scores)


def from_above(points=NO_POINTS, **others) -> np.ndarray:
    return draw_from_above(np.asarray(points, np.float32), NAMES, extent=EXTENT, longest=400, **others)


def places_of(picture: np.ndarray, colour) -> np.ndarray:
    """(N, 2) x, y of the pixels of an empty map that a line of this colour covers by 0.4 or more."""
    ground = from_above()[60, 60].astype(float)
    towards = np.array(colour) - ground
    offsets = picture - ground
    share = offsets @ towards / (towards @ towards)
    rest = np.linalg.norm(offsets - share[..., None] * towards, axis=2)
    return np.argwhere((share > 0.4) & (share < 1.05) & (rest < 10))[:, ::-1]


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.argwhere((before != after).any(axis=2))[:, ::-1]


# from above


def test_the_picture_is_as_large_as_the_ground_it_shows():
    assert from_above().shape == (400, 200, 3)
    assert draw_from_above(NO_POINTS, NAMES, extent=Extent(-20, -40, 20, 40), longest=400).shape == (200, 400, 3)


def test_a_point_lies_where_its_metres_say():
    # x = 30 is 10 m below the upper border, y = 5 is 5 m from the left one; dots are 2 pixels wide.
    points = changed(from_above(), from_above([(30.02, 4.98, 0.0, 0.5)]))
    assert sorted(map(tuple, points.tolist())) == [(50, 99), (50, 100), (51, 99), (51, 100)]


def test_points_outside_and_points_that_are_no_numbers_are_left_out():
    strange = [
        (50, 0, 0, 0),
        (-1, 0, 0, 0),
        (5, 11, 0, 0),
        (5, -11, 0, 0),
        (np.nan, 0, 0, 0),
        (5, 0, np.nan, 0),
        (np.inf, 0, 0, 0),
    ]
    np.testing.assert_array_equal(from_above(), from_above(strange))


def test_of_several_points_in_a_place_the_highest_is_seen():
    high = from_above([(25.05, 3.0, 1.0, 0.5)])
    np.testing.assert_array_equal(from_above([(25.05, 3.0, 1.0, 0.5), (25.05, 3.0, -1.7, 0.5)]), high)
    assert len(changed(high, from_above([(25.05, 3.0, -1.7, 0.5)]))) == 4


def test_the_colour_is_of_the_height_or_the_intensity():
    low, high = ([(25.0, 3.0, z, 0.5)] for z in (-1.7, 1.0))
    assert len(changed(from_above(low), from_above(high))) > 0
    assert len(changed(from_above(low, colour_by="intensity"), from_above(high, colour_by="intensity"))) == 0
    bright = [(25.0, 3.0, -1.7, 0.9)]
    assert len(changed(from_above(low, colour_by="intensity"), from_above(bright, colour_by="intensity"))) > 0


def test_there_is_a_line_every_ten_metres():
    picture = from_above()
    column, row = picture[:, 70], picture[250]
    lines_across = np.flatnonzero((column != column[50]).any(axis=1))
    assert lines_across.tolist() == [100, 200, 300]
    assert 100 in np.flatnonzero((row != row[50]).any(axis=1))  # y = 0


def test_a_box_is_drawn_true_to_size_with_a_tick_where_it_heads():
    # A car 4 m by 2 m that drives to the left, its middle 20.05 m ahead and 0.05 m to the right: in pixel (100, 199).
    picture = from_above(truths=boxes((20.05, -0.05, 0, 4, 2, 1.5, np.pi / 2)), found=NONE_FOUND)
    white = places_of(picture[40:300], WHITE) + np.array([0, 40])  # between the legend and the vehicle
    outline = white[white[:, 0] >= 80]
    assert outline.min(axis=0).tolist() == [80, 189]
    assert outline.max(axis=0).tolist() == pytest.approx([120, 209], abs=1)
    tick = white[white[:, 0] < 79]
    assert (np.abs(tick[:, 1] - 199) <= 1).all()
    assert tick[:, 0].min() == pytest.approx(72, abs=1)  # 0.4 of half its length beyond the front


def test_truth_is_white_beside_what_was_found_and_has_class_colours_alone():
    truth = boxes((20.05, -0.05, 0, 4, 2, 1.5, 0), labels=[1])
    found = boxes((10.05, 1.95, 0, 4, 2, 1.5, 0), labels=[0], scores=np.array([0.5]))
    both = from_above(truths=truth, found=found)[150:]
    assert len(places_of(both, WHITE)) > 100 and len(places_of(both, PALETTE[0])) > 100
    alone = from_above(truths=truth)[150:]
    assert len(places_of(alone, PALETTE[1])) > 100 and len(places_of(alone, PALETTE[0])) == 0


def test_boxes_that_are_no_numbers_are_left_out_and_none_is_fine():
    nonsense = boxes((np.nan, 0, 0, 4, 2, 1.5, 0), (20, 0, 0, np.inf, 2, 1.5, 0), scores=np.array([0.5, 0.4]))
    empty = from_above(found=NONE_FOUND)
    np.testing.assert_array_equal(from_above(found=nonsense)[100:], empty[100:])
    assert draw_in_camera(GREY, CALIBRATION, NAMES, found=nonsense).tolist() == GREY.tolist()
    assert from_above(truths=NONE_FOUND, found=NONE_FOUND).shape == empty.shape


def test_boxes_far_outside_change_nothing_but_the_legend():
    far = boxes((1e9, 0, 0, 4, 2, 1.5, 0), (-500, 300, 0, 4, 2, 1.5, 0), scores=np.array([0.5, 0.4]))
    np.testing.assert_array_equal(from_above(found=far)[60:], from_above()[60:])


def test_boxes_with_velocities_are_drawn_alike():
    box = (20, 1, 0, 4, 2, 1.5, 0.3)
    np.testing.assert_array_equal(from_above(truths=boxes(box)), from_above(truths=boxes((*box, 3.0, 1.0))))


def test_an_extent_without_ground_is_refused():
    with pytest.raises(ValueError, match="x_min < x_max"):
        draw_from_above(NO_POINTS, NAMES, extent=Extent(10, 0, 10, 20))


# in the camera's picture

CALIBRATION = Calibration(
    np.array([[100, 0, 200, 0], [0, 100, 100, 0], [0, 0, 1, 0]], np.float32),
    np.eye(3, dtype=np.float32),
    np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]], np.float32),
)
"""Focal length 100 pixels, middle (200, 100), camera and LiDAR in one place."""
GREY = np.full((200, 400, 3), 90, np.uint8)


def in_camera(*rows, **others) -> np.ndarray:
    return draw_in_camera(GREY, CALIBRATION, NAMES, truths=boxes(*rows), found=NONE_FOUND, **others)


def test_a_cube_ahead_is_drawn_where_the_pinhole_puts_it():
    # 2 m wide, its near face 9 m ahead: 100 / 9 = 11.1 pixels to each side of the middle.
    places = changed(GREY, in_camera((10, 0, 0, 2, 2, 2, 0)))
    assert places.min(axis=0).tolist() == pytest.approx([200 - 11.1 - 0.5, 100 - 11.1 - 0.5], abs=1.6)
    assert places.max(axis=0).tolist() == pytest.approx([200 + 11.1 - 0.5, 100 + 11.1 - 0.5], abs=1.6)


def test_left_is_left_and_above_is_above():
    assert (changed(GREY, in_camera((10, 3, 0, 1, 1, 1, 0)))[:, 0] < 180).all()
    assert (changed(GREY, in_camera((10, 0, 3, 1, 1, 1, 0)))[:, 1] < 80).all()


def test_what_is_behind_the_camera_is_not_drawn():
    np.testing.assert_array_equal(in_camera((-10, 0, 0, 4, 2, 1.5, 0), (-2.5, 1, 0, 4, 2, 1.5, 0.2)), GREY)


def test_a_box_that_reaches_behind_the_camera_is_cut_off_before_it():
    # A wall along the left side from 10 m behind to 10 m ahead: its far end is 3 m to the left, 30 pixels.
    places = changed(GREY, in_camera((0, 3.5, 0, 20, 1, 2, 0)))
    assert places[:, 0].max() == pytest.approx(170, abs=2)
    assert places[:, 0].min() == 0
    # No line runs through the other half of the picture, as points behind the camera would have it.
    assert (places[:, 0] < 175).all()


def test_the_vehicle_itself_around_the_camera_does_no_harm():
    assert in_camera((0, 0, 0, 4, 2, 1.5, 0)).shape == GREY.shape
    found = boxes((0, 0, 0, 4, 2, 1.5, 0.4), scores=np.array([0.9]))
    assert draw_in_camera(GREY, CALIBRATION, NAMES, found=found).shape == GREY.shape


def test_the_given_picture_is_left_alone():
    picture = GREY.copy()
    draw_in_camera(picture, CALIBRATION, NAMES, found=boxes((10, 0, 0, 2, 2, 2, 0), scores=np.array([0.5])))
    np.testing.assert_array_equal(picture, GREY)


def test_names_and_scores_stay_inside_the_picture():
    found = boxes((10, -19, 9, 2, 2, 2, 0), (10, 19, 9, 2, 2, 2, 0), scores=np.array([0.5, 0.7]))
    tagged = draw_in_camera(GREY, CALIBRATION, NAMES, found=found)
    plain = draw_in_camera(GREY, CALIBRATION, NAMES, truths=found._replace(scores=None), found=NONE_FOUND)
    red, red_of_plain = ((picture[:14] == PALETTE[0]).all(axis=2) for picture in (tagged, plain))
    assert red[:, :200].sum() > 100 and red[:, 200:].sum() > 100
    assert not red_of_plain.any()


def test_boxes_of_the_city_surround_the_objects_in_its_pictures():
    config = EmbeddedLidarConfig()
    looked = 0
    for index in range(6):
        frame = kitti_frame(make_scene(0, index, config.world), config.world, config.lidar)
        scene, truth = frame.rendering.scene, frame.rendering.truth
        lidar_from_world = inverse_pose(scene.world_from_ego @ scene.calibration.lidar.ego_from_sensor)
        ego_yaw = np.arctan2(scene.world_from_ego[1, 0], scene.world_from_ego[0, 0])
        grey = np.full_like(frame.rendering.image, 90)
        for row in np.flatnonzero(truth.is_labelled & (truth.truncation == 0)):
            box = scene.boxes3d[truth.object_index[row]].copy()
            box[:3], box[6] = transform(box[:3], lidar_from_world), box[6] - ego_yaw
            shown = draw_in_camera(grey, frame.calibration, NAMES, truths=boxes(box), found=NONE_FOUND)
            places = changed(grey, shown)
            assert (places.min(axis=0) <= truth.boxes_xyxy[row, :2] + 1).all()
            assert (places.max(axis=0) >= truth.boxes_xyxy[row, 2:] - 2).all()
            near = truth.full_boxes_xyxy[row] + (-12, -12, 12, 12)
            assert (places.min(axis=0) >= near[:2] - 0.15 * (near[2:] - near[:2])).all()
            looked += 1
    assert looked > 20


def test_two_pictures_one_above_the_other_keep_their_pixels():
    top, bottom = np.full((3, 9, 3), 7, np.uint8), np.full((4, 5, 3), 9, np.uint8)
    joined = one_above_the_other(top, bottom)
    assert joined.shape == (3 + 4 + 4, 9, 3)
    np.testing.assert_array_equal(joined[:3], top)
    np.testing.assert_array_equal(joined[7:, 2:7], bottom)
