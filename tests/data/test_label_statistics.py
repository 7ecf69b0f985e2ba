import json
from pathlib import Path

import numpy as np

from sightline.data.annotations import ImageAnnotations, PackedStrings
from sightline.data.label_statistics import CELLS, MOST_BOXES, label_statistics


def annotations(boxes_of_images, labels, crowd=None):
    boxes = np.concatenate([np.array(boxes, float).reshape(-1, 4) for boxes in boxes_of_images])
    counts = [len(boxes) for boxes in boxes_of_images]
    return ImageAnnotations(
        class_names=("cat", "dog", "cow"),
        paths=PackedStrings(f"{i}.jpg" for i in range(len(counts))),
        sizes_hw=np.array([[100, 200]] * len(counts)),
        offsets=np.cumsum([0, *counts]),
        boxes_xyxy=boxes,
        labels=np.array(labels),
        is_crowd=np.zeros(len(labels), bool) if crowd is None else np.array(crowd),
        areas=np.ones(len(labels)),
        image_ids=np.arange(len(counts)),
        category_ids=np.arange(3),
        faults=(),
        name="pets/train",
        source=Path("pets"),
    )


def test_boxes_are_counted_by_class_place_and_size():
    # A box over the right half of a 200 x 100 image: centre (0.75, 0.5), size (0.5, 1).
    facts = label_statistics(annotations([[[100, 0, 200, 100]], [], [[0, 0, 2, 2], [0, 0, 1, 1]]], [1, 0, 0]))
    assert facts["class_counts"] == [2, 1, 0]
    assert (facts["num_images"], facts["num_boxes"], facts["num_empty_images"]) == (3, 3, 1)
    assert facts["boxes_per_image"][:4] == [1, 1, 1, 0]
    centers, sizes = np.array(facts["centers"]), np.array(facts["sizes"])
    assert centers[CELLS // 2, 3 * CELLS // 4] == 1
    assert centers[0, 0] == 2
    assert sizes[CELLS - 1, CELLS // 2] == 1  # the full height falls into the last cell
    assert centers.sum() == sizes.sum() == 3
    json.dumps(facts)


def test_crowds_are_counted_apart():
    facts = label_statistics(annotations([[[0, 0, 50, 50], [0, 0, 9, 9]]], [0, 1], crowd=[True, False]))
    assert facts["num_crowds"] == 1
    assert facts["class_counts"] == [0, 1, 0]
    assert np.sum(facts["sizes"]) == 1


def test_crowded_images_share_the_last_bin():
    facts = label_statistics(annotations([[[0, 0, 9, 9]] * (MOST_BOXES + 5)], [0] * (MOST_BOXES + 5)))
    assert facts["boxes_per_image"] == [0] * MOST_BOXES + [1]
