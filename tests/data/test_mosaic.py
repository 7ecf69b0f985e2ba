"""Several images on one canvas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.data.transforms.affine import Affine, affine_matrix, transform_boxes
from sightline.data.transforms.image import PAD_VALUE
from sightline.data.transforms.mosaic import Tile, border_of, mosaic4_tiles, mosaic9_tiles, paint, place, warp
from tests.data.pictures import smooth_image

SIDE = 96


def placed(images, tiles, affine, canvas_hw=(2 * SIDE, 2 * SIDE), output_hw=(SIDE, SIDE)):
    """Output (h, w, 3) of the direct way, and the rows it says it painted."""
    border = border_of(affine)
    framed = np.empty((output_hw[0] + 2 * border, output_hw[1] + 2 * border, 3), np.uint8)
    matrix = affine_matrix(affine, canvas_hw, output_hw)
    rows = place(images, tiles, canvas_hw, matrix, framed, border)
    return framed[border:-border, border:-border], rows


def warped(images, tiles, affine, canvas_hw=(2 * SIDE, 2 * SIDE), output_hw=(SIDE, SIDE)):
    canvas, output = np.empty((*canvas_hw, 3), np.uint8), np.empty((*output_hw, 3), np.uint8)
    paint(images, tiles, canvas)
    warp(canvas, affine, output)
    return output


sizes_hw = st.lists(
    st.one_of(st.tuples(st.just(SIDE), st.integers(20, SIDE)), st.tuples(st.integers(20, SIDE), st.just(SIDE))),
    min_size=9,
    max_size=9,
)
affines = st.builds(Affine, scale=st.floats(0.15, 2), shift_xy=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)))


def test_four_images_meet_at_the_centre():
    tiles = mosaic4_tiles([(10, 20), (30, 40), (50, 60), (70, 80)], (100, 90))
    assert [tile.left_top for tile in tiles] == [(80, 80), (100, 60), (40, 90), (100, 90)]
    rectangles = [tile.visible((128, 128)) for tile in tiles]
    assert rectangles == [(80, 80, 100, 90), (100, 60, 128, 90), (40, 90, 100, 128), (100, 90, 128, 128)]


def test_nine_images_of_the_full_size_are_a_grid():
    s = 64
    tiles = mosaic9_tiles([(s, s)] * 9, s, (10, 20))
    places = [(1, 1), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1), (0, 0)]
    assert [tile.left_top for tile in tiles] == [(column * s - 10, row * s - 20) for column, row in places]


def test_parts_outside_of_the_canvas_are_not_painted():
    image = smooth_image(0, 40, 50)
    canvas = np.empty((60, 60, 3), np.uint8)
    paint([image], [Tile((-20, 30), (40, 50))], canvas)
    np.testing.assert_array_equal(canvas[30:, :30], image[:30, 20:])
    assert (canvas[:30] == PAD_VALUE).all()
    assert (canvas[30:, 30:] == PAD_VALUE).all()


def test_without_any_change_placing_is_painting():
    images = [smooth_image(i, 64, 48) for i in range(4)]
    tiles = mosaic4_tiles([(64, 48)] * 4, (SIDE // 2, SIDE // 2 + 5))
    output, rows = placed(images, tiles, Affine(), (SIDE, SIDE))
    canvas = np.empty((SIDE, SIDE, 3), np.uint8)
    paint(images, tiles, canvas)
    np.testing.assert_array_equal(output, canvas)
    assert rows == (0, SIDE)


@settings(max_examples=60)
@given(sizes=sizes_hw, affine=affines, corner=st.tuples(st.floats(0, 1), st.floats(0, 1)), nine=st.booleans())
def test_placing_covers_what_it_says_and_nothing_else(sizes, affine, corner, nine):
    u, v = corner
    if nine:
        tiles = mosaic9_tiles(sizes, SIDE, (int(u * SIDE), int(v * SIDE)))
    else:
        sizes = sizes[:4]
        tiles = mosaic4_tiles(sizes, (int((0.5 + u) * SIDE), int((0.5 + v) * SIDE)))
    images = [np.full((*hw, 3), 200 + i, np.uint8) for i, hw in enumerate(sizes)]
    output, painted_rows = placed(images, tiles, affine)
    covered = (output != PAD_VALUE).all(axis=2)
    rows, _ = np.nonzero(covered)
    assert painted_rows == ((rows.min(), rows.max() + 1) if len(rows) else (0, 0))
    # Every tile's edge lies within half a pixel of its exact place: the last tile is covered by none.
    tile, value = tiles[-1], 200 + len(tiles) - 1
    exact = transform_boxes(
        np.array([tile.visible((2 * SIDE, 2 * SIDE))], np.float64), affine_matrix(affine, (2 * SIDE,) * 2, (SIDE, SIDE))
    )[0]
    rows, columns = np.nonzero((output == value).all(axis=2))
    if len(rows):
        edges = np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        assert np.abs(edges - np.clip(exact, 0, SIDE)).max() <= 0.5 + 1e-9
    else:
        x0, y0, x1, y1 = np.clip(exact, 0, SIDE)
        assert x1 - x0 <= 1 or y1 - y0 <= 1


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.3, 2.0])
def test_placing_gives_nearly_the_pixels_of_a_warp(scale):
    # The originals warp pixel centres as if they were at whole coordinates, which moves the picture by
    # (scale - 1) / 2 pixels; the shift of the warp is corrected by that here, to compare the pictures.
    images = [smooth_image(10 + i, SIDE, 72) for i in range(4)]
    tiles = mosaic4_tiles([(SIDE, 72)] * 4, (SIDE + 8, SIDE - 10))
    direct, (first, end) = placed(images, tiles, Affine(scale=scale))
    shift = 0.5 + (scale - 1) / 2 / SIDE
    whole = warped(images, tiles, Affine(scale=scale, shift_xy=(shift, shift)))
    inside = (slice(first + 3, end - 3), slice(3, -3))
    # Tiles differ by up to half a pixel; along their seams one shows what the other does not.
    assert np.abs(direct[inside].astype(int) - whole[inside]).mean() < 3


def test_boxes_lie_on_the_pixels_they_are_about():
    # One bright rectangle per image; its box, moved exactly, must be where the bright pixels are.
    images, boxes = [], []
    for i in range(4):
        image = np.full((SIDE, SIDE, 3), 50, np.uint8)
        box = (20 + 4 * i, 30, 60 + 2 * i, 70 - 3 * i)
        image[box[1] : box[3], box[0] : box[2]] = 220
        images.append(image)
        boxes.append(box)
    tiles = mosaic4_tiles([(SIDE, SIDE)] * 4, (SIDE, SIDE))
    for affine in (Affine(scale=0.5), Affine(scale=0.45, shift_xy=(0.53, 0.48))):
        matrix = affine_matrix(affine, (2 * SIDE, 2 * SIDE), (SIDE, SIDE))
        output, _ = placed(images, tiles, affine)
        for tile, box in zip(tiles, boxes, strict=True):
            exact = transform_boxes(np.array([box], np.float64) + np.array(tile.left_top * 2), matrix)[0]
            x0, y0, x1, y1 = np.round(exact).astype(int)
            bright = output[max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3, 0] > 135
            rows, columns = np.nonzero(bright)
            found = np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), np.float64)
            found += np.array((max(x0 - 3, 0), max(y0 - 3, 0)) * 2)
            assert np.abs(found - exact).max() < 1.01


def test_a_mosaic_out_of_sight_is_all_grey():
    output, rows = placed([smooth_image(0, 20, 20)], [Tile((0, 0), (20, 20))], Affine(scale=2), (1000, 1000))
    assert (output == PAD_VALUE).all()
    assert rows == (0, 0)


def test_a_turned_canvas_is_warped():
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[:, SIDE // 2 :] = 255  # bright on the right; counter-clockwise by 90 degrees that is the top
    output = warped([image], [Tile((0, 0), (SIDE, SIDE))], Affine(angle_degrees=90), (SIDE, SIDE))
    assert output[5, SIDE // 2, 0] == 255
    assert output[SIDE - 5, SIDE // 2, 0] == 0


def test_perspective_is_warped_too():
    image = smooth_image(3, SIDE, SIDE)
    tiles = [Tile((0, 0), (SIDE, SIDE))]
    flat = warped([image], tiles, Affine(), (SIDE, SIDE))
    tilted = warped([image], tiles, Affine(perspective_xy=(0.002, 0)), (SIDE, SIDE))
    np.testing.assert_array_equal(flat, image)
    assert np.abs(tilted.astype(int) - flat).mean() > 3
