import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.metrics.coco_ap import CocoAP, ScoredBoxes, TruthBoxes, xyxy_to_xywh
from tests.metrics.official import FIGURES, official, random_images

NO_TRUTHS = TruthBoxes(np.zeros(0), np.zeros((0, 4)), np.zeros(0))
NO_DETECTIONS = ScoredBoxes(np.zeros(0), np.zeros((0, 4)), np.zeros(0), np.zeros(0))


def evaluate(image_ids, num_classes, truths, detections, iou_thresholds=None):
    metric = CocoAP(num_classes, iou_thresholds=iou_thresholds)
    metric.update(image_ids, truths, detections)
    return metric.evaluate()


def assert_official(image_ids, num_classes, truths, detections, iou_thresholds=None):
    """All twelve figures, and the arrays behind them, are those of pycocotools."""
    ours = evaluate(image_ids, num_classes, truths, detections, iou_thresholds)
    theirs = official(image_ids, num_classes, truths, detections, iou_thresholds)
    assert tuple(ours.figures) == FIGURES
    np.testing.assert_allclose(list(ours.figures.values()), theirs.stats, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.precision, theirs.eval["precision"][..., -1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.recall, theirs.eval["recall"], rtol=0, atol=1e-9)
    return ours


def one_image(truth_boxes, boxes, scores, labels=None, **truth_columns):
    """Boxes of image 1, class 0."""
    return (
        [1],
        1 if labels is None else max(labels) + 1,
        TruthBoxes(np.ones(len(truth_boxes)), np.array(truth_boxes), np.zeros(len(truth_boxes)), **truth_columns),
        ScoredBoxes(np.ones(len(boxes)), np.array(boxes), np.array(scores), labels or np.zeros(len(boxes))),
    )


@pytest.mark.parametrize("seed", range(60))
def test_random_images_with_ties_and_crowds(seed):
    assert_official(*random_images(seed))


@pytest.mark.parametrize("seed", range(60, 75))
def test_other_iou_thresholds(seed):
    thresholds = np.sort(np.random.default_rng(seed).choice([0.1, 0.3, 0.5, 0.6, 0.75, 0.9, 1.0], 3, replace=False))
    assert_official(*random_images(seed), iou_thresholds=thresholds)


def test_more_than_a_hundred_detections_of_a_class():
    random = np.random.default_rng(0)
    truths = TruthBoxes(np.zeros(150), random.uniform(1, 50, (150, 4)), np.zeros(150))
    found = ScoredBoxes(np.zeros(400), random.uniform(1, 50, (400, 4)), random.random(400).round(2), np.zeros(400))
    assert_official([0], 1, truths, found)


coarse = st.integers(0, 4).map(lambda value: value * 16.0)
boxes = st.tuples(coarse, coarse, coarse, coarse)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), boxes, st.integers(0, 1), st.booleans()), max_size=12),
    st.lists(st.tuples(st.integers(0, 2), boxes, st.integers(0, 1), st.sampled_from([0.1, 0.5, 0.9])), max_size=20),
)
def test_boxes_and_scores_on_a_coarse_grid(truths, detections):
    columns = [list(column) for column in zip(*truths, strict=True)] or [[], [], [], []]
    found = [list(column) for column in zip(*detections, strict=True)] or [[], [], [], []]
    assert_official(
        [0, 1, 2],
        2,
        TruthBoxes(columns[0], np.array(columns[1]).reshape(-1, 4), columns[2], is_crowd=np.array(columns[3], bool)),
        ScoredBoxes(found[0], np.array(found[1]).reshape(-1, 4), found[3], found[2]),
    )


@pytest.mark.parametrize("has_truths", [False, True])
@pytest.mark.parametrize("has_detections", [False, True])
def test_nothing_on_one_side_or_both(has_truths, has_detections):
    _, _, truths, detections = one_image([[10, 10, 50, 50]], [[10, 10, 50, 50]], [0.5])
    ours = assert_official(
        [1, 2], 1, truths if has_truths else NO_TRUTHS, detections if has_detections else NO_DETECTIONS
    )
    # Without truth nothing is defined; with truth and no detection the answer is 0.
    expected = float(has_detections) if has_truths else -1
    assert ours.figures["AP"] == pytest.approx(expected)


