"""A trained LiDAR detector's answers as plain values."""

import json
import math

import torch

from sightline.data.sample import Box3DPrediction
from sightline.tasks.lidar3d import Lidar3D
from sightline.tasks.lidar3d_model import FoundBox3D, Lidar3DModel

RANGE = (0.0, -40.0, -3.0, 70.0, 40.0, 1.0)


def found_in(boxes3d, scores, labels):
    names = ("Car", "Pedestrian")
    task = Lidar3D(torch.nn.Identity(), class_names=names, point_range=RANGE)
    model = Lidar3DModel(task, names, point_range=RANGE, in_view=True)
    prediction = Box3DPrediction(0, torch.tensor(boxes3d), torch.tensor(scores), torch.tensor(labels))
    return model.found(prediction, score_threshold=0.3)


def test_boxes_below_the_threshold_or_not_finite_are_no_answers():
    # An untrained network says exp(100) metres, which float32 does not hold, and JSON has no word for infinity.
    box = [1.0, 2, 3, 4, 5, 6, 0.5]
    found = found_in(
        [box, [1, 2, 3, math.inf, 5, 6, 0], box, [math.nan] * 7, box], [0.9, 0.8, 0.3, 0.5, 0.2], [1, 0, 0, 0, 0]
    )
    assert found == (
        FoundBox3D("Pedestrian", 1, found[0].score, tuple(box)),
        FoundBox3D("Car", 0, found[1].score, tuple(box)),
    )
    entry = json.loads(json.dumps(found[0].as_dict(), allow_nan=False))
    assert (entry["center"], entry["size"], entry["yaw"]) == ([1, 2, 3], [4, 5, 6], 0.5)


def test_velocities_follow_the_yaw():
    (found,) = found_in([[1.0, 2, 3, 4, 5, 6, 0.5, 7, 8]], [0.9], [0])
    assert found.as_dict()["velocity"] == [7, 8]
