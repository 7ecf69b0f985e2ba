import numpy as np
import pytest

from sightline.metrics import kitti_matching
from sightline.metrics.kitti_ap import KittiAP
from sightline.metrics.kitti_boxes import NO_DETECTIONS, NO_TRUTHS, KittiDetections, KittiTruths
from sightline.metrics.kitti_rules import average_precision, min_overlaps, recall_thresholds
from tests.metrics.kitti_by_hand import curves_by_hand

TYPES = ("DontCare", "Pedestrian", "Car", "Van", "Person_sitting", "Cyclist")
CLASSES = ("Car", "Pedestrian", "Cyclist")


def crowded(seed, *, frames=6, truths=5, found=10):
    """Frames in which many detections lie on the same few objects: nearly every choice takes something from another."""
    random = np.random.default_rng(seed)

    def boxes(count):
        x, y = random.uniform(0, 45, count), random.uniform(0, 20, count)
        xyxy = np.stack((x, y, x + random.uniform(40, 70, count), y + random.uniform(22, 60, count)), axis=1)
        place = random.uniform((-1.5, 1.5, 10), (1.5, 1.8, 12), (count, 3))
        size = random.uniform((3.0, 1.4, 1.5), (4.5, 1.8, 2.0), (count, 3))
        return xyxy, np.column_stack((place, size, random.uniform(-0.4, 0.4, count)))

    total, total_found = frames * truths, frames * found
    kinds = random.choice(len(TYPES), total, p=(0.05, 0.2, 0.45, 0.1, 0.1, 0.1))
    labels = random.choice(3, total_found, p=(0.6, 0.3, 0.1))
    return (
        KittiTruths(
            np.repeat(np.arange(frames), truths),
            kinds,
            *boxes(total),
            random.uniform(-3, 3, total),
            random.choice((0.0, 0.2, 0.6), total, p=(0.7, 0.2, 0.1)),
            random.choice((0, 1, 2, 3), total, p=(0.6, 0.2, 0.1, 0.1)),
        ),
        KittiDetections(
            np.repeat(np.arange(frames), found),
            labels,
            *boxes(total_found),
            random.choice(np.linspace(0.1, 0.9, 17), total_found),  # many ties
            random.uniform(-3, 3, total_found),
        ),
    )


def rows(boxes, chosen):
    return type(boxes)(*(getattr(boxes, name)[chosen] for name in type(boxes).__dataclass_fields__))


def metric_of(truths, found, frames, *, class_names=CLASSES, type_names=TYPES):
    metric = KittiAP(class_names, type_names)
    metric.update(frames, truths, found)
    return metric


def cars(xyxy, *, frames=None, camera=None, scores=None, alphas=None, labels=None, types=None):
    """Truths where no scores are given, else detections; far from each other in space unless said otherwise."""
    count = len(xyxy)
    frames = np.arange(count) if frames is None else np.array(frames)
    if camera is None:
        camera = [(10.0 * i, 1.6, 20, 3.9, 1.5, 1.6, 0) for i in range(count)]
    alphas = np.zeros(count) if alphas is None else np.array(alphas, dtype=float)
    numbers = np.zeros(count, int)
    if scores is None:
        kinds = numbers + TYPES.index("Car") if types is None else np.array([TYPES.index(name) for name in types])
        return KittiTruths(frames, kinds, np.array(xyxy, float), np.array(camera, float), alphas, numbers, numbers)
    labels = numbers if labels is None else np.array(labels)
    return KittiDetections(frames, labels, np.array(xyxy, float), np.array(camera, float), np.array(scores), alphas)


BOX = (100, 100, 200, 180)


@pytest.mark.parametrize("seed", range(6))
def test_curves_are_those_of_one_object_after_the_other(seed):
    truths, found = crowded(seed)
    result = metric_of(truths, found, range(6)).evaluate()
    expected = curves_by_hand(CLASSES, TYPES, 6, truths, found)
    for name, curve in expected.items():
        np.testing.assert_allclose(result.curves[name], curve, rtol=0, atol=1e-12, err_msg=name)
    assert sum((curve[:2] > 0).any() for curve in expected.values()) == 4  # the comparison is of something


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_frames_and_who_saw_them_change_nothing(seed):
    truths, found = crowded(seed)
    whole = metric_of(truths, found, range(6)).compute()

    def seen_by(frames):
        return metric_of(
            rows(truths, np.isin(truths.frames, frames)), rows(found, np.isin(found.frames, frames)), frames
        )

    first = seen_by([4, 1])
    first.merge([seen_by([0]), seen_by([5, 2, 3])])
    assert first.compute() == whole
    shuffled = np.argsort(np.random.default_rng(seed).permutation(6)[truths.frames], kind="stable")
    assert metric_of(rows(truths, shuffled), found, range(6)).compute() == whole


