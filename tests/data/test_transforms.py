"""Resizing, padding, mixing, colours and geometry of single images."""

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.memory import Scratch
from sightline.data.transforms.affine import (
    Affine,
    affine_matrix,
    boxes_worth_keeping,
    clip_boxes,
    flip_boxes,
    transform_boxes,
)
from sightline.data.transforms.augment import ImageAugmentConfig, draw_plan
from sightline.data.transforms.colour import apply_hsv, changed_grey, hsv_tables
from sightline.data.transforms.image import (
    PAD_VALUE,
    mix_up,
    plan_letterbox,
    resize,
    resized_hw,
    write_planes,
)
from tests.data.pictures import NO_AUGMENTATION, smooth_image

sizes = st.tuples(st.integers(1, 700), st.integers(1, 700))


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_the_long_side_is_resized_and_the_short_side_cut():
    assert resized_hw((480, 640), 320) == (240, 320)
    assert resized_hw((100, 150), 64) == (42, 64)  # 42.67 is cut to 42
    assert resized_hw((640, 3), 64) == (64, 1)  # 0.3 would be no image
    assert resized_hw((33, 64), 64) == (33, 64)


def test_resizing_writes_into_the_given_memory():
    image, slab = noise(0, 40, 60, 3), np.zeros((100, 100, 3), np.uint8)
    view = slab[10:30, 20:50]
    assert np.shares_memory(resize(image, (20, 30), out=view), slab)
    np.testing.assert_array_equal(view, resize(image, (20, 30)))
    assert slab.sum() == view.sum(dtype=np.int64)


def test_halving_with_area_is_the_mean_of_four_pixels():
    image = noise(1, 40, 60, 3)
    mean = image.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize(image, (20, 30), area=True) - mean).max() <= 0.5


@given(image_hw=sizes, input_hw=sizes, upscale=st.booleans())
def test_a_letterbox_fills_the_input_and_keeps_the_aspect(image_hw, input_hw, upscale):
    plan = plan_letterbox(image_hw, input_hw, upscale=upscale)
    assert plan.input_hw == input_hw
    assert abs(plan.left_top[0] - plan.right_bottom[0]) <= 1
    assert abs(plan.left_top[1] - plan.right_bottom[1]) <= 1
    assert plan.resized_hw[0] == input_hw[0] or plan.resized_hw[1] == input_hw[1] or not upscale
    assert upscale or plan.scale_xy[0] <= 1


def test_a_letterbox_by_hand():
    # 60 x 90 into 64 x 64: ratio 64 / 90, height 42.67 -> 43, 21 rows of padding: 10 above, 11 below.
    plan = plan_letterbox((60, 90), (64, 64))
    assert (plan.resized_hw, plan.left_top, plan.right_bottom) == ((43, 64), (0, 10), (0, 11))
    planes = np.empty((3, 64, 64), np.uint8)
    image = np.full((43, 64, 3), 200, np.uint8)
    write_planes(image, planes, Scratch(), left_top=plan.left_top, background=PAD_VALUE)
    assert (planes[:, :10] == PAD_VALUE).all()
    assert (planes[:, 10:53] == 200).all()
    assert (planes[:, 53:] == PAD_VALUE).all()


def test_a_letterbox_to_a_stride_pads_only_to_its_next_multiple():
    assert plan_letterbox((200, 150), (96, 96), stride=32).input_hw == (96, 96)  # 96 x 72 -> 24 % 32 columns
    assert plan_letterbox((100, 20), (96, 96), stride=32).input_hw == (96, 32)  # 96 x 19 -> 77 % 32 = 13


def test_stretching_has_no_padding():
    plan = plan_letterbox((50, 80), (96, 96), stretch=True)
    assert (plan.resized_hw, plan.left_top, plan.scale_xy) == ((96, 96), (0, 0), (1.2, 1.92))


def test_mixing_two_images_is_their_weighted_mean_rounded_down():
    first, second, ratio = noise(2, 30, 40, 3), noise(3, 30, 40, 3), 0.3125
    exact = np.floor(first * ratio + second * (1 - ratio))  # a sum of sixteenths: exact in float64
    np.testing.assert_array_equal(mix_up(first, second, ratio), exact)