def test_no_images_at_all():
    assert set(CocoAP(3).compute().values()) == {-1.0}


def test_a_better_truth_that_is_taken_leaves_the_second_best():
    # Both detections overlap the first truth fully; the weaker one takes the second truth at IoU 0.8.
    ours = assert_official(*one_image([[0, 0, 100, 100], [0, 0, 100, 80]], [[0, 0, 100, 100]] * 2, [0.9, 0.8]))
    assert ours.figures["AP50"] == pytest.approx(1)
    assert ours.classes[0].ar == pytest.approx((7 * 2 + 3 * 1) / 20)  # 0.80 >= seven of the ten thresholds


def test_a_crowd_swallows_any_number_of_detections():
    inside = [[10, 10, 20, 20], [40, 40, 20, 20], [60, 10, 20, 20]]
    case = one_image([[0, 0, 100, 100], [200, 200, 50, 50]], [*inside, [200, 200, 50, 50]], [0.9, 0.8, 0.7, 0.1])
    crowd = np.array([True, False])
    truths = TruthBoxes(case[2].image_ids, case[2].boxes_xywh, case[2].labels, is_crowd=crowd)
    ours = assert_official(case[0], case[1], truths, case[3])
    assert ours.figures["AP"] == pytest.approx(1)  # the three are neither right nor wrong
    assert ours.classes[0].num_truths == 1
    assert ours.classes[0].num_detections == 4


def test_an_ignored_truth_excuses_one_detection():
    case = one_image(
        [[0, 0, 50, 50], [200, 200, 50, 50]],
        [[0, 0, 50, 50], [0, 0, 50, 50], [200, 200, 50, 50]],
        [0.9, 0.8, 0.7],
        is_ignored=np.array([True, False]),
    )
    # The first is excused, the second is wrong, the third right: precision 1/2 at recall 1.
    assert evaluate(*case).figures["AP"] == pytest.approx(0.5)


def test_a_box_of_32_by_32_is_small_and_medium():
    ours = assert_official(*one_image([[0, 0, 32, 32]], [[0, 0, 32, 32]], [0.5]))
    assert [ours.figures[f"AP_{size}"] for size in ("small", "medium", "large")] == pytest.approx([1, 1, -1])


def test_sizes_go_by_the_given_area_not_by_the_box():
    ours = assert_official(*one_image([[0, 0, 90, 90]], [[0, 0, 90, 90]], [0.5], areas=np.array([100.0])))
    assert ours.figures["AP_small"] == pytest.approx(1)
    assert ours.figures["AP_medium"] == -1


def test_boxes_without_area_find_nothing_but_count():
    ours = assert_official(*one_image([[5, 5, 0, 10]], [[5, 5, 0, 10], [5, 5, -3, 10]], [0.5, 0.4]))
    assert ours.figures["AP"] == 0


def test_annotation_zero_counts_as_found_by_nobody_as_in_the_official_tool():
    case = one_image([[0, 0, 50, 50]], [[0, 0, 50, 50]], [0.5], annotation_ids=np.array([0]))
    assert assert_official(*case).figures["AP"] == 0


def split(truths, detections, image_ids):
    """The boxes of some images."""
    of_truths, of_detections = np.isin(truths.image_ids, image_ids), np.isin(detections.image_ids, image_ids)
    return (
        TruthBoxes(**{name: None if column is None else column[of_truths] for name, column in vars(truths).items()}),
        ScoredBoxes(**{name: column[of_detections] for name, column in vars(detections).items()}),
    )


