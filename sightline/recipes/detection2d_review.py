"""A look at the boxes of a 2D detector's run before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from sightline.config.errors import UserError
from sightline.config.printable import counted
from sightline.data.annotations import ImageAnnotations, Ints
from sightline.data.image_source import fitting_size
from sightline.engine.finding import Finding
from sightline.recipes.images_review import ImageReview

if TYPE_CHECKING:
    from sightline.recipes.detection2d import Detection2DRun


class BoxReview(ImageReview):
    """Boxes, and a size of images that is a multiple of the detector's stride."""

    noun = "box"

    def count(self, truth: ImageAnnotations) -> str:
        """Images, boxes, and images without one."""
        text = f"{counted(len(truth), 'image')}, {counted(len(truth.labels), 'box')}"
        empty = int((truth.boxes_per_image == 0).sum())
        return text + (f", {empty:,} without a box" if empty else "")

    def per_class(self, truth: ImageAnnotations) -> Ints:
        """(K,) boxes."""
        return truth.boxes_per_class

    def fitting(self, class_names: Sequence[str]) -> tuple[Mapping[str, Any], list[Finding]]:
        """A size of images that the model takes, and what is wrong with the one that was given."""
        config = cast("Detection2DRun", self.config)
        try:
            with torch.device("meta"):
                stride = int(cast(Any, config.build_detector(class_names)).stride)
        except UserError:  # opening the data tells it
            return {}, []
        except ValueError as error:
            return {}, [Finding("model", "problem", str(error))]
        size = fitting_size(config.image_size, stride)
        if size == config.image_size:
            return {}, []
        text = f"image_size={config.image_size} is no multiple of the model's stride {stride}"
        return {"image_size": size}, [Finding("shapes", "problem", text, f"image_size={size}")]


def box_sizes(annotations: ImageAnnotations, image_size: int) -> Tensor:
    """(M, 2) float32 width and height of the boxes of whole images in the network's input, pixels; without crowds."""
    kept = ~annotations.is_crowd & (annotations.sizes_hw[annotations.image_index] > 0).all(axis=1)
    boxes = annotations.boxes_xyxy[kept]
    longest = annotations.sizes_hw[annotations.image_index[kept]].max(axis=1, keepdims=True)
    sizes = (boxes[:, 2:] - boxes[:, :2]) * (image_size / longest)
    return torch.from_numpy(sizes[(sizes > 0).all(axis=1)]).float()
