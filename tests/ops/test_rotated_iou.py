import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.ops import rotated_iou as module
from sightline.ops.rotated_iou import (
    bev_rectangles,
    paired_rotated_iou,
    paired_rotated_iou_3d,
    paired_rotated_iou_bev,
    rotated_iou,
    rotated_iou_3d,
    rotated_iou_bev,
    touching_pairs,
)

SQUARE = [0.0, 0, 2, 2, 0]


def corners(rectangle):
    x, y, dx, dy, angle = rectangle
    cos, sin = math.cos(angle), math.sin(angle)
    return [
        (x + cos * u * dx / 2 - sin * v * dy / 2, y + sin * u * dx / 2 + cos * v * dy / 2)
        for u, v in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ]


def clipped_area(a, b):
    """Common area by cutting one outline along every edge of the other (Sutherland and Hodgman), point by point."""
    outline, cutter = corners(a), corners(b)
    for (px, py), (qx, qy) in zip(cutter, cutter[1:] + cutter[:1], strict=True):
        sides = [(qx - px) * (y - py) - (qy - py) * (x - px) for x, y in outline]
        cut = []
        for i, (x, y) in enumerate(outline):
            (next_x, next_y), here, there = outline[(i + 1) % len(outline)], sides[i], sides[(i + 1) % len(outline)]
            if here >= 0:
                cut.append((x, y))
            if (here > 0 > there) or (here < 0 < there):
                part = here / (here - there)
                cut.append((x + part * (next_x - x), y + part * (next_y - y)))
        outline = cut
        if not outline:
            return 0.0
    following = outline[1:] + outline[:1]
    return sum(x * v - u * y for (x, y), (u, v) in zip(outline, following, strict=True)) / 2


def scattered(count, seed, *, area=8.0):
    random = torch.Generator().manual_seed(seed)
    low, size = torch.tensor([0, 0, 0.2, 0.2, -7]), torch.tensor([area, area, 5, 3, 14])
    return torch.rand(count, 5, generator=random, dtype=torch.float64) * size + low


numbers = st.floats(-5, 5)
sizes = st.floats(0.01, 6)
rectangles = st.tuples(numbers, numbers, sizes, sizes, st.floats(-10, 10))


def iou(a, b, over="union"):
    tensors = (torch.tensor([list(each)], dtype=torch.float64) for each in (a, b))
    return paired_rotated_iou(*tensors, over=over).item()


def test_a_square_turned_by_45_degrees_leaves_a_regular_octagon():
    # Both squares have side 2. The octagon around the unit circle has area 8 tan(pi/8) = 3.3137; union 8 - 3.3137.
    area = 8 * math.tan(math.pi / 8)
    assert iou(SQUARE, [0, 0, 2, 2, math.pi / 4], "nothing") == pytest.approx(area, rel=1e-14)
    assert iou(SQUARE, [0, 0, 2, 2, math.pi / 4]) == pytest.approx(area / (8 - area), rel=1e-14)


def test_a_quarter_turn_of_a_long_rectangle_leaves_its_width_squared():
    # 6 x 1 across 6 x 1: common 1, union 11.
    assert iou([3, 2, 6, 1, 0], [3, 2, 6, 1, math.pi / 2]) == pytest.approx(1 / 11, rel=1e-14)


def test_the_angle_turns_x_towards_y():
    # A 4 x 0.2 rectangle at +45 degrees covers a unit square at (1, 1), not one at (1, -1).
    long = [0, 0, 4, 0.2, math.pi / 4]
    assert iou(long, [1, 1, 1, 1, 0]) > 0.05
    assert iou(long, [1, -1, 1, 1, 0]) == 0


def test_a_shift_by_half_a_side():
    # Common 2, union 6; over the first (area 4) a half; over the second (area 4 too) as well.
    assert iou(SQUARE, [1, 0, 2, 2, 0]) == pytest.approx(1 / 3, rel=1e-15)
    assert iou(SQUARE, [0, 0, 1, 1, 0.3], "first") == pytest.approx(0.25)
    assert iou(SQUARE, [0, 0, 1, 1, 0.3], "second") == pytest.approx(1)
    assert iou(SQUARE, [0, 0, 1, 1, 0.3], "nothing") == pytest.approx(1)


def test_equal_rectangles_have_exactly_one():
    boxes = scattered(300, seed=0)
    assert (paired_rotated_iou(boxes, boxes) == 1).all()
    assert (paired_rotated_iou(boxes.float(), boxes.float()) == 1).all()


