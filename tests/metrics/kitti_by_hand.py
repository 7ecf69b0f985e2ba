"""KITTI's evaluation once more, one object and one threshold after the other, with polygons of another library.

Slow and plain, to judge the vectorised one by. After the devkit, https://www.cvlibs.net/datasets/kitti/eval_object.php.
"""

import math

import numpy as np
from shapely.geometry import Polygon

from sightline.metrics.kitti_boxes import KittiDetections, KittiTruths
from sightline.metrics.kitti_rules import LIMITS, min_overlaps

LIKE = {"Car": "Van", "Pedestrian": "Person_sitting"}


def polygon(box):
    x, _, z, length, _, width, rotation = box
    corners = [(length / 2, width / 2), (length / 2, -width / 2), (-length / 2, -width / 2), (-length / 2, width / 2)]
    cos, sin = math.cos(rotation), math.sin(rotation)
    return Polygon([(x + cos * a + sin * b, z - sin * a + cos * b) for a, b in corners])


def overlaps(xyxy_a, box_a, xyxy_b, box_b):
    """In the picture, from above, in space."""
    width = min(xyxy_a[2], xyxy_b[2]) - max(xyxy_a[0], xyxy_b[0])
    height = min(xyxy_a[3], xyxy_b[3]) - max(xyxy_a[1], xyxy_b[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (xyxy_a, xyxy_b)]
    common = width * height if width > 0 and height > 0 else 0.0
    ground = polygon(box_a).intersection(polygon(box_b)).area
    tall = max(min(box_a[1], box_b[1]) - max(box_a[1] - box_a[4], box_b[1] - box_b[4]), 0)
    floors = box_a[3] * box_a[5], box_b[3] * box_b[5]
    return (
        common / (sum(areas) - common),
        ground / (sum(floors) - ground),
        ground * tall / (floors[0] * box_a[4] + floors[1] * box_b[4] - ground * tall),
    )


def share_inside(xyxy, region):
    width = min(xyxy[2], region[2]) - max(xyxy[0], region[0])
    height = min(xyxy[3], region[3]) - max(xyxy[1], region[1])
    return width * height / ((xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])) if width > 0 and height > 0 else 0.0


def frame_statistics(gts, dets, table, regions, minimum, threshold):
    """Scores found, true, false and similarity of one frame; without a threshold the first pass."""
    used, found, true, similarity = set(), [], 0, 0.0
    for g, (role, alpha) in enumerate(gts):
        if role is None:
            continue
        best = None
        for d, (state, score, _) in enumerate(dets):
            if state is None or d in used or table[g][d] <= minimum:
                continue
            if best is None:
                is_better = threshold is None or score >= threshold
            elif threshold is None:
                is_better = score > dets[best][1]
            else:
                is_nearer = dets[best][0] == "low" or table[g][d] > table[g][best]
                is_better = score >= threshold and state == "good" and is_nearer
            if is_better:
                best = d
        if best is None:
            continue
        used.add(best)
        if role == "counts" and dets[best][0] == "good":
            found.append(dets[best][1])
            true += 1
            similarity += (1 + math.cos(alpha - dets[best][2])) / 2
    false = 0
    for d, (state, score, _) in enumerate(dets):
        if d not in used and state == "good" and (threshold is None or score >= threshold):
            false += not any(share > minimum for share in regions[d])
    return found, true, false, similarity


def thresholds_of(scores, count):
    scores, chosen, wanted = sorted(scores, reverse=True), [], 0.0
    for i, score in enumerate(scores):
        is_last = i == len(scores) - 1
        if not is_last and (i + 2) / count - wanted < wanted - (i + 1) / count:
            continue
        chosen.append(score)
        wanted += 1 / 40
    return chosen


def curves_by_hand(
    class_names, type_names, num_frames, truths: KittiTruths, found: KittiDetections
) -> dict[str, np.ndarray]:
    """``image``, ``bev``, ``3d`` and ``aos``: (K, 3, 2, 41)."""
    rows = [(np.flatnonzero(truths.frames == f), np.flatnonzero(found.frames == f)) for f in range(num_frames)]
    tables = [
        [[overlaps(truths.boxes_xyxy[g], truths.boxes_camera[g], found.boxes_xyxy[d], found.boxes_camera[d])
          for d in of_found] for g in of_truth]
        for of_truth, of_found in rows
    ]  # fmt: skip
    names = [type_names[t] for t in truths.types]
    curves = {name: np.zeros((len(class_names), 3, 2, 41)) for name in ("image", "bev", "3d", "aos")}
    for label, class_name in enumerate(class_names):
        for level, limit in enumerate(LIMITS):

            def role(g, class_name=class_name, limit=limit):
                if names[g] == LIKE.get(class_name):
                    return "ignored"
                if names[g] != class_name:
                    return None
                height = truths.boxes_xyxy[g, 3] - truths.boxes_xyxy[g, 1]
                is_hard = truths.occlusions[g] > limit.max_occlusion or truths.truncations[g] > limit.max_truncation
                return "ignored" if is_hard or height <= limit.min_height else "counts"

            def state(d, label=label, limit=limit):
                if found.boxes_xyxy[d, 3] - found.boxes_xyxy[d, 1] < limit.min_height:
                    return "low"
                return "good" if found.labels[d] == label else None

            frames = [
                (
                    [(role(g), truths.alphas[g]) for g in of_truth],
                    [(state(d), found.scores[d], found.alphas[d]) for d in of_found],
                )
                for of_truth, of_found in rows
            ]
            count = sum(one[0] == "counts" for gts, _ in frames for one in gts)
            for way, metric in enumerate(("image", "bev", "3d")):
                regions = [
                    [[share_inside(found.boxes_xyxy[d], truths.boxes_xyxy[g]) for g in of_truth
                      if names[g] == "DontCare" and metric == "image"] for d in of_found]
                    for of_truth, of_found in rows
                ]  # fmt: skip
                flat = [[[one[way] for one in row] for row in table] for table in tables]
                for which in (0, 1):
                    minimum = min_overlaps(class_name)[which, way]

                    def run(threshold, frames=frames, flat=flat, regions=regions, minimum=minimum):
                        return [
                            frame_statistics(*frame, table, region, minimum, threshold)
                            for frame, table, region in zip(frames, flat, regions, strict=True)
                        ]

                    scores = [score for one in run(None) for score in one[0]]
                    values = np.zeros((2, 41))
                    for place, threshold in enumerate(thresholds_of(scores, count)):
                        _, true, false, similarity = zip(*run(threshold), strict=True)
                        values[:, place] = np.array((sum(true), sum(similarity))) / max(sum(true) + sum(false), 1)
                    best = [[row[i:].max() for i in range(41)] for row in values]
                    curves[metric][label, level, which] = best[0]
                    if metric == "image":
                        curves["aos"][label, level, which] = best[1]
    return curves
