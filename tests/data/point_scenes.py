"""Small scenes and a small database of objects for tests of augmentation."""

import numpy as np

from sightline.data.ground_truth_database import GroundTruthDatabase
from sightline.data.transforms.points import PointScene

CLASS_NAMES = ("Car", "Pedestrian", "Cyclist")


def random_scene(seed, *, num_boxes=6, points_per_box=20, velocity=False, features=4):
    """Boxes far apart from each other with points inside, then points anywhere; intensity numbers the points."""
    random = np.random.default_rng(seed)
    boxes = np.zeros((num_boxes, 9 if velocity else 7))
    places = random.permutation(25)[:num_boxes]
    boxes[:, :3] = np.stack((10 * (places // 5), 10 * (places % 5) - 20, random.uniform(-1, 0, num_boxes)), axis=1)
    boxes[:, 3:6] = random.uniform(1, 4, (num_boxes, 3))
    boxes[:, 6:] = random.uniform(-3, 3, (num_boxes, boxes.shape[1] - 6))
    inside = random.uniform(-0.45, 0.45, (num_boxes, points_per_box, 3)) * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, None, 6]), np.sin(boxes[:, None, 6])
    x, y = inside[..., 0] * cos - inside[..., 1] * sin, inside[..., 0] * sin + inside[..., 1] * cos
    inside = (np.stack((x, y, inside[..., 2]), axis=2) + boxes[:, None, :3]).reshape(-1, 3)
    points = np.zeros((len(inside) + 200, features), np.float32)
    points[:, :3] = np.concatenate((inside, random.uniform((-10, -30, 5), (60, 30, 9), (200, 3))))
    points[:, 3] = np.arange(len(points))
    labels = random.integers(-1, 3, num_boxes)
    return PointScene(points, boxes.astype(np.float32), labels)


def small_database(seed=0, counts=(12, 8, 5), *, points=(1, 30)):
    """Objects of three classes in the field of ``random_scene``, some with few points, of all levels."""
    random = np.random.default_rng(seed)
    total = sum(counts)
    boxes = np.zeros((total, 7))
    boxes[:, :3] = random.uniform((0, -25, -1), (45, 25, 0), (total, 3))
    boxes[:, 3:6] = random.uniform(1, 3, (total, 3))
    boxes[:, 6] = random.uniform(-3, 3, total)
    num_points = random.integers(*points, total)
    values = np.zeros((num_points.sum(), 4))
    values[:, :3] = random.uniform(-0.3, 0.3, (len(values), 3))
    values[:, 3] = 1000 + np.repeat(np.arange(total), num_points)  # says whose point it is
    return GroundTruthDatabase(
        type_names=CLASS_NAMES,
        points=values,
        offsets=np.cumsum([0, *num_points]),
        boxes3d=boxes,
        types=np.repeat(np.arange(len(counts)), counts),
        levels=random.integers(-1, 3, total),
        frames=np.zeros(total),
    )
