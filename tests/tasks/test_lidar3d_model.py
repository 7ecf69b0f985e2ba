"""What a LiDAR detector in use says of a cloud."""

import json
import math

import torch

from sightline.data.sample import Box3DPrediction
from sightline.recipes import recipe


def test_boxes_that_are_not_finite_are_not_told():
    # An overflowing size would be written as Infinity, which is no JSON.
    model = recipe("pointpillars-world").trained_model(("Car", "Pedestrian"))
    box = [1.0, 2, 3, 4, 2, 1.5, 7.0]
    boxes3d = torch.tensor([box, box, box])
    boxes3d[0, 3], boxes3d[1, 6] = math.inf, math.nan
    prediction = Box3DPrediction(0, boxes3d, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1]))
    (found,) = model.found(prediction, score_threshold=0.1)
    entry = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (entry["class"], entry["size"]) == ("Pedestrian", [4, 2, 1.5])
    assert entry["yaw"] == round(7 - 2 * math.pi, 4)
