import math

import pytest
import torch

from sightline.losses.box_iou import paired_overlap

KINDS = ("iou", "giou", "diou", "ciou")


def pair(a, b):
    return torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)


def random_boxes(count, seed):
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=random, dtype=torch.float64) * 10
    return torch.cat((low, low + 0.5 + torch.rand(count, 2, generator=random, dtype=torch.float64) * 6), dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_boxes_overlap_fully(kind):
    boxes = random_boxes(5, 0)
    torch.testing.assert_close(paired_overlap(boxes, boxes, kind=kind), torch.ones(5).double(), rtol=0, atol=1e-6)


def test_two_squares_by_hand():
    # 2x2 squares, one shifted right by 1. Intersection 2, union 6; enclosing box 3 x 2; centres 1 apart,
    # diagonal squared 13; equal aspect ratios, so the CIoU is the DIoU.
    a, b = pair([0, 0, 2, 2], [1, 0, 3, 2])
    expected = {"iou": 1 / 3, "giou": 1 / 3, "diou": 1 / 3 - 1 / 13, "ciou": 1 / 3 - 1 / 13}
    for kind, value in expected.items():
        assert paired_overlap(a, b, kind=kind).item() == pytest.approx(value, abs=1e-6)


def test_two_boxes_apart_by_hand():
    # Unit squares with a gap of 2: union 2, enclosing box 4 x 1, centres 3 apart, diagonal squared 17.
    a, b = pair([0, 0, 1, 1], [3, 0, 4, 1])
    expected = {"iou": 0, "giou": -(4 - 2) / 4, "diou": -9 / 17, "ciou": -9 / 17}
    for kind, value in expected.items():
        assert paired_overlap(a, b, kind=kind).item() == pytest.approx(value, abs=1e-6)


def test_aspect_ratio_counts_in_ciou_by_hand():
    # Same centre, 4 x 1 and 1 x 4: intersection 1, union 7. v = 4/pi^2 (atan 1/4 - atan 4)^2.
    a, b = pair([-2, -0.5, 2, 0.5], [-0.5, -2, 0.5, 2])
    v = 4 / math.pi**2 * (math.atan(0.25) - math.atan(4)) ** 2
    expected = 1 / 7 - v * v / (1 - 1 / 7 + v)
    assert paired_overlap(a, b, kind="ciou").item() == pytest.approx(expected, abs=1e-6)
    assert paired_overlap(a, b, kind="diou").item() == pytest.approx(1 / 7, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_scale_do_not_matter(kind):
    a, b = random_boxes(20, 1), random_boxes(20, 2)
    value = paired_overlap(a, b, kind=kind)
    torch.testing.assert_close(paired_overlap(b, a, kind=kind), value)
    torch.testing.assert_close(paired_overlap(100 * a, 100 * b, kind=kind), value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_gradients_are_those_of_finite_differences(kind):
    a, b = random_boxes(8, 3).requires_grad_(), random_boxes(8, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: paired_overlap(x, y, kind=kind), (a, b))


def test_ciou_gradient_takes_the_aspect_weight_as_constant():
    a, b = random_boxes(8, 5), random_boxes(8, 6)
    iou, diou = paired_overlap(a, b, kind="iou"), paired_overlap(a, b, kind="diou")

    def aspect(x):
        shape = [torch.atan((box[:, 2] - box[:, 0]) / (box[:, 3] - box[:, 1] + 1e-7)) for box in (x, b)]
        return 4 / math.pi**2 * (shape[0] - shape[1]) ** 2

    weight = aspect(a) / (1 - iou + aspect(a))
    x, y = a.clone().requires_grad_(), a.clone().requires_grad_()
    paired_overlap(x, b, kind="ciou").sum().backward()
    (paired_overlap(y, b, kind="diou") - weight * aspect(y)).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(paired_overlap(a, b, kind="ciou"), diou - weight * aspect(a), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_without_area_give_finite_values_and_gradients(kind):
    a, b = torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4)
    overlap = paired_overlap(a, b, kind=kind).sum()
    overlap.backward()
    assert overlap.isfinite() and a.grad.isfinite().all()


def test_no_boxes():
    assert paired_overlap(torch.zeros(0, 4), torch.zeros(0, 4), kind="ciou").shape == (0,)


def test_unequal_counts_are_refused():
    with pytest.raises(ValueError, match=r"boxes_b: expected shape \(2, 4\), got \(3, 4\)"):
        paired_overlap(torch.zeros(2, 4), torch.zeros(3, 4))
