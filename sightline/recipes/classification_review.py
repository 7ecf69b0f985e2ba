"""A look at the classes of a classifier's run before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sightline.config.errors import UserError
from sightline.config.printable import counted, printable
from sightline.data.annotations import Ints
from sightline.data.class_labels import ClassLabels
from sightline.engine.finding import Finding
from sightline.recipes.images_review import ImageReview

if TYPE_CHECKING:
    from sightline.recipes.classification import ClassificationRun

UNEVEN = 20
"""Classes whose counts differ by more than this factor are told."""


class ClassReview(ImageReview):
    """Images of each class."""

    noun = "image"

    def count(self, truth: ClassLabels) -> str:
        """Images, classes, and the smallest and largest class where they are far apart."""
        counts = truth.images_per_class
        text = f"{counted(len(truth), 'image')} of {counted(int((counts > 0).sum()), 'class')}"
        if len(counts) and counts.max() > UNEVEN * max(1, counts.min()):
            most, least = (printable(truth.class_names[int(place)]) for place in (counts.argmax(), counts.argmin()))
            text += f", from {counts.min():,} of {least} to {counts.max():,} of {most}"
        return text

    def per_class(self, truth: ClassLabels) -> Ints:
        """(K,) images."""
        return truth.images_per_class

    def fitting(self, class_names: Sequence[str]) -> tuple[Mapping[str, Any], list[Finding]]:
        """Nothing: whether the network takes images of the given size shows when it is built."""
        return {}, []

    def cached_hw(self, size: tuple[int, int]) -> tuple[int, int]:
        """Its own: a part of random size is cut from it."""
        return size

    def of_batches(self, train: ClassLabels) -> list[Finding]:
        """A last batch of one image, where batch norm cannot train on it."""
        run = cast("ClassificationRun", self.config)
        if run.batch_size == "auto":
            return []
        spoilt = {fault.image for fault in train.faults if fault.fatal and fault.image is not None}
        try:
            network = run.build_network(len(train.class_names))
        except UserError:  # told when the problem is opened
            return []
        refusal = run.refusal_of_last_batch(network, len(train) - len(spoilt))
        return [] if refusal is None else [Finding("batches", "problem", refusal)]