@pytest.mark.parametrize("ratio", [0.1, 1 / 3, 0.7, 0.999])
def test_mixing_equal_images_changes_nothing(ratio):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(mix_up(image, image, ratio), image)


def test_planes_hold_the_image_and_the_background_round_it():
    image, planes = noise(4, 5, 7, 3), np.zeros((3, 10, 12), np.uint8)
    write_planes(image, planes, Scratch(), left_top=(2, 3), background=9)
    expected = np.full((10, 12, 3), 9, np.uint8)
    expected[3:8, 2:9] = image
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), expected)


def test_planes_of_an_image_with_gaps_between_its_rows():
    frame, planes = noise(4, 9, 15, 3), np.zeros((3, 5, 7), np.uint8)
    write_planes(frame[2:7, 4:11], planes, Scratch())
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), frame[2:7, 4:11])


def test_an_empty_image_leaves_only_background():
    planes = np.zeros((3, 4, 5), np.uint8)
    write_planes(np.zeros((0, 0, 3), np.uint8), planes, Scratch(), background=7)
    assert (planes == 7).all()


def test_tables_of_factor_one_change_nothing():
    hue, saturation, value = hsv_tables((1, 1, 1))
    np.testing.assert_array_equal(hue, np.arange(256) % 180)
    np.testing.assert_array_equal(saturation, np.arange(256))
    np.testing.assert_array_equal(value, np.arange(256))


def test_hue_goes_round_and_the_others_stop():
    hue, saturation, value = hsv_tables((1.5, 2, 0.5))
    assert (hue[100], hue[121]) == (150, 1)  # 181.5 - 180 = 1.5
    assert (saturation[100], saturation[128], value[255]) == (200, 255, 127)