def test_pairs_are_looked_at_in_parts(monkeypatch):
    truths, found = crowded(0)
    whole = metric_of(truths, found, range(6)).compute()
    monkeypatch.setattr(kitti_matching, "PAIRS_AT_ONCE", 7)
    assert metric_of(truths, found, range(6)).compute() == whole


def test_one_false_detection_above_all_true_ones_halves_the_first_precisions():
    # 41 objects, all found; one wrong detection of the highest score. At the k-th place k + 1 of k + 2 are right, and
    # the best precision from any place on is that of the last one: 41 / 42.
    truths = cars([BOX] * 41)
    found = cars(
        [BOX] * 41 + [(300, 100, 400, 180)],
        frames=[*range(41), 0],
        camera=[*truths.boxes_camera, (-50.0, 1.6, 20, 3.9, 1.5, 1.6, 0)],
        scores=[*np.linspace(0.1, 0.8, 41), 0.9],
    )
    result = metric_of(truths, found, range(41)).evaluate()
    assert result.figures["Car/3d/easy_R40"] == pytest.approx(100 * 41 / 42)
    assert result.figures["Car/image/easy_R40"] == pytest.approx(100 * 41 / 42)


def test_equal_boxes_overlap_fully():
    # The original's rotated overlap gives 0 or 1/3 for some equal boxes.
    random = np.random.default_rng(0)
    camera = random.uniform((-20, 1, 5, 3, 1, 1, -4), (20, 2, 50, 5, 2, 2, 4), (60, 7))
    result = metric_of(
        cars([BOX] * 60, camera=camera), cars([BOX] * 60, camera=camera, scores=[0.5] * 60), range(60)
    ).evaluate()
    assert result.figures["Car/3d/hard_R40"] == result.figures["Car/bev/hard_R40"] == 100
    assert result.recall == {0.3: 100, 0.5: 100, 0.7: 100}


def test_a_neighbouring_type_is_neither_missed_nor_wrong():
    camera = [(0.0, 1.6, 20, 3.9, 1.5, 1.6, 0)] * 2
    truths = cars([BOX, BOX], types=["Car", "Van"], camera=camera)
    result = metric_of(truths, cars([BOX, BOX], camera=camera, scores=[0.5, 0.9]), [0, 1]).evaluate()
    assert result.curves["3d"][0, 0, 0, 0] == 1
    assert result.num_valid[0].tolist() == [1, 1, 1]


def test_a_detection_on_a_region_without_labels_is_not_wrong_in_the_picture_alone():
    truths = cars([BOX, (300, 100, 400, 180)], frames=[0, 0], types=["Car", "DontCare"])
    found = cars([BOX, (310, 110, 390, 170)], frames=[0, 0], scores=[0.5, 0.9])
    curves = metric_of(truths, found, [0]).evaluate().curves
    assert curves["image"][0, 0, 0, 0] == 1
    assert curves["3d"][0, 0, 0, 0] == 0.5


def test_low_objects_count_from_a_height_of_their_own_and_low_detections_not_at_all():
    # 40 pixels are too low for easy; a detection of 40 is not: it is ignored below 40.
    truths = cars([(100, 100, 200, 140), (100, 100, 200, 140.5)])
    assert metric_of(truths, cars([], scores=[]), [0, 1]).evaluate().num_valid[0].tolist() == [1, 2, 2]
    found = cars([BOX, (300, 100, 400, 139)], frames=[0, 0], scores=[0.5, 0.9])
    curves = metric_of(cars([BOX]), found, [0]).evaluate().curves
    assert curves["image"][0, :, 0, 0].tolist() == [1, 0.5, 0.5]


def test_orientation_is_asked_for_where_detections_have_angles():
    # Turned by a right angle: similarity (1 + cos 90 degrees) / 2 = 1/2.
    found = cars([BOX], scores=[0.5], alphas=[np.pi / 2])
    assert metric_of(cars([BOX]), found, [0]).evaluate().curves["aos"][0, 0, 0, 0] == pytest.approx(0.5)
    none = metric_of(cars([BOX]), cars([BOX], scores=[0.5], alphas=[-10]), [0])
    assert "aos" not in none.evaluate().curves
    assert not [name for name in none.compute() if "aos" in name]


