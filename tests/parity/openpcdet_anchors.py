"""Heads with the settings that were recorded, and boxes as they were recorded."""

import json
import re

import torch

from sightline.models.blocks.anchor_config import AnchorConfig, AnchorHead3DConfig, AnchorLossConfig
from sightline.models.blocks.anchor_head3d import AnchorHead3D
from sightline.ops.boxes3d import BoxTargets3D
from tests.conftest import oracle


def settings(name):
    """The merged configuration of a model."""
    return json.loads(oracle("openpcdet", "train_config_cli.json").read_text())[f"merged_{name}"]


def map_range(name):
    return settings(name)["DATA_CONFIG"]["POINT_CLOUD_RANGE"]


def head_config(name):
    model = settings(name)["MODEL"]
    head, post = model["DENSE_HEAD"], model["POST_PROCESSING"]
    weights = head["LOSS_CONFIG"]["LOSS_WEIGHTS"]
    anchors = [
        AnchorConfig(
            class_name=one["class_name"],
            sizes=one["anchor_sizes"],
            rotations=one["anchor_rotations"],
            bottom=one["anchor_bottom_heights"][0],
            matched_iou=one["matched_threshold"],
            unmatched_iou=one["unmatched_threshold"],
        )
        for one in head["ANCHOR_GENERATOR_CONFIG"]
    ]
    return AnchorHead3DConfig(
        anchors=anchors,
        is_centered=any(one["align_center"] for one in head["ANCHOR_GENERATOR_CONFIG"]),
        direction_bins=head["NUM_DIR_BINS"] if head["USE_DIRECTION_CLASSIFIER"] else 0,
        direction_offset=head["DIR_OFFSET"],
        direction_limit_offset=head["DIR_LIMIT_OFFSET"],
        loss=AnchorLossConfig(
            class_weight=weights["cls_weight"],
            box_weight=weights["loc_weight"],
            direction_weight=weights["dir_weight"],
            code_weights=weights["code_weights"],
        ),
        score_threshold=post["SCORE_THRESH"],
        nms_iou_threshold=post["NMS_CONFIG"]["NMS_THRESH"],
        max_candidates=post["NMS_CONFIG"]["NMS_PRE_MAXSIZE"],
        max_detections=post["NMS_CONFIG"]["NMS_POST_MAXSIZE"],
    )


def head(name, map_hw, point_range=None):
    """A head on a map of this size; only its anchors and rules matter here."""
    return AnchorHead3D(
        head_config(name),
        settings(name)["CLASS_NAMES"],
        in_channels=1,
        map_hw=map_hw,
        point_range=map_range(name) if point_range is None else point_range,
    )


def anchor_grid(arrays, name):
    """The grid of a model whose map is as large as recorded in ``anchors.npz``."""
    height, width = arrays[f"{name}/shape_per_class"][0][1:3].tolist()
    return head(name, (height, width)).grid


def models(arrays, pattern):
    """Names of the models that an archive holds: the first group of the pattern on its keys."""
    return sorted({match[1] for match in (re.fullmatch(pattern, name) for name in arrays.files) if match})


def box_targets(gt_boxes):
    """(B, M, 8) boxes, class from 1 in the last column, rows of zeros as padding -> the house's targets."""
    samples = [torch.as_tensor(rows)[torch.as_tensor(rows)[:, -1] > 0] for rows in gt_boxes]
    boxes = torch.cat(samples)
    return BoxTargets3D(boxes[:, :-1], boxes[:, -1].long() - 1, tuple(len(rows) for rows in samples))
