"""Which anchors answer for which boxes, against OpenPCDet's recorded targets on maps of full size."""

import json

import numpy as np
import torch

from sightline.ops.anchors3d import match_anchors
from sightline.ops.residual_code import encode_residuals
from tests.conftest import oracle
from tests.parity.openpcdet_anchors import anchor_grid, box_targets, head_config, models


def test_every_anchor_has_the_recorded_target():
    counts = json.loads(oracle("openpcdet", "targets_fullsize_meta.json").read_text())
    with (
        np.load(oracle("openpcdet", "anchors.npz")) as anchors,
        np.load(oracle("openpcdet", "targets_fullsize.npz")) as arrays,
    ):
        targets = box_targets(arrays["gt_boxes"])
        names = models(arrays, r"(\w+)/0/pos_index")
        assert names
        for name in names:
            grid, config = anchor_grid(anchors, name), head_config(name)
            matches = match_anchors(
                grid,
                targets,
                matched_iou=[one.matched_iou for one in config.anchors],
                unmatched_iou=[one.unmatched_iou for one in config.anchors],
            )
            for sample in range(len(targets.counts)):
                case = f"{name}/{sample}"
                mine = matches.anchors // grid.num_anchors == sample
                index, boxes = matches.anchors[mine] % grid.num_anchors, matches.boxes[mine]
                ignored = matches.ignored[matches.ignored // grid.num_anchors == sample] % grid.num_anchors
                np.testing.assert_array_equal(index, arrays[f"{case}/pos_index"], err_msg=case)
                np.testing.assert_array_equal(targets.labels[boxes] + 1, arrays[f"{case}/pos_label"], err_msg=case)
                np.testing.assert_array_equal(ignored, arrays[f"{case}/ignored_index"], err_msg=case)
                codes = encode_residuals(targets.boxes3d[boxes], grid.boxes(index))
                assert len(index) == arrays[f"{case}/reg_weight_sum"]  # every positive weighs 1, nothing else anything
                np.testing.assert_allclose(codes, arrays[f"{case}/pos_target"], rtol=1e-6, atol=2e-5, err_msg=case)
                told = counts[case]
                assert (len(index), len(ignored), grid.num_anchors) == (
                    told["positives"],
                    told["ignored"],
                    told["total"],
                )
            assert torch.equal(matches.anchors, matches.anchors.sort().values)
