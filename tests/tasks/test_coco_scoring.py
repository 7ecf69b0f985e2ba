import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sightline.config.errors import DataError
from sightline.tasks.coco_scoring import score_coco
from tests.metrics.official import random_images


def write_files(folder, seed, *, first_annotation=1):
    """A truth and a result file with ids that are not 0, 1, 2, classes out of order and unused keys."""
    image_ids, num_classes, truths, detections = random_images(seed)
    category_ids = [90 - 7 * label for label in range(num_classes)]
    truth = {
        "info": {},
        "images": [{"id": 1000 + int(i), "file_name": f"{i}.jpg", "height": 9, "width": 9} for i in image_ids],
        "categories": [{"id": i, "name": f"class {i}"} for i in category_ids],
        "annotations": [
            {
                "id": first_annotation + i,
                "image_id": 1000 + int(truths.image_ids[i]),
                "category_id": category_ids[truths.labels[i]],
                "bbox": truths.boxes_xywh[i].tolist(),
                "area": float(truths.areas[i]),
                "iscrowd": int(truths.is_crowd[i]),
                "segmentation": [],
                "ignore": 1,  # read by no evaluation of boxes
            }
            for i in range(len(truths.labels))
        ],
    }
    found = [
        {
            "image_id": 1000 + int(detections.image_ids[i]),
            "category_id": category_ids[detections.labels[i]],
            "bbox": detections.boxes_xywh[i].tolist(),
            "score": float(detections.scores[i]),
        }
        for i in range(len(detections.labels))
    ]
    paths = folder / "truth.json", folder / "found.json"
    for path, content in zip(paths, (truth, found), strict=True):
        path.write_text(json.dumps(content))
    return paths, truth, found


def official_figures(truth_path, found_path):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        evaluation = COCOeval(truth, truth.loadRes(str(found_path)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("first_annotation", [0, 1])
def test_files_score_as_in_the_official_tool(tmp_path, seed, first_annotation):
    paths, truth, found = write_files(tmp_path, seed, first_annotation=first_annotation)
    result = score_coco(*paths)
    if found:  # the official tool cannot read an empty result file
        np.testing.assert_allclose(list(result.figures.values()), official_figures(*paths), rtol=0, atol=1e-9)
    assert result.num_images == len(truth["images"])
    assert result.num_truths == len(truth["annotations"])
    assert result.num_crowds == sum(annotation["iscrowd"] for annotation in truth["annotations"])
    assert result.num_detections == len(found) == sum(row.num_detections for row in result.classes)
    has_note = any("id 0" in note for note in result.notes)
    assert has_note == (first_annotation == 0 and len(truth["annotations"]) > 0)


def test_plain_values_hold_the_figures_and_a_row_for_each_class(tmp_path):
    paths, truth, _ = write_files(tmp_path, 3)
    result = score_coco(*paths)
    content = json.loads(json.dumps(result.as_dict()))
    assert content["figures"] == result.figures
    assert [row["name"] for row in content["classes"]] == sorted(c["name"] for c in truth["categories"])


def test_no_detections_score_zero_and_no_truth_scores_nothing(tmp_path):
    paths, truth, _ = write_files(tmp_path, 3)
    paths[1].write_text("[]")
    assert score_coco(*paths).figures["AP"] == 0
    paths[0].write_text(json.dumps(truth | {"annotations": []}))
    result = score_coco(*paths)
    assert set(result.figures.values()) == {-1}


def test_truths_without_area_are_mentioned(tmp_path):
    paths, truth, _ = write_files(tmp_path, 3)
    flat = {**truth["annotations"][0], "id": 10_000, "bbox": [1, 1, 0, 5], "iscrowd": 0}
    paths[0].write_text(json.dumps(truth | {"annotations": [*truth["annotations"], flat]}))
    assert any("no area" in note for note in score_coco(*paths).notes)


def test_a_detection_of_an_unknown_image_is_named(tmp_path):
    paths, _, found = write_files(tmp_path, 3)
    paths[1].write_text(json.dumps([*found, {**found[0], "image_id": 5}]))
    with pytest.raises(DataError, match=rf"detections\[{len(found)}\]: image_id 5"):
        score_coco(*paths)
