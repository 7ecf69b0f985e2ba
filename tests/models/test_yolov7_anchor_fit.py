import torch

from sightline.models.yolov7.anchor_fit import judge_anchors

ANCHORS = torch.tensor([[[8.0, 8]], [[32.0, 32]]])  # (L=2, A=1, 2)


def judge(boxes, image_size=64):
    return judge_anchors(torch.tensor(boxes), ANCHORS, ratio_threshold=4.0, image_size=image_size, stride=32)


def test_anchors_that_fit_are_left_alone():
    assert judge([[8.0, 8], [30, 40]]) == (1.0, None, None, 0.0)


def test_boxes_too_small_by_little_ask_for_a_larger_input_or_smaller_anchors():
    # 1.5 px: 8 / 1.5 = 5.33. At 96 px they are 2.25 px, and 8 / 2.25 = 3.56 fits.
    fit = judge([[1.5, 1.5]] * 9 + [[32.0, 32]])
    assert fit.recall == 0.1
    assert fit.larger_size == 96
    assert (fit.better_anchors, fit.better_recall) == ((((1.5, 1.5),), ((32.0, 32.0),)), 1.0)


def test_boxes_far_too_small_have_no_larger_input():
    assert judge([[0.3, 0.3]]).larger_size is None