def test_colours_change_as_the_standard_library_says():
    image, gains = smooth_image(5, 24, 32), (1.2, 0.7, 1.1)
    changed = apply_hsv(image, gains, Scratch())
    for before, after in zip(image.reshape(-1, 3) / 255, changed.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb((h * gains[0]) % 1, min(s * gains[1], 1), min(v * gains[2], 1))
        # Hue is kept in steps of 2 degrees, and every table and conversion rounds.
        assert np.abs(np.array(expected) * 255 - after).max() < 9


@pytest.mark.parametrize("rows", [81, 1118])  # few pixels, and many, go different ways
@given(gains=st.tuples(st.floats(0.5, 1.5), st.floats(0, 2), st.floats(0, 2)))
def test_colours_change_as_by_tables(rows, gains):
    # Every level in each channel, by the plain way: convert, look up, convert back.
    image = np.stack(np.meshgrid(*[np.arange(0, 256, step) for step in (17, 3, 5)]), axis=-1).astype(np.uint8)
    image = image.reshape(-1, 64, 3)[:rows]
    assert len(image) == rows
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    expected = cv2.cvtColor(cv2.LUT(hsv, hsv_tables(gains).T[None].copy()), cv2.COLOR_HSV2RGB)
    np.testing.assert_array_equal(apply_hsv(image, gains, Scratch()), expected)


def test_grey_stays_grey():
    grey = np.full((9, 9, 3), 114, np.uint8)
    for gains in ((0.9, 1.3, 1.2), (1.5, 0.1, 2.9), (1, 1, 1)):
        assert (apply_hsv(grey, gains, Scratch()) == changed_grey(114, gains)).all()


def test_colours_of_a_part_are_those_of_the_whole():
    image = noise(6, 40, 50, 3)
    before, gains = image.copy(), (0.9, 1.3, 1.2)
    whole = apply_hsv(image, gains, Scratch())
    part = apply_hsv(image[5:30, 8:41], gains, Scratch())
    # OpenCV rounds the last few pixels of a row in another way, so one level may differ.
    assert np.abs(part.astype(int) - whole[5:30, 8:41]).max() <= 1
    np.testing.assert_array_equal(image, before)


def test_the_default_change_keeps_the_centre_and_changes_nothing():
    np.testing.assert_allclose(affine_matrix(Affine(), (100, 200), (100, 200)), np.eye(3), atol=1e-12)
    centre = affine_matrix(Affine(scale=3, angle_degrees=20), (100, 200), (60, 80)) @ (100, 50, 1)
    np.testing.assert_allclose(centre, (40, 30, 1), atol=1e-12)


def test_a_quarter_turn_by_hand():
    # Counter-clockwise as seen: the right end goes up, where y is small.
    matrix = affine_matrix(Affine(angle_degrees=90), (100, 100), (100, 100))
    np.testing.assert_allclose(matrix @ (100, 50, 1), (50, 0, 1), atol=1e-12)
    boxes = transform_boxes(np.array([[80.0, 40, 100, 60]]), matrix)
    np.testing.assert_allclose(boxes, [[40, 0, 60, 20]], atol=1e-12)


@given(
    scale=st.floats(0.1, 3),
    shift=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    perspective=st.sampled_from([0.0, 1e-300]),
)
def test_the_short_way_for_scale_and_shift_gives_the_same_boxes(scale, shift, perspective):
    # A perspective of 1e-300 changes no number but takes the long way over the corners.
    boxes = np.array([[3.0, 4, 50, 60], [0, 0, 10, 80]])
    affine = Affine(scale=scale, shift_xy=shift, perspective_xy=(perspective, 0))
    matrix = affine_matrix(affine, (100, 120), (64, 72))
    expected = np.concatenate((boxes[:, :2], boxes[:, 2:]), axis=1) * scale
    expected += np.tile([shift[0] * 72 - scale * 60, shift[1] * 64 - scale * 50], 2)
    np.testing.assert_allclose(transform_boxes(boxes, matrix), expected, atol=1e-9)


def test_boxes_hold_the_corners_after_perspective():
    matrix = affine_matrix(Affine((0.001, -0.0005), 15, 0.8, (5, -3), (0.45, 0.6)), (96, 128), (96, 128))
    box = np.array([[20.0, 30, 70, 80]])
    points = np.array([(x, y, 1) for x in (20, 70, 45) for y in (30, 80, 55)]) @ matrix.T
    points = points[:, :2] / points[:, 2:]
    moved = transform_boxes(box, matrix)[0]
    np.testing.assert_allclose(moved, [*points.min(axis=0), *points.max(axis=0)])


def test_clipping_and_no_boxes():
    np.testing.assert_array_equal(clip_boxes(np.array([[-5.0, 2, 30, 90]]), (50, 20)), [[0, 2, 20, 50]])
    empty = np.zeros((0, 4))
    assert clip_boxes(empty, (5, 5)).shape == transform_boxes(empty, np.eye(3)).shape == (0, 4)
    assert transform_boxes(empty, affine_matrix(Affine(angle_degrees=3), (9, 9), (9, 9))).shape == (0, 4)
    assert boxes_worth_keeping(empty, empty).shape == (0,)


def test_boxes_of_which_little_is_left_are_dropped():
    before = np.array([[0.0, 0, 100, 100]] * 5)
    after = np.array([[0.0, 0, 100, 11], [0, 0, 100, 9], [0, 0, 100, 2], [0, 0, 2.0, 100], [0, 0, 100, 4.9]])
    assert boxes_worth_keeping(before, after).tolist() == [True, False, False, False, False]
    # The last one has an aspect of 20.4; with half its area to begin with, only that drops it.
    half = np.array([[0.0, 0, 100, 9.8]])
    assert boxes_worth_keeping(half, after[4:]).tolist() == [False]
    assert boxes_worth_keeping(half, after[4:], max_aspect=21).tolist() == [True]


@given(left_right=st.booleans(), up_down=st.booleans())
def test_mirrored_boxes_lie_on_the_mirrored_pixels(left_right, up_down):
    picture = np.zeros((30, 40), np.uint8)
    picture[5:12, 20:31] = 1
    mirrored = picture[:: -1 if up_down else 1, :: -1 if left_right else 1]
    x_min, y_min, x_max, y_max = flip_boxes(
        np.array([[20.0, 5, 31, 12]]), (30, 40), left_right=left_right, up_down=up_down
    )[0]
    rows, columns = np.nonzero(mirrored)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x_min, y_min, x_max, y_max)


