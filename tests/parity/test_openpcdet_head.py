"""The anchor head on a small map: targets, losses, gradients and decoded boxes of OpenPCDet."""

import json

import numpy as np
import pytest
import torch

from sightline.models.blocks.anchor_predictor import AnchorPredictions
from sightline.ops.anchors3d import match_anchors
from sightline.ops.direction_bins import direction_labels
from tests.conftest import oracle
from tests.parity.openpcdet_anchors import box_targets, head


class Case:
    def __init__(self):
        with np.load(oracle("openpcdet", "head_small.npz")) as file:
            self.arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        self.maps = [self.arrays[f"{part}_preds"].clone().requires_grad_() for part in ("cls", "box", "dir")]
        samples, height, width = self.maps[0].shape[:3]
        self.head = head("pointpillar", (height, width), self.arrays["range"].tolist())
        config = self.head.config
        logits, deltas, directions = (one.view(samples, self.head.grid.num_anchors, -1) for one in self.maps)
        assert (deltas.shape[2], directions.shape[2]) == (7, config.direction_bins)
        self.predictions = AnchorPredictions(logits, deltas, directions)
        self.targets = box_targets(self.arrays["gt_boxes"])


@pytest.fixture
def case():
    return Case()


def test_targets_are_as_recorded(case):
    head = case.head
    labels = torch.zeros_like(case.arrays["box_cls_labels"])
    directions = torch.full_like(case.arrays["dir_targets"], 0)
    matches = match_anchors(head.grid, case.targets, matched_iou=head.matched_iou, unmatched_iou=head.unmatched_iou)
    flat = labels.view(-1)
    flat[matches.anchors] = (case.targets.labels[matches.boxes] + 1).to(flat.dtype)
    flat[matches.ignored] = -1
    assert torch.equal(labels, case.arrays["box_cls_labels"])
    yaws = case.targets.boxes3d[matches.boxes, 6]
    bins = direction_labels(yaws, bins=head.config.direction_bins, offset=head.config.direction_offset)
    directions.view(-1)[matches.anchors] = bins.to(directions.dtype)
    is_positive = labels > 0
    assert torch.equal(directions[is_positive], case.arrays["dir_targets"][is_positive])


def test_losses_and_gradients_are_as_recorded(case):
    losses = case.head.losses(case.predictions, case.targets)
    wanted = json.loads(oracle("openpcdet", "head_small_losses.json").read_text())
    for name, theirs in (("class", "rpn_loss_cls"), ("box", "rpn_loss_loc"), ("direction", "rpn_loss_dir")):
        assert losses[name].item() == pytest.approx(wanted[theirs], rel=1e-6)
    total = torch.stack(list(losses.values())).sum()
    assert total.item() == pytest.approx(wanted["loss_total"], rel=1e-6)
    total.backward()
    for part, one in zip(("cls", "box", "dir"), case.maps, strict=True):
        grad = case.arrays[f"grad_{part}"]
        torch.testing.assert_close(one.grad, grad, rtol=1e-6, atol=1e-6 * grad.abs().max().item())


def test_boxes_are_decoded_as_recorded(case):
    for sample, wanted in enumerate(case.arrays["decoded_boxes"]):
        torch.testing.assert_close(case.head.decode(case.predictions, sample), wanted, rtol=1e-6, atol=2e-5)
    without = case.predictions._replace(directions=None)
    for sample, wanted in enumerate(case.arrays["decoded_boxes_without_dir"]):
        torch.testing.assert_close(case.head.decode(without, sample), wanted, rtol=1e-6, atol=2e-5)