def test_rectangles_equal_but_for_half_a_turn_or_rounding_have_one_up_to_rounding():
    boxes = scattered(300, seed=1)
    turned = boxes + torch.tensor([0, 0, 0, 0, math.pi], dtype=torch.float64)
    assert paired_rotated_iou(boxes, turned).sub(1).abs().max() < 1e-14
    for noise in (1e-12, 1e-9, 1e-7, 1e-5):
        near = boxes * (1 + noise * torch.randn(boxes.shape, generator=torch.Generator().manual_seed(2)))
        assert paired_rotated_iou(boxes, near).min() > 1 - 1000 * noise


def test_rectangles_that_only_touch_share_nothing():
    for angle in torch.linspace(-4, 4, 97).tolist():
        for dx in (0.3, 2.0, 37.0):
            shift = (dx + 2) / 2
            beside = [100 + shift * math.cos(angle), -50 + shift * math.sin(angle), dx, 1.3, angle]
            assert iou([100, -50, 2, 2, angle], beside) == 0
            corner = [
                shift * math.cos(angle) - 1.65 * math.sin(angle),
                shift * math.sin(angle) + 1.65 * math.cos(angle),
            ]
            assert iou([0, 0, 2, 2, angle], [*corner, dx, 1.3, angle]) == 0


def test_a_tiny_overlap_is_found():
    # A tip of a millionth: 1e-6 x 2 of 8 - 2e-6.
    assert iou(SQUARE, [2 - 1e-6, 0, 2, 2, 0]) == pytest.approx(2e-6 / (8 - 2e-6), rel=1e-9)


@pytest.mark.parametrize("empty", [[0.0, 0, 0, 2, 0.5], [0, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, 0, -1, 2, 0]])
def test_what_has_no_area_shares_nothing(empty):
    for over in ("union", "first", "second", "nothing"):
        assert iou(empty, SQUARE, over) == iou(SQUARE, empty, over) == iou(empty, empty, over) == 0


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("place", range(5))
def test_what_is_not_finite_shares_nothing_and_harms_no_other(number, place):
    broken = SQUARE.copy()
    broken[place] = number
    table = rotated_iou(torch.tensor([broken, SQUARE]).double(), torch.tensor([SQUARE, broken]).double())
    assert table.isfinite().all()
    assert table[1, 0] == 1
    if not (place in (2, 3) and number == 1e300):
        assert table[0, 0] == 0 or place == 4


def test_places_far_from_the_origin_lose_nothing():
    # UTM coordinates in float64: common 2, union 6 as at the origin.
    far = torch.tensor([[691_000.0, 5_335_000, 2, 2, 0], [691_001, 5_335_000, 2, 2, 0]], dtype=torch.float64)
    assert rotated_iou(far, far).tolist() == [[1, pytest.approx(1 / 3)], [pytest.approx(1 / 3), 1]]
    near, far = (torch.tensor([[place, place, 4, 2, 0.5], [place + 1, place, 4, 2, 0.9]]) for place in (0, 4096))
    assert torch.allclose(rotated_iou(near, near), rotated_iou(far, far), atol=1e-6)


def test_no_boxes():
    none, some = torch.zeros(0, 7), torch.ones(3, 7)
    for fn in (rotated_iou_bev, rotated_iou_3d):
        assert [tuple(fn(*each).shape) for each in ((none, some), (some, none), (none, none))] == [
            (0, 3),
            (3, 0),
            (0, 0),
        ]
    for fn in (paired_rotated_iou_bev, paired_rotated_iou_3d):
        assert fn(none, none).shape == (0,)


def test_wrong_shapes_are_refused():
    for fn in (rotated_iou, paired_rotated_iou):
        with pytest.raises(ValueError, match="rectangles_b: expected shape"):
            fn(torch.zeros(2, 5), torch.zeros(2, 7))
    for fn in (rotated_iou_bev, rotated_iou_3d, paired_rotated_iou_bev, paired_rotated_iou_3d):
        with pytest.raises(ValueError, match="expected shape"):
            fn(torch.zeros(2, 7), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="expected shape"):
        paired_rotated_iou_3d(torch.zeros(2, 7), torch.zeros(3, 7))


def test_boxes_one_above_the_other():
    # 2 x 2 x 2 cubes, the second 1.5 higher and 1 to the side: common 1 x 2 x 0.5 = 1, union 15. From above 2 of 6.
    boxes = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0, 9, 9], [1, 0, 1.5, 2, 2, 2, 0, 9, 9], [0, 0, 2, 2, 2, 2, 0, 9, 9]])
    volume, from_above = rotated_iou_3d(boxes, boxes), rotated_iou_bev(boxes, boxes)
    assert volume[0].tolist() == [1, pytest.approx(1 / 15), 0]
    assert from_above[0].tolist() == [1, pytest.approx(1 / 3), 1]
    assert rotated_iou_3d(boxes, boxes, over="nothing")[0].tolist() == [8, 1, 0]
    assert volume.dtype == torch.float32
    assert rotated_iou_3d(boxes, boxes.double()).dtype == torch.float64


