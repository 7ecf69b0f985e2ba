import pytest
import torch

from sightline.ops.anchors import anchors_that_fit, best_possible_recall, fit_anchors

SQUARES = torch.tensor([[10.0, 10], [100, 100]])


def test_an_anchor_fits_where_both_sides_differ_by_less_than_the_threshold():
    # 39 / 10 = 3.9 fits, 40 / 10 = 4 does not; 10 / 3 = 3.33 fits; 26 x 41 is too high for
    # the small one, and 100 / 26 = 3.85 fits the large one.
    boxes = torch.tensor([[39.0, 10], [40, 10], [3, 3], [26, 41]])
    fits = anchors_that_fit(boxes, SQUARES, ratio_threshold=4.0)
    assert fits.tolist() == [[True, False], [False, False], [True, False], [False, True]]
    assert best_possible_recall(boxes, SQUARES, ratio_threshold=4.0) == 3 / 4


def test_without_boxes_nothing_is_missed():
    assert best_possible_recall(torch.zeros(0, 2), SQUARES, ratio_threshold=4.0) == 1.0


def test_anchors_of_two_sizes_of_boxes_are_those_sizes():
    boxes = torch.tensor([[4.0, 8], [4, 8], [64, 32], [64, 32], [64, 32]])
    torch.testing.assert_close(fit_anchors(boxes, 2), torch.tensor([[4.0, 8], [64, 32]]))


def test_an_anchor_is_the_geometric_mean_of_its_boxes():
    # sqrt(2 * 8) = 4, sqrt(9 * 16) = 12
    torch.testing.assert_close(fit_anchors(torch.tensor([[2.0, 9], [8, 16]]), 1), torch.tensor([[4.0, 12]]))


def test_fitted_anchors_do_not_depend_on_the_order_and_may_be_more_than_boxes():
    boxes = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 90 + 5
    torch.testing.assert_close(fit_anchors(boxes, 9), fit_anchors(boxes.flip(0), 9))
    assert fit_anchors(boxes[:2], 6).shape == (6, 2)
    with pytest.raises(ValueError, match="at least 1 box"):
        fit_anchors(boxes[:0], 9)
