"""How well a classifier ranks, decides and knows what it knows.

Letters: N images, K classes. Of every image a few numbers are kept in flat arrays, not its K scores: ImageNet's
validation takes 2 MB. Figures are computed over the images in the order of their ids, so they have the same bits
however many processes evaluated, and an image that two of them saw counts once.

Variants
--------
top-k
    Share of images whose true class is among the k highest scores. Of equal scores the lower class is first.
precision, recall, F1
    Of the class with the highest score, one class against the rest. Recall of a class is also called its accuracy. A
    class that is never predicted has precision 0; its F1 is ``2 tp / (2 tp + fp + fn)``. Means are over the classes
    that have an image ("macro"); ``balanced_accuracy`` is the mean recall.
negative log likelihood
    Mean of ``-log p`` of the true class, natural logarithm, ``p`` by softmax in float64.
expected calibration error
    15 bins of equal width ``((m - 1) / 15, m / 15]`` over the probability of the predicted class; the mean over the
    images of the distance between the bin's accuracy and its mean probability (Guo et al., "On Calibration of Modern
    Neural Networks", ICML 2017, eq. 3).

An image with a score that is NaN or plus infinity is wrong in every sense: its class is predicted nowhere, its rank is
last, and the negative log likelihood of the whole is NaN.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sightline.ops.checks import check_shape

Array = np.ndarray[Any, Any]

NUM_BINS = 15
NO_ANSWER = -1
"""Predicted class of an image whose scores have no softmax."""

_FIELDS = {
    "sample_ids": torch.int64,
    "labels": torch.int64,
    "predicted": torch.int64,
    "ranks": torch.int64,
    "confidences": torch.float64,
    "log_likelihoods": torch.float64,
}
"""What is kept of every image."""


@dataclass(frozen=True)
class ClassCounts:
    """Decisions of all images by class. K classes."""

    matrix: Array
    """(K, K) int64: rows are predicted classes, columns true ones."""
    num_truths: Array
    """(K,) images of each class, those without an answer included."""

    @property
    def recall(self) -> Array:
        """(K,) share of a class's images that are found; NaN for a class without images."""
        return _ratio(np.diag(self.matrix), self.num_truths)

    @property
    def precision(self) -> Array:
        """(K,) share of a class's predictions that are right; 0 for one that is never predicted, NaN if also absent."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=1), absent=self.num_truths == 0)

    @property
    def f1(self) -> Array:
        """(K,) harmonic mean of both; NaN for a class without images and predictions."""
        return _ratio(2 * np.diag(self.matrix), self.matrix.sum(axis=1) + self.num_truths)


@dataclass(frozen=True)
class Reliability:
    """How often the classifier is right when it says how sure it is. B bins."""

    edges: Array
    """(B + 1,) from 0 to 1."""
    counts: Array
    """(B,) images of each bin."""
    accuracy: Array
    """(B,) share that is right; NaN for an empty bin."""
    confidence: Array
    """(B,) mean probability of the predicted class; NaN for an empty bin."""

    @property
    def error(self) -> float:
        """The expected calibration error."""
        used = self.counts > 0
        if not used.any():
            return float("nan")
        gaps = np.abs(self.accuracy[used] - self.confidence[used])
        return float((gaps * self.counts[used]).sum() / self.counts.sum())


class ClassificationMetric:
    """Top-1, top-5, per-class figures, likelihood and calibration of the images since ``reset``.

    Args:
        num_classes: K, at least 2.
        num_bins: Of the calibration error.
    """

    def __init__(self, num_classes: int, *, num_bins: int = NUM_BINS) -> None:
        self.num_classes = num_classes
        self.num_bins = num_bins
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._parts: list[dict[str, Tensor]] = []

    def update(self, sample_ids: Sequence[int], logits: Tensor, labels: Tensor) -> None:
        """Add images.

        Args:
            sample_ids: B ids.
            logits: (B, K), before the softmax, on any device.
            labels: (B,) true classes.

        Raises:
            ValueError: If a shape or a label does not fit.
        """
        B, K = len(sample_ids), self.num_classes
        check_shape("logits", logits, (B, K))
        check_shape("labels", labels, (B,))
        if B == 0:
            return
        labels = labels.cpu().to(torch.int64, copy=True)  # a batch's memory is used again
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= K:
            raise ValueError(f"labels: {low if low < 0 else high}, but the classes are 0 to {K - 1}.")
        scores = logits.detach().cpu().double()
        log_probs = scores.log_softmax(dim=1)
        of_truth = scores.gather(1, labels[:, None])
        earlier = torch.arange(K) < labels[:, None]
        ranks = ((scores > of_truth) | ((scores == of_truth) & earlier)).sum(dim=1)
        has_nan = log_probs.isnan().any(dim=1)
        part = {
            "sample_ids": torch.as_tensor(sample_ids, dtype=torch.int64),
            "labels": labels,
            "predicted": torch.where(has_nan, NO_ANSWER, scores.argmax(dim=1)),
            "ranks": torch.where(has_nan, K - 1, ranks),
            "confidences": log_probs.max(dim=1).values.exp(),
            "log_likelihoods": log_probs.gather(1, labels[:, None])[:, 0],
        }
        self._parts.append(part)

    def state(self) -> dict[str, Tensor]:
        """What is kept of all images, one entry each, in the order of their ids; of an image seen twice the first."""
        joined = {
            name: torch.cat([torch.zeros(0, dtype=dtype), *(part[name] for part in self._parts)])
            for name, dtype in _FIELDS.items()
        }
        _, first = np.unique(joined["sample_ids"].numpy(), return_index=True)
        kept = torch.from_numpy(first)
        result = {name: tensor[kept] for name, tensor in joined.items()}
        self._parts = [result]
        return result

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become the metric whose ``state`` this is."""
        self._parts = [{name: state[name] for name in _FIELDS}]

    def merge(self, others: Sequence[Self]) -> None:
        """Take in the images that other processes saw."""
        self._parts += [part for other in others for part in other._parts]

    def compute(self) -> dict[str, float]:
        """``top1``, ``top5`` (of more than 5 classes), ``balanced_accuracy``, ``precision``, ``f1``, ``nll``, ``ece``.

        All are in [0, 1] but ``nll``; NaN without images.
        """
        kept = self._arrays()
        counts = self.class_counts()
        figures = {"top1": _mean(kept["predicted"] == kept["labels"])}
        if self.num_classes > 5:
            figures["top5"] = _mean(_top(kept, 5))
        has_images = counts.num_truths > 0
        figures["balanced_accuracy"] = _mean(counts.recall[has_images])
        figures["precision"] = _mean(counts.precision[has_images])
        figures["f1"] = _mean(counts.f1[has_images])
        figures["nll"] = -_mean(kept["log_likelihoods"])
        figures["ece"] = self.reliability().error
        return figures

    def top(self, k: int) -> float:
        """Share of images whose true class is among the ``k`` highest scores."""
        return _mean(_top(self._arrays(), k))

    def class_counts(self) -> ClassCounts:
        """Confusion matrix, and what follows from it for each class."""
        kept, K = self._arrays(), self.num_classes
        answered = kept["predicted"] != NO_ANSWER
        cells = kept["predicted"][answered] * K + kept["labels"][answered]
        matrix = np.bincount(cells, minlength=K * K).reshape(K, K)
        return ClassCounts(matrix.astype(np.int64), np.bincount(kept["labels"], minlength=K).astype(np.int64))

    def reliability(self) -> Reliability:
        """Accuracy over confidence, in bins."""
        kept = self._arrays()
        answered = kept["predicted"] != NO_ANSWER
        confidences = kept["confidences"][answered]
        is_right = (kept["predicted"] == kept["labels"])[answered]
        edges = np.arange(self.num_bins + 1) / self.num_bins
        bins = np.searchsorted(edges[1:-1], confidences, side="left")  # upper edges belong to their bins
        counts = np.bincount(bins, minlength=self.num_bins)
        sums = (np.bincount(bins, weights=values, minlength=self.num_bins) for values in (is_right, confidences))
        accuracy, confidence = (_ratio(total, counts) for total in sums)
        return Reliability(edges, counts, accuracy, confidence)

    def details(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Tables and curves for a report, as plain JSON values; what is undefined is None.

        Returns:
            ``class_names``; ``classes``, one object a class with ``name``, ``num_images``, ``accuracy`` (its recall),
            ``top5`` (of more than 5 classes), ``precision``, ``f1`` and ``num_predicted``; ``confusion`` with
            ``counts`` (K rows of predicted classes, columns of true ones); ``reliability`` with ``edges`` (B + 1),
            ``counts``, ``accuracy`` and ``confidence`` (B); ``num_images`` and ``num_without_answer``.
        """
        counts, curve = self.class_counts(), self.reliability()
        columns = {"accuracy": counts.recall, "precision": counts.precision, "f1": counts.f1}
        if self.num_classes > 5:
            kept = self._arrays()
            among = np.bincount(kept["labels"][_top(kept, 5)], minlength=self.num_classes)
            columns["top5"] = _ratio(among, counts.num_truths)
        plain = {name: _plain(values) for name, values in columns.items()}
        num_predicted = counts.matrix.sum(axis=1).tolist()
        rows = [
            {
                "name": name,
                "num_images": int(counts.num_truths[label]),
                **{column: values[label] for column, values in plain.items()},
                "num_predicted": num_predicted[label],
            }
            for label, name in enumerate(class_names)
        ]
        return {
            "class_names": list(class_names),
            "classes": rows,
            "confusion": {"counts": counts.matrix.tolist()},
            "reliability": {
                "edges": _plain(curve.edges),
                "counts": curve.counts.tolist(),
                "accuracy": _plain(curve.accuracy),
                "confidence": _plain(curve.confidence),
            },
            "num_images": int(counts.num_truths.sum()),
            "num_without_answer": int((self._arrays()["predicted"] == NO_ANSWER).sum()),
        }

    def save(self, path: Path, *, names: Sequence[str] | None = None) -> None:
        """Write one line an image as CSV; no number is rounded, so that all figures follow from the file.

        Args:
            path: The file.
            names: Names of all images by id, for a column of their own.

        Raises:
            OSError: If the disk refuses.
        """
        kept = self._arrays()
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(["sample_id", *(["image"] if names is not None else []), *list(_FIELDS)[1:]])
            for row in zip(*(kept[name].tolist() for name in _FIELDS), strict=True):
                table.writerow([row[0], *([names[row[0]]] if names is not None else []), *row[1:]])

    def _arrays(self) -> dict[str, Array]:
        return {name: tensor.numpy() for name, tensor in self.state().items()}


def _top(kept: Mapping[str, Array], k: int) -> Array:
    return np.asarray((kept["ranks"] < k) & (kept["predicted"] != NO_ANSWER))


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _ratio(part: Array, whole: Array, *, absent: Array | None = None) -> Array:
    """``part / whole``; where the whole is 0, NaN, or 0 unless ``absent``."""
    empty = np.full(len(whole), np.nan) if absent is None else np.where(absent, np.nan, 0.0)
    return np.asarray(np.where(whole > 0, part / np.maximum(whole, 1), empty))


def _plain(values: Array) -> list[float | None]:
    """Numbers with six decimals; NaN becomes None."""
    return [None if np.isnan(value) else round(float(value), 6) for value in values]
