import json

import numpy as np
import pytest

from sightline.config.errors import DataError
from sightline.data.formats.coco_results import read_coco_detections, read_coco_truth, write_coco_detections

BOX = [1, 2, 3, 4.5]


def truth_content(**changes):
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": BOX, "area": 10.0, "iscrowd": 0}
    content = {
        "images": [{"id": 7}, {"id": 5}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [annotation, {**annotation, "id": 2, "image_id": 5, "category_id": 1, "iscrowd": 1}],
    }
    return content | changes


def detection(**changes):
    return {"image_id": 7, "category_id": 3, "bbox": BOX, "score": 0.5} | changes


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_images_and_classes_are_numbered_in_the_order_of_their_ids(tmp_path):
    truth = read_coco_truth(write(tmp_path / "truth.json", truth_content()))
    assert truth.image_numbers == {5: 0, 7: 1}
    assert truth.class_names == ("dog", "cat")
    assert truth.images.tolist() == [1, 0]
    assert truth.labels.tolist() == [1, 0]
    assert truth.boxes_xywh.tolist() == [BOX, BOX]
    assert truth.is_crowd.tolist() == [False, True]
    assert truth.areas.tolist() == [10, 10]


def test_an_area_that_is_missing_is_that_of_the_box(tmp_path):
    content = truth_content()
    del content["annotations"][0]["area"]
    truth = read_coco_truth(write(tmp_path / "truth.json", content))
    assert truth.areas.tolist() == [13.5, 10]


def test_ids_may_be_texts(tmp_path):
    content = truth_content(images=[{"id": "b"}, {"id": "a"}], annotations=[])
    truth = read_coco_truth(write(tmp_path / "truth.json", content))
    assert truth.image_numbers == {"a": 0, "b": 1}
    found = read_coco_detections(write(tmp_path / "found.json", [detection(image_id="b")]), truth)
    assert found.images.tolist() == [1]


def test_no_annotations_and_no_detections(tmp_path):
    truth = read_coco_truth(write(tmp_path / "truth.json", truth_content(annotations=[])))
    found = read_coco_detections(write(tmp_path / "found.json", []), truth)
    assert truth.boxes_xywh.shape == found.boxes_xywh.shape == (0, 4)


def annotation(**changes):
    return truth_content(annotations=[truth_content()["annotations"][0] | changes])


def without(key):
    content = truth_content()
    del content["annotations"][1][key]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("{", "truth.json:1"),
        ("[" * 100_000, "nested too deep"),
        ([], "Is this the result file"),
        (3, "expected an object"),
        ({}, "images is missing, expected a list"),
        (truth_content(images=3), "images is 3, expected a list"),
        (truth_content(images=[3]), r"images\[0\]: 3 is not an object"),
        (truth_content(images=[{"id": 5}, {"id": 7}, {"id": 5}]), r"images\[2\]: id 5 is already that of images\[0\]"),
        (truth_content(images=[{"id": 5}, {"id": "7"}]), "some ids are numbers and some are texts"),
        (truth_content(images=[{}]), r"images\[0\]: id is None"),
        (truth_content(images=[{"id": [1]}]), r"images\[0\]: id is \[1\]"),
        (truth_content(categories=[{"id": True}]), r"categories\[0\]: id is True"),
        (annotation(image_id=8), r"annotations\[0\]: image_id 8 is none of the images"),
        (annotation(image_id=[8]), r"image_id \[8\] is none"),
        (annotation(category_id=9), r"category_id 9 is none of the categories"),
        (without("category_id"), r"annotations\[1\]: category_id is missing"),
        (without("bbox"), r"annotations\[1\]: bbox is missing"),
        (annotation(bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\], expected \[x, y, width, height\]"),
        (annotation(bbox=[1, 2, 3, "4"]), "expected four numbers"),
        (annotation(bbox=[1, 2, 3, None]), "expected four numbers"),
        (annotation(bbox=[1, 2, 3, 10**400]), "not finite"),
        (annotation(bbox=[1, 2, 3, float("inf")]), "the number Infinity is refused"),
        (json.dumps(annotation(bbox=[1, 2, 3, 0.125])).replace("0.125", "1e999"), "not finite"),
        (annotation(area="large"), r"annotations\[0\]: area is 'large'"),
        (annotation(iscrowd=2), "iscrowd is 2, expected 0 or 1"),
        (
            truth_content(annotations=truth_content()["annotations"][:1] * 2),
            r"id 1 is already that of annotations\[0\]",
        ),
    ],
)
def test_wrong_truth_is_named_with_its_place(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_coco_truth(write(tmp_path / "truth.json", content))
    assert "truth.json" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected a list of detections"),
        ({"images": []}, "Is this the truth"),
        ("nonsense", "found.json:1"),
        ([detection(image_id=1)], r"detections\[0\]: image_id 1 is none of the images of .*truth.json"),
        ([detection(), detection(category_id=99)], r"detections\[1\]: category_id 99"),
        ([{"image_id": 7}], "bbox is missing|category_id is missing"),
        ([detection(score=None)], "score is None, expected a number"),
        ([detection(score=True)], "score is True, expected a number"),
        ('[{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": NaN}]', "NaN"),
        ([detection(bbox={"x": 1})], "bbox is"),
        ([detection(), 5], r"detections\[1\]: 5 is not an object"),
    ],
)
def test_wrong_detections_are_named_with_their_place(tmp_path, content, message):
    truth = read_coco_truth(write(tmp_path / "truth.json", truth_content()))
    with pytest.raises(DataError, match=message):
        read_coco_detections(write(tmp_path / "found.json", content), truth)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_coco_truth(tmp_path / "none.json")


def test_what_is_written_reads_back_to_the_same_bits(tmp_path):
    random = np.random.default_rng(0)
    boxes, scores = random.uniform(0, 99, (50, 4)), random.random(50).astype(np.float32)
    truth = read_coco_truth(write(tmp_path / "truth.json", truth_content()))
    write_coco_detections(tmp_path / "found.json", [5, 7] * 25, [3] * 50, boxes, scores)
    found = read_coco_detections(tmp_path / "found.json", truth)
    np.testing.assert_array_equal(found.boxes_xywh, boxes)
    np.testing.assert_array_equal(found.scores, scores.astype(np.float64))
    assert found.images.tolist() == [0, 1] * 25
