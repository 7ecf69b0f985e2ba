"""What a LiDAR detector in use says of a cloud."""

import json
import math

import numpy as np
import pytest
import torch

from sightline.data.sample import Box3DPrediction
from sightline.recipes import recipe


def model():
    return recipe("pointpillars-world").trained_model(("Car", "Pedestrian"))


@pytest.mark.parametrize("points", [np.zeros((0, 4)), np.ones((1, 4), np.int64), [[5.0, 1.0, -1.0, 0.5]]])
def test_any_array_of_points_is_taken(points):
    batch = model().batch_of(points)
    assert batch.points.dtype == torch.float32
    assert batch.point_counts == (len(points),)


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (np.zeros((10, 3)), r"expected \(P, 4\).*got \(10, 3\)"),
        (np.zeros((10, 5)), r"expected \(P, 4\).*got \(10, 5\)"),
        (np.zeros(10), r"expected \(P, 4\).*got \(10,\)"),
        (np.full((2, 4), "a"), "expected numbers"),
        (np.array([[1, 2, 3, 0.5], [1, 2, 3, np.nan]]), "1 point of 2 with NaN.*number 1"),
    ],
)
def test_an_array_that_is_no_cloud_is_refused(points, told):
    # NaN would spread through the convolutions, and nothing would be found.
    with pytest.raises(ValueError, match=told):
        model().batch_of(points)


def test_boxes_that_are_not_finite_are_not_told():
    # An overflowing size would be written as Infinity, which is no JSON.
    box = [1.0, 2, 3, 4, 2, 1.5, 7.0]
    boxes3d = torch.tensor([box, box, box])
    boxes3d[0, 3], boxes3d[1, 6] = math.inf, math.nan
    prediction = Box3DPrediction(0, boxes3d, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1]))
    (found,) = model().found(prediction, score_threshold=0.1)
    entry = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (entry["class"], entry["size"]) == ("Pedestrian", [4, 2, 1.5])
    assert entry["yaw"] == round(7 - 2 * math.pi, 4)