def test_recall_is_over_all_classes_and_whatever_their_detections_are_called():
    # Two objects; one is found as another class, the other not at all; the region without labels is no object.
    truths = cars([BOX] * 3, types=["Car", "Pedestrian", "DontCare"])
    found = cars([BOX], scores=[0.2], labels=[2])
    assert metric_of(truths, found, [0, 1, 2]).evaluate().recall == {0.3: 50, 0.5: 50, 0.7: 50}


def test_the_headline_leaves_out_classes_without_objects_that_count():
    figures = metric_of(cars([BOX] * 41), cars([BOX] * 41, scores=[0.5] * 41), range(41)).compute()
    assert figures["3d_moderate_R40"] == figures["Car/3d/moderate_R40"] == 100
    assert figures["Cyclist/3d/moderate_R40"] == 0
    assert metric_of(NO_TRUTHS, NO_DETECTIONS, [0]).compute()["3d_moderate_R40"] == 0


def test_upper_and_lower_case_of_types_are_the_same():
    metric = metric_of(cars([BOX] * 41), cars([BOX] * 41, scores=[0.5] * 41), range(41), class_names=["car"])
    assert metric.compute()["car/3d/easy_R40"] == 100


def test_few_objects_are_noted():
    result = metric_of(cars([BOX] * 3), cars([BOX] * 3, scores=[0.5] * 3), range(3), class_names=["Car"]).evaluate()
    assert result.figures["Car/3d/easy_R40"] == 5  # (3 - 1) / 40
    [note] = result.notes()
    assert note.startswith("Fewer than 41 objects count: Car (easy 3, moderate 3, hard 3).")
    assert result.details()["kitti"]["notes"] == [note]


def test_other_vehicles_are_judged_as_cars_and_all_else_as_pedestrians():
    assert min_overlaps("Truck").tolist() == min_overlaps("Car").tolist() == [[0.7, 0.7, 0.7], [0.7, 0.5, 0.5]]
    assert min_overlaps("cone").tolist() == min_overlaps("Cyclist").tolist() == [[0.5, 0.5, 0.5], [0.5, 0.25, 0.25]]


def test_thresholds_are_the_scores_nearest_to_the_recalls():
    # 80 of 80 found: recall i/40 falls on every second score; 0 comes from the first.
    scores = np.linspace(1, 0, 80)
    np.testing.assert_array_equal(recall_thresholds(scores[::-1], 80), np.r_[scores[0], scores[1::2]])
    assert recall_thresholds(np.zeros(0), 5).tolist() == []
    assert recall_thresholds(np.array([0.3]), 1000).tolist() == [0.3]


def test_eleven_and_forty_recalls_of_one_curve():
    curve = np.r_[np.ones(21), np.zeros(20)]  # precision 1 up to a recall of one half
    assert average_precision(curve, 11) == pytest.approx(100 * 6 / 11)
    assert average_precision(curve, 40) == pytest.approx(50)
    with pytest.raises(ValueError, match="11 or 40"):
        average_precision(curve, 101)


def test_details_are_plain_values():
    import json

    truths, found = crowded(1)
    details = metric_of(truths, found, range(6)).evaluate().details()
    assert json.loads(json.dumps(details)) == details
    assert [row["name"] for row in details["classes"]] == list(CLASSES)
    assert len(details["kitti"]["curves"]["aos"][0][0][0]) == 41


def test_mistakes_of_a_caller_are_named():
    box = cars([BOX])
    found = cars([BOX], scores=[0.5])
    with pytest.raises(ValueError, match="frame 0 is none of the frames added"):
        metric_of(box, NO_DETECTIONS, [1])
    with pytest.raises(ValueError, match="labels: 3, but they are -1 to 2"):
        metric_of(box, cars([BOX], scores=[0.5], labels=[3]), [0])
    with pytest.raises(ValueError, match="scores: nan at index 0"):
        metric_of(box, cars([BOX], scores=[np.nan]), [0])
    with pytest.raises(ValueError, match=r"boxes_xyxy: expected shape \(1, 4\), got \(1, 5\)"):
        metric_of(cars([(*BOX, 1)]), found, [0])
    twice = metric_of(box, found, [0])
    twice.update([0], box, found)
    with pytest.raises(ValueError, match="frame 0 was added more than once"):
        twice.compute()
    with pytest.raises(ValueError, match="different classes"):
        twice.merge([KittiAP(("Car",), TYPES)])
