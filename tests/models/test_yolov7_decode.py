import pytest
import torch

from sightline.models.yolov7.decode import decode_levels, postprocess

OPTIONS = {"score_threshold": 0.1, "iou_threshold": 0.5}


def rows(*values):
    """(cx, cy, w, h, objectness, classes...) of one image."""
    return torch.tensor([values], dtype=torch.float32)


def test_zero_logits_are_the_centre_of_the_cell_and_the_size_of_the_anchor():
    raw = [torch.zeros(1, 2, 2, 3, 6), torch.zeros(1, 2, 1, 2, 6)]
    anchors = torch.tensor([[[10.0, 20], [30, 40]], [[50, 60], [70, 80]]])
    decoded = decode_levels(raw, anchors, (8, 16))
    assert decoded.shape == (1, 2 * 6 + 2 * 2, 6)
    # Anchor by anchor, then row by row: entry 4 is anchor 0, row 1, column 1; entry 6 the second anchor.
    assert decoded[0, 4].tolist() == [12, 12, 10, 20, 0.5, 0.5]
    assert decoded[0, 6].tolist() == [4, 4, 30, 40, 0.5, 0.5]
    assert decoded[0, 13].tolist() == [24, 8, 50, 60, 0.5, 0.5]


def test_extreme_logits_reach_one_and_a_half_cells_and_four_anchors():
    raw = [torch.full((1, 1, 1, 1, 6), 100.0)]
    decoded = decode_levels(raw, torch.tensor([[[10.0, 20]]]), (8,))
    torch.testing.assert_close(decoded[0, 0], torch.tensor([12.0, 12, 40, 80, 1, 1]))
    decoded = decode_levels([-raw[0]], torch.tensor([[[10.0, 20]]]), (8,))
    torch.testing.assert_close(decoded[0, 0], torch.tensor([-4.0, -4, 0, 0, 0, 0]))


def test_half_precision_is_decoded_in_float32():
    raw = torch.randn(1, 1, 160, 160, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    anchors = torch.tensor([[[10.0, 20]]])
    decoded = decode_levels([raw], anchors, (8,))
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, decode_levels([raw.float()], anchors, (8,)))


def test_level_counts_must_agree():
    with pytest.raises(ValueError, match="1, 2 and 1 levels"):
        decode_levels([torch.zeros(1, 1, 1, 1, 6)], torch.ones(2, 1, 2), (8,))


def test_the_score_is_objectness_times_class():
    (found,) = postprocess(rows([50, 40, 20, 10, 0.5, 0.8, 0.1]), **OPTIONS)
    assert found.boxes_xyxy.tolist() == [[40, 35, 60, 45]]
    assert found.labels.tolist() == [0]
    torch.testing.assert_close(found.scores, torch.tensor([0.4]))


def test_a_box_is_several_classes_or_only_its_best():
    box = rows([50, 40, 20, 10, 1.0, 0.6, 0.9])
    (several,) = postprocess(box, **OPTIONS)
    assert several.labels.tolist() == [1, 0]
    (one,) = postprocess(box, **OPTIONS, multi_label=False)
    assert one.labels.tolist() == [1]


def test_with_one_class_the_objectness_is_the_score():
    (found,) = postprocess(rows([50, 40, 20, 10, 0.7, 0.01]), **OPTIONS)
    torch.testing.assert_close(found.scores, torch.tensor([0.7]))


def test_weak_objectness_is_dropped_whatever_the_classes():
    (found,) = postprocess(rows([50, 40, 20, 10, 0.1, 1.0, 1.0]), **OPTIONS)
    assert len(found.scores) == 0


def test_only_chosen_classes_are_reported():
    box = rows([50, 40, 20, 10, 1.0, 0.6, 0.9, 0.7])
    (found,) = postprocess(box, **OPTIONS, only_labels=[0, 2])
    assert found.labels.tolist() == [2, 0]
    (found,) = postprocess(box, **OPTIONS, only_labels=[])
    assert len(found.scores) == 0


def test_limits_keep_the_best():
    random = torch.Generator().manual_seed(0)
    spread = torch.rand(1, 500, 2, generator=random) * 10_000
    boxes = torch.cat((spread, torch.full((1, 500, 2), 5.0), torch.rand(1, 500, 3, generator=random)), dim=2)
    (everything,) = postprocess(boxes, **OPTIONS, max_detections=10_000)
    (few,) = postprocess(boxes, **OPTIONS, max_detections=7)
    (few_candidates,) = postprocess(boxes, **OPTIONS, max_candidates=7)
    assert len(everything.scores) > 300 and everything.scores.diff().le(0).all()
    for found in (few, few_candidates):
        for part, whole in zip(found, everything, strict=True):
            assert torch.equal(part, whole[:7])


@pytest.mark.parametrize("place", [2000.0, 60.0], ids=["far apart", "in a heap"])
@pytest.mark.parametrize("only_labels", [None, [1, 6]])
def test_the_short_list_changes_nothing(place, only_labels):
    # 2400 (box, class) pairs for 10 detections. In a heap of two classes the best 40 pairs drop one another, so that
    # only the second try finds 10.
    random = torch.Generator().manual_seed(2)
    rows = torch.rand(1, 300, 13, generator=random) * torch.tensor([place] * 2 + [200.0] * 2 + [1] * 9)
    rows[..., 2:4] += 100
    (found,) = postprocess(rows, **OPTIONS, max_detections=10, only_labels=only_labels)
    (everything,) = postprocess(rows, **OPTIONS, max_detections=5000, only_labels=only_labels)
    assert len(everything.scores) > 10
    for part, whole in zip(found, everything, strict=True):
        assert torch.equal(part, whole[:10])


def test_nothing_found_has_empty_fields_of_the_right_kind():
    for decoded in (torch.zeros(2, 10, 9), torch.zeros(2, 0, 9)):
        for found in postprocess(decoded, **OPTIONS):
            assert found.boxes_xyxy.shape == (0, 4) and found.scores.shape == found.labels.shape == (0,)
            assert found.labels.dtype == torch.int64


def test_predictions_of_nan_are_no_detections():
    (found,) = postprocess(torch.full((1, 10, 9), torch.nan), **OPTIONS)
    assert len(found.scores) == 0


def test_images_do_not_disturb_each_other():
    random = torch.Generator().manual_seed(1)
    decoded = torch.rand(3, 200, 9, generator=random) * torch.tensor([100.0] * 4 + [1] * 5)
    together = postprocess(decoded, **OPTIONS)
    for i, found in enumerate(together):
        (alone,) = postprocess(decoded[i : i + 1], **OPTIONS)
        for a, b in zip(found, alone, strict=True):
            assert torch.equal(a, b)