def test_boxes_without_height_share_nothing():
    flat = torch.tensor([[0.0, 0, 0, 2, 2, 0, 0]])
    assert rotated_iou_3d(flat, flat).item() == 0
    assert rotated_iou_bev(flat, flat).item() == 1


def test_pairs_give_the_diagonal_of_the_table():
    random = torch.Generator().manual_seed(3)
    a, b = (torch.rand(50, 7, generator=random) * 3 for _ in range(2))
    for over in ("union", "first", "second", "nothing"):
        for table, pairs in ((rotated_iou_bev, paired_rotated_iou_bev), (rotated_iou_3d, paired_rotated_iou_3d)):
            assert torch.equal(table(a, b, over=over).diagonal(), pairs(a, b, over=over))


def test_the_sizes_of_parts_change_nothing(monkeypatch):
    a, b = scattered(70, seed=4), scattered(60, seed=5)
    whole = rotated_iou(a, b)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 7)
    monkeypatch.setattr(module, "_MATRIX_AT_ONCE", 130)
    assert torch.equal(rotated_iou(a, b), whole)


def test_every_pair_that_shares_something_has_bounds_that_meet():
    a, b = scattered(60, seed=6), scattered(50, seed=7)
    pairs = set(zip(*(index.tolist() for index in touching_pairs(a, b)), strict=True))
    sharing = {(i, j) for i, p in enumerate(a.tolist()) for j, q in enumerate(b.tolist()) if clipped_area(p, q) > 1e-9}
    assert sharing <= pairs
    assert len(pairs) < 0.8 * 60 * 50


def test_the_common_area_is_that_of_random_points_in_both():
    a, b = [1.0, 0.5, 4, 1.5, 0.6], [0.3, 0, 3, 2, -0.4]
    points = (torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 10

    def inside(box):
        x, y, dx, dy, angle = box
        offset = points - torch.tensor([x, y], dtype=torch.float64)
        ahead = offset @ torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        aside = offset @ torch.tensor([-math.sin(angle), math.cos(angle)], dtype=torch.float64)
        return (ahead.abs() <= dx / 2) & (aside.abs() <= dy / 2)

    share = (inside(a) & inside(b)).double().mean().item()  # deviation about 100 sqrt(p / 200000) = 0.04
    assert iou(a, b, "nothing") == pytest.approx(share * 100, abs=0.16)


@given(rectangles, rectangles)
def test_the_common_area_is_that_of_outlines_cut_point_by_point(a, b):
    assert iou(a, b, "nothing") == pytest.approx(clipped_area(a, b), abs=1e-10)


@given(rectangles, rectangles)
def test_the_order_of_the_two_does_not_matter_and_the_value_is_a_share(a, b):
    assert 0 <= iou(a, b) <= 1
    assert iou(a, b) == pytest.approx(iou(b, a), abs=1e-10)


@given(rectangles, rectangles, st.floats(-4, 4), numbers, numbers, st.floats(0.1, 10))
def test_moving_turning_and_scaling_both_changes_nothing(a, b, angle, shift_x, shift_y, scale):
    def moved(box):
        x, y, dx, dy, own = box
        cos, sin = math.cos(angle), math.sin(angle)
        return [
            scale * (cos * x - sin * y) + shift_x,
            scale * (sin * x + cos * y) + shift_y,
            scale * dx,
            scale * dy,
            own + angle,
        ]

    assert iou(moved(a), moved(b)) == pytest.approx(iou(a, b), abs=1e-9)


@given(rectangles, rectangles)
def test_a_half_turn_and_swapped_sides_with_a_quarter_turn_are_the_same_rectangle(a, b):
    x, y, dx, dy, angle = b
    assert iou(a, [x, y, dx, dy, angle - math.pi]) == pytest.approx(iou(a, b), abs=1e-9)
    assert iou(a, [x, y, dy, dx, angle + math.pi / 2]) == pytest.approx(iou(a, b), abs=1e-9)


def test_a_box_seen_from_above_is_its_rectangle():
    assert bev_rectangles(torch.arange(9.0)[None]).tolist() == [[0, 1, 3, 4, 6]]
