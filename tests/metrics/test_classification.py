"""Figures of classifiers, by hand and against plain formulas."""

import csv
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.metrics.classification import NO_ANSWER, ClassificationMetric

LOG = math.log


def logits_of(*probs):
    return torch.tensor([[LOG(p) for p in row] for row in probs])


def measured(logits, labels, *, ids=None, num_bins=15):
    metric = ClassificationMetric(logits.shape[1], num_bins=num_bins)
    metric.update(list(range(len(logits))) if ids is None else ids, logits, torch.tensor(labels))
    return metric


def test_four_images_by_hand():
    # Predicted 0 0 1 2, true 0 1 1 1: three of class 1, of which one is found.
    logits = logits_of((0.7, 0.2, 0.1), (0.5, 0.4, 0.1), (0.2, 0.6, 0.2), (0.1, 0.3, 0.6))
    metric = measured(logits, [0, 1, 1, 1])
    figures = metric.compute()
    assert list(figures) == ["top1", "balanced_accuracy", "precision", "f1", "nll", "ece"]
    assert figures["top1"] == 2 / 4
    assert metric.top(2) == 1.0
    assert metric.class_counts().matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    # Means over the classes 0 and 1, which have images: recall 1 and 1/3, precision 1/2 and 1, F1 2/3 and 2/4.
    assert figures["balanced_accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert figures["precision"] == pytest.approx((1 / 2 + 1) / 2)
    assert figures["f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert figures["nll"] == pytest.approx(-(LOG(0.7) + LOG(0.4) + LOG(0.6) + LOG(0.3)) / 4)


def test_a_class_without_images_is_undefined_and_one_that_is_never_predicted_has_precision_0():
    logits = logits_of((0.7, 0.2, 0.1, 1e-6), (0.7, 0.2, 0.1, 1e-6))
    counts = measured(logits, [0, 1]).class_counts()
    np.testing.assert_array_equal(counts.recall, [1, 0, np.nan, np.nan])
    np.testing.assert_array_equal(counts.precision, [0.5, 0, np.nan, np.nan])
    np.testing.assert_array_equal(counts.f1, [2 / 3, 0, np.nan, np.nan])


def test_calibration_by_hand():
    # Two bins. Up to 0.5: none right of one (0.4). Above: two of three right, mean of 0.6, 0.8 and 1.0 is 0.8.
    logits = logits_of((0.4, 0.3, 0.3), (0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (1.0, 1e-30, 1e-30))
    metric = measured(logits, [1, 0, 0, 2], num_bins=2)
    curve = metric.reliability()
    assert curve.counts.tolist() == [1, 3]
    np.testing.assert_allclose(curve.accuracy, [0, 2 / 3])
    np.testing.assert_allclose(curve.confidence, [0.4, 0.8], atol=1e-7)
    assert metric.compute()["ece"] == pytest.approx((1 * 0.4 + 3 * abs(2 / 3 - 0.8)) / 4)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin():
    metric = measured(torch.tensor([[0.0, 0.0]], dtype=torch.float64), [0], num_bins=2)  # 0.5 and 0.5
    assert metric.reliability().counts.tolist() == [1, 0]


def test_the_bins_of_the_paper_on_random_scores():
    rng = np.random.default_rng(0)
    logits, labels = torch.from_numpy(rng.normal(size=(500, 7)) * 2), rng.integers(0, 7, 500)
    probs = np.exp(logits.numpy())
    probs /= probs.sum(axis=1, keepdims=True)
    sure, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    expected = 0.0
    for m in range(1, 16):  # eq. 3, as it stands
        inside = ((m - 1) / 15 < sure) & (sure <= m / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(right[inside].mean() - sure[inside].mean())
    figures = measured(logits, labels.tolist()).compute()
    assert figures["ece"] == pytest.approx(expected, abs=1e-12)
    assert figures["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels))))
    top5 = (np.argsort(-probs, axis=1)[:, :5] == labels[:, None]).any(axis=1).mean()
    assert figures["top5"] == pytest.approx(top5)


def test_of_equal_scores_the_lower_class_is_first():
    metric = measured(torch.zeros(3, 6), [0, 4, 5])
    assert (metric.compute()["top1"], metric.compute()["top5"], metric.top(6)) == (1 / 3, 2 / 3, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_without_a_softmax_are_wrong_for_every_k(bad):
    logits = torch.tensor([[bad, 1.0, 0.0], [3.0, 1.0, 0.0]])
    metric = measured(logits, [0, 0])
    figures = metric.compute()
    assert figures["top1"] == 0.5 and metric.top(3) == 0.5 and math.isnan(figures["nll"])
    assert metric.state()["predicted"].tolist() == [NO_ANSWER, 0]
    counts = metric.class_counts()
    assert counts.matrix.sum() == 1 and counts.recall[0] == 0.5
    assert metric.details(["a", "b", "c"])["num_without_answer"] == 1


def test_minus_infinity_is_a_score():
    metric = measured(torch.tensor([[-math.inf, 0.0], [0.0, -math.inf]]), [1, 0])
    assert metric.compute()["top1"] == 1 and metric.compute()["nll"] == 0


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 10**6))
def test_processes_that_merge_give_the_bits_of_one(num_images, num_processes, seed):
    rng = np.random.default_rng(seed)
    logits, labels = (
        torch.from_numpy(rng.normal(size=(num_images, 9))),
        torch.from_numpy(rng.integers(0, 9, num_images)),
    )
    whole = ClassificationMetric(9)
    whole.update(list(range(num_images)), logits, labels)
    shares = []
    for rank in range(num_processes):
        mine = rng.permutation(np.arange(rank, num_images, num_processes)).tolist()
        mine += [0] * (rank == 1)  # an image that two of them saw
        part = ClassificationMetric(9)
        part.update(mine, logits[mine], labels[mine])
        sent = ClassificationMetric(9)
        sent.load_state({name: tensor.clone() for name, tensor in part.state().items()})
        shares.append(sent)
    shares[-1].merge(shares[:-1])
    assert shares[-1].compute() == whole.compute()
    assert shares[-1].details(list("abcdefghi")) == whole.details(list("abcdefghi"))


def test_without_images_figures_have_names_and_no_value():
    metric = ClassificationMetric(10)
    figures = metric.compute()
    assert list(figures) == ["top1", "top5", "balanced_accuracy", "precision", "f1", "nll", "ece"]
    assert all(math.isnan(value) for value in figures.values())
    metric.update([], torch.zeros(0, 10), torch.zeros(0, dtype=torch.int64))
    assert metric.state()["labels"].tolist() == []


def test_the_memory_of_a_batch_may_be_used_again():
    metric, labels, logits = ClassificationMetric(3), torch.tensor([0, 1]), torch.eye(3)[:2].clone()
    metric.update([0, 1], logits, labels)
    labels.fill_(2)
    logits.zero_()
    assert metric.compute()["top1"] == 1 and metric.state()["labels"].tolist() == [0, 1]


def test_reset_forgets():
    metric = measured(torch.zeros(2, 3), [0, 1])
    metric.reset()
    assert metric.details(["a", "b", "c"])["num_images"] == 0


@pytest.mark.parametrize(
    "logits, labels, words",
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels: 3, but the classes are 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), "labels: -1"),
        (torch.zeros(2, 4), torch.tensor([0, 1]), r"logits: expected shape \(2, 3\)"),
        (torch.zeros(2, 3), torch.tensor([0]), r"labels: expected shape \(2\)"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, words):
    with pytest.raises(ValueError, match=words):
        ClassificationMetric(3).update([0, 1], logits, labels)


def test_half_precision_is_measured_as_it_is():
    logits = torch.tensor([[1.0, 2.0, 0.5]]).bfloat16()
    assert measured(logits, [1]).compute()["nll"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits.double(), torch.tensor([1])))
    )


def test_details_are_plain_and_add_up(tmp_path):
    import json

    rng = np.random.default_rng(1)
    metric = measured(torch.from_numpy(rng.normal(size=(30, 4))), rng.integers(0, 3, 30).tolist())
    details = json.loads(json.dumps(metric.details(["a", "b", "c", "d"]), allow_nan=False))
    matrix = np.array(details["confusion"]["counts"])
    assert matrix.sum() == details["num_images"] == sum(details["reliability"]["counts"]) == 30
    assert [row["num_images"] for row in details["classes"]] == matrix.sum(axis=0).tolist()
    assert [row["num_predicted"] for row in details["classes"]] == matrix.sum(axis=1).tolist()
    assert details["classes"][3]["accuracy"] is None


def test_the_saved_file_gives_the_same_figures(tmp_path):
    rng = np.random.default_rng(2)
    metric = measured(torch.from_numpy(rng.normal(size=(20, 6))), rng.integers(0, 6, 20).tolist())
    metric.save(tmp_path / "found.csv", names=[f"image, {i}\n" for i in range(20)])
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and rows[7]["image"] == "image, 7\n"
    figures = metric.compute()
    assert np.mean([row["predicted"] == row["labels"] for row in rows]) == figures["top1"]
    assert np.mean([int(row["ranks"]) < 5 for row in rows]) == figures["top5"]
    assert -np.mean([float(row["log_likelihoods"]) for row in rows]) == figures["nll"]