def partners(generator, count):
    return tuple(generator.integers(0, 50, count).tolist())


def plans(config, count=400, **options):
    return [draw_plan(np.random.default_rng(i), config, 7, partners, **options) for i in range(count)]


def test_without_augmentation_a_plan_changes_nothing():
    for plan in plans(NO_AUGMENTATION, 20):
        assert plan.canvas.sample_ids == (7,)
        assert plan.canvas.affine == Affine()
        assert (plan.mixed_with, plan.hsv_gains, plan.flip_lr, plan.flip_ud) == (None, None, False, False)


def test_drawn_numbers_stay_in_their_ranges_and_fill_them():
    config = ImageAugmentConfig(
        degrees=10, translate=0.2, scale=(0.4, 1.7), shear=5, perspective=0.0005, hsv_h=0.1, hsv_s=0.5, hsv_v=0.3
    )
    drawn = plans(config)
    affines = [plan.canvas.affine for plan in drawn]
    for values, low, high in [
        ([a.angle_degrees for a in affines], -10, 10),
        ([a.scale for a in affines], 0.4, 1.7),
        ([s for a in affines for s in a.shear_degrees_xy], -5, 5),
        ([s for a in affines for s in a.shift_xy], 0.3, 0.7),
        ([p for a in affines for p in a.perspective_xy], -0.0005, 0.0005),
        ([plan.hsv_gains[0] for plan in drawn], 0.9, 1.1),
        ([plan.hsv_gains[1] for plan in drawn], 0.5, 1.5),
        ([plan.hsv_gains[2] for plan in drawn], 0.7, 1.3),
    ]:
        width = high - low
        assert low <= min(values) < low + 0.05 * width
        assert high - 0.05 * width < max(values) <= high


def test_probabilities_are_kept():
    config = ImageAugmentConfig(mosaic=0.8, mosaic9=0.25, mixup=0.5, flip_lr=0.5, flip_ud=0.1)
    drawn = plans(config, 3000)
    counts = [len(plan.canvas.sample_ids) for plan in drawn]
    mosaics = [plan for plan in drawn if len(plan.canvas.sample_ids) > 1]
    # Standard errors are below 0.01; the bounds are at least 4 of them.
    assert np.mean([count == 1 for count in counts]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([count == 9 for count in counts]) == pytest.approx(0.8 * 0.25, abs=0.03)
    assert np.mean([plan.mixed_with is not None for plan in mosaics]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([plan.flip_lr for plan in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([plan.flip_ud for plan in drawn]) == pytest.approx(0.1, abs=0.03)
    ratios = [plan.mix_ratio for plan in mosaics if plan.mixed_with is not None]
    assert np.mean(ratios) == pytest.approx(0.5, abs=0.02)
    assert np.std(ratios) == pytest.approx(0.5 / 17**0.5, abs=0.02)  # of Beta(8, 8)


def test_an_epoch_without_mosaic_has_neither_mosaic_nor_mixup():
    for plan in plans(ImageAugmentConfig(mosaic=1, mixup=1), 50, mosaic=False):
        assert plan.canvas.sample_ids == (7,)
        assert plan.mixed_with is None


def test_a_mosaic_begins_with_its_own_image():
    assert all(plan.canvas.sample_ids[0] == 7 for plan in plans(ImageAugmentConfig(mosaic9=0.5), 50))


@pytest.mark.parametrize(
    "wrong", [{"scale": (0, 1)}, {"scale": (1.2, 1)}, {"mosaic": 1.5}, {"degres": 5}, {"hsv_h": -1}]
)
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImageAugmentConfig(**wrong)


def test_opencv_and_we_agree_on_rotation():
    ours = affine_matrix(Affine(angle_degrees=33, scale=1.7), (0, 0), (0, 0))
    np.testing.assert_allclose(ours[:2], cv2.getRotationMatrix2D((0, 0), 33, 1.7), atol=1e-12)
