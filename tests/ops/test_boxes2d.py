import pytest
import torch

from sightline.ops.boxes2d import box_area, box_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from sightline.ops.checks import check_shape


def test_squares_that_share_a_third():
    # Two 2x2 squares, one shifted by 1: intersection 2, union 4 + 4 - 2 = 6.
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])
    torch.testing.assert_close(box_iou(a, b), torch.tensor([[1 / 3]]))


def test_moving_both_boxes_changes_nothing():
    a, b = torch.tensor([[3.0, 4, 9, 8]]), torch.tensor([[5.0, 2, 12, 7]])
    torch.testing.assert_close(box_iou(a + 100, b + 100), box_iou(a, b))


def test_boxes_that_touch_or_are_empty_or_inside_out_do_not_overlap():
    square = torch.tensor([[0.0, 0, 2, 2]])
    others = torch.tensor([[2.0, 0, 4, 2], [1, 1, 1, 1], [2, 2, 0, 0]])
    assert box_iou(square, others).tolist() == [[0, 0, 0]]
    assert box_iou(others[1:], others[1:]).eq(0).all()


@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(n, m):
    assert box_iou(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)


def test_centres_and_corners():
    corners = torch.tensor([[1.0, 2, 5, 10]])
    centres = torch.tensor([[3.0, 6, 4, 8]])
    assert torch.equal(xyxy_to_cxcywh(corners), centres)
    assert torch.equal(cxcywh_to_xyxy(centres), corners)


def test_area_of_an_inside_out_box_is_zero():
    assert box_area(torch.tensor([[0.0, 0, 3, 4], [3, 4, 0, 0]])).tolist() == [12, 0]


def test_a_wrong_shape_is_named_with_both_shapes():
    with pytest.raises(ValueError, match=r"boxes: expected shape \(N, 4\), got \(2, 5\)"):
        check_shape("boxes", torch.zeros(2, 5), ("N", 4))
    with pytest.raises(ValueError, match="boxes"):
        check_shape("boxes", torch.zeros(4), ("N", 4))