@pytest.mark.parametrize("seed", range(100, 110))
def test_shares_of_several_processes_merge_exactly(seed):
    image_ids, num_classes, truths, detections = random_images(seed)
    whole = evaluate(image_ids, num_classes, truths, detections)
    order = np.random.default_rng(seed).permutation(image_ids)
    shares = []
    for share in np.array_split(order, 3):
        metric = CocoAP(num_classes)
        for image in share:
            metric.update([image], *split(truths, detections, [image]))
        shares.append(metric)
    shares[2].merge(shares[:2])
    merged = shares[2].evaluate()
    assert merged.figures == whole.figures
    np.testing.assert_array_equal(merged.precision, whole.precision)
    np.testing.assert_array_equal(merged.judged.is_true, whole.judged.is_true)


def test_other_classes_do_not_merge():
    with pytest.raises(ValueError, match="different classes"):
        CocoAP(2).merge([CocoAP(3)])


def test_reset_forgets():
    metric = CocoAP(1)
    case = one_image([[0, 0, 50, 50]], [[0, 0, 50, 50]], [0.5])
    metric.update(case[0], *case[2:])
    metric.reset()
    metric.update(case[0], *case[2:])
    assert metric.compute()["AP"] == pytest.approx(1)


def test_the_class_table_averages_to_the_figures():
    image_ids, num_classes, truths, detections = random_images(3)
    ours = evaluate(image_ids, num_classes, truths, detections)
    defined = [row for row in ours.classes if row.num_truths]
    assert np.mean([row.ap for row in defined]) == pytest.approx(ours.figures["AP"])
    assert np.mean([row.ap50 for row in defined]) == pytest.approx(ours.figures["AP50"])
    assert np.mean([row.ar for row in defined]) == pytest.approx(ours.figures["AR_100"])
    assert sum(row.num_detections for row in ours.classes) == len(detections.labels)
    assert sum(row.num_truths for row in ours.classes) == (~truths.is_crowd).sum()


GOOD = one_image([[0, 0, 5, 5]], [[0, 0, 5, 5]], [0.5])


@pytest.mark.parametrize(
    ("truths", "detections", "message"),
    [
        (NO_TRUTHS, ScoredBoxes([2], [[0, 0, 5, 5]], [0.5], [0]), "detections: image 2 at index 0"),
        (TruthBoxes([3], [[0, 0, 5, 5]], [0]), NO_DETECTIONS, "truths: image 3 at index 0"),
        (NO_TRUTHS, ScoredBoxes([1], [[0, 0, 5, 5]], [0.5], [1]), "detections: label 1 at index 0"),
        (TruthBoxes([1], [[0, 0, 5, 5]], [-1]), NO_DETECTIONS, "truths: label -1"),
        (NO_TRUTHS, ScoredBoxes([1], [[0, 0, 5, 5]], [float("nan")], [0]), "scores: nan at index 0"),
        (NO_TRUTHS, ScoredBoxes([1], [[0, 0, float("inf"), 5]], [0.5], [0]), "not finite"),
        (TruthBoxes([1], [[0, 0, 5]], [0]), NO_DETECTIONS, r"expected shape \(N, 4\)"),
        (TruthBoxes([1, 1], [[0, 0, 5, 5]], [0]), NO_DETECTIONS, "expected 1 values"),
    ],
)
def test_wrong_input_is_named(truths, detections, message):
    with pytest.raises(ValueError, match=message):
        CocoAP(1).update([1], truths, detections)


def test_an_image_added_twice_is_refused():
    metric = CocoAP(1)
    metric.update(GOOD[0], *GOOD[2:])
    metric.update(GOOD[0], *GOOD[2:])
    with pytest.raises(ValueError, match="image 1"):
        metric.compute()


@pytest.mark.parametrize("thresholds", [[], [0.0, 0.5], [0.5, 1.1], [0.6, 0.5]])
def test_impossible_thresholds(thresholds):
    with pytest.raises(ValueError, match="iou_thresholds"):
        CocoAP(1, iou_thresholds=thresholds)


def test_corners_become_width_and_height():
    np.testing.assert_array_equal(xyxy_to_xywh(np.array([[1, 2, 4, 8]])), [[1, 2, 3, 6]])
