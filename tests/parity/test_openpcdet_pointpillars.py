"""PointPillars: the recorded evaluation and the recorded training steps of OpenPCDet."""

import numpy as np
import pytest
import torch

from sightline.models.blocks.bev_backbone import BevBackboneConfig
from sightline.models.pointpillars.config import PointPillarsConfig
from sightline.models.pointpillars.model import PointPillars, openpcdet_names
from sightline.ops.filled_cells import FilledCells
from sightline.ops.rotated_iou import rotated_iou_bev
from tests.parity.openpcdet_anchors import head_config, settings
from tests.parity.openpcdet_detectors import (
    OUTPUTS,
    arrays_of,
    boxes_of_one_side,
    check_from_cells,
    check_map,
    check_steps,
    clouds,
)
from tests.parity.openpcdet_weights import fill, recorded_model

NAME = "pointpillar"
MARGIN = 5e-3  # the original's overlaps in the suppression are up to 4e-3 too large: corners 1 cm wider


def config():
    merged = settings(NAME)
    processors = {one["NAME"]: one for one in merged["DATA_CONFIG"]["DATA_PROCESSOR"]}
    voxels, pyramid = processors["transform_points_to_voxels"], merged["MODEL"]["BACKBONE_2D"]
    return PointPillarsConfig(
        point_range=merged["DATA_CONFIG"]["POINT_CLOUD_RANGE"],
        pillar_size=voxels["VOXEL_SIZE"][:2],
        max_points_per_pillar=voxels["MAX_POINTS_PER_VOXEL"],
        max_pillars_training=voxels["MAX_NUMBER_OF_VOXELS"]["train"],
        max_pillars=voxels["MAX_NUMBER_OF_VOXELS"]["test"],
        pillar_channels=merged["MODEL"]["VFE"]["NUM_FILTERS"],
        backbone=BevBackboneConfig(
            layers=pyramid["LAYER_NUMS"],
            strides=pyramid["LAYER_STRIDES"],
            channels=pyramid["NUM_FILTERS"],
            up_strides=pyramid["UPSAMPLE_STRIDES"],
            up_channels=pyramid["NUM_UPSAMPLE_FILTERS"],
        ),
        head=head_config(NAME),
    )


def test_the_defaults_are_the_published_ones():
    assert config() == PointPillarsConfig()


def filled_model(recorded):
    model = PointPillars(config(), settings(NAME)["CLASS_NAMES"])
    fill(model, recorded, openpcdet_names(model.config))
    return model


@pytest.fixture(scope="module")
def recorded():
    return recorded_model(f"model_{NAME}")


@pytest.fixture(scope="module")
def arrays():
    return arrays_of(NAME)


@torch.no_grad()
def test_evaluation_is_as_recorded(recorded, arrays):
    model = filled_model(recorded).eval()
    batch = clouds(NAME, [recorded["eval_frame"]])
    grouped = model.group(batch)
    assert len(grouped.num_points) == recorded["eval_num_voxels"]
    features = model.pillars(grouped, model.config.max_points_per_pillar)
    check_map(features, arrays, "pillar_features")
    first = arrays["pillar_features_first200"]
    np.testing.assert_allclose(features[: len(first)], first, rtol=0, atol=OUTPUTS * np.abs(first).max())
    cells = FilledCells(features, grouped.coords, 1, model.map_hw)
    check_from_cells(model, cells, arrays)


def test_final_boxes_are_those_recorded_but_for_overlaps_at_the_threshold(recorded, arrays):
    model = filled_model(recorded).eval()
    (found,) = model.detect(clouds(NAME, [recorded["eval_frame"]]))
    threshold = model.config.head.nms_iou_threshold
    theirs = torch.from_numpy(arrays["final/pred_boxes"])
    scores = torch.from_numpy(arrays["final/pred_scores"])
    only_ours, only_theirs = boxes_of_one_side(found, theirs, arrays)
    assert len(scores) - len(only_theirs) >= 0.98 * len(scores)
    last = min(found.scores.min(), scores.min()) if len(scores) else 0.0
    for number in only_ours:  # they dropped it for an overlap that is a little below the threshold
        is_better = scores > found.scores[number]
        overlap = rotated_iou_bev(found.boxes3d[number : number + 1], theirs[is_better])[0]
        assert ((overlap <= threshold) & (overlap > threshold - MARGIN)).any() or found.scores[number] <= last
    for number in only_theirs:  # we dropped it for one that they did not keep
        is_better = found.scores > scores[number]
        overlap = rotated_iou_bev(theirs[number : number + 1], found.boxes3d[is_better])[0]
        assert (overlap > threshold).any() or scores[number] <= last


def gradient_tolerance(key):
    """Relative, of the length and of the gradient: rounding turns choices of ReLU and of the largest point.

    All of them are above the first layer. On made-up frames, what our model gives in float32 was 1.5e-3 and 3.5e-3 from
    the gradient of that layer in float64, and what a plain float32 network gives was as far again on the other side.
    """
    return (1e-2, 2e-2) if key.startswith("vfe.") else (1e-3, 3e-3)


def test_training_steps_are_as_recorded(recorded, arrays):
    model = filled_model(recorded).train()
    check_steps(NAME, model, openpcdet_names(model.config), recorded, arrays, gradient_tolerance)
