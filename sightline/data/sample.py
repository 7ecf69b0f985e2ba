"""Typed samples and batches, one pair per kind of data, and the predictions in a sample's own coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightline.ops.boxes2d import BoxTargets
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.point_clouds import PointClouds

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """How an image became a network input: ``x_input = x_image * scale_x + pad_x``, the same for y."""

    image_hw: tuple[int, int]
    """Size of the image file (after EXIF rotation), pixels."""
    scale_xy: tuple[float, float]
    pad_xy: tuple[float, float]

    def to_image(self, boxes_xyxy: Tensor) -> Tensor:
        """(N, 4) boxes from input pixels to image pixels, clipped to the image."""
        scale = boxes_xyxy.new_tensor(self.scale_xy * 2)
        pad = boxes_xyxy.new_tensor(self.pad_xy * 2)
        height, width = self.image_hw
        limit = boxes_xyxy.new_tensor((width, height, width, height))
        return torch.minimum(((boxes_xyxy - pad) / scale).clamp(min=0), limit)

    def to_input(self, boxes_xyxy: Tensor) -> Tensor:
        """(N, 4) boxes from image pixels to input pixels."""
        return boxes_xyxy * boxes_xyxy.new_tensor(self.scale_xy * 2) + boxes_xyxy.new_tensor(self.pad_xy * 2)


@dataclass(frozen=True, slots=True)
class ImageSample:
    """One training or validation image with its boxes, in pixels of the (augmented) input."""

    sample_id: int
    """Index in its data set."""
    image: Array
    """(3, H, W) uint8, RGB."""
    boxes_xyxy: Array
    """(N, 4) float32, pixels."""
    labels: Array
    """(N,) int64."""
    geometry: ImageGeometry | None = None
    """None once an augmentation has mixed several images."""


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images of one size with all their boxes, flat."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB. Becomes float on the device. The memory may be reused after the next fetch."""
    boxes_xyxy: Tensor
    """(M, 4) float32, pixels of the input."""
    labels: Tensor
    """(M,) int64."""
    image_index: Tensor
    """(M,) int64, ascending: the image of the batch each box lies in."""
    sample_ids: tuple[int, ...]
    geometries: tuple[ImageGeometry | None, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sample_ids)

    def to(self, device: torch.device) -> ImageBatch:
        """The same batch on ``device``; images still as uint8."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            boxes_xyxy=self.boxes_xyxy.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            image_index=self.image_index.to(device, non_blocking=True),
        )

    def part(self, first: int, end: int) -> ImageBatch:
        """The images ``first .. end - 1`` and their boxes; pixels are shared, not copied."""
        mine = (self.image_index >= first) & (self.image_index < end)  # (M,)
        return ImageBatch(
            images=self.images[first:end],
            boxes_xyxy=self.boxes_xyxy[mine],
            labels=self.labels[mine],
            image_index=self.image_index[mine] - first,
            sample_ids=self.sample_ids[first:end],
            geometries=self.geometries[first:end],
        )

    @property
    def targets(self) -> BoxTargets:
        """The true boxes as the models take them."""
        return BoxTargets(self.boxes_xyxy, self.labels, self.image_index)


@dataclass(frozen=True, slots=True)
class ClassBatch:
    """Images of one size, each with one class, or with two where it is mixed from two images."""

    images: Tensor
    """(B, C, H, W) uint8, RGB or grey. Becomes float on the device. The memory may be reused after the next fetch."""
    labels: Tensor
    """(B,) int64."""
    labels_b: Tensor
    """(B,) int64: class of the image that was mixed in; that of ``labels`` where there is none."""
    shares: Tensor
    """(B,) float32 in [0, 1]: weight of ``labels``; the rest is that of ``labels_b``."""
    sample_ids: tuple[int, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sample_ids)

    def to(self, device: torch.device) -> ClassBatch:
        """The same batch on ``device``; images still as uint8."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            labels_b=self.labels_b.to(device, non_blocking=True),
            shares=self.shares.to(device, non_blocking=True),
        )

    def part(self, first: int, end: int) -> ClassBatch:
        """The images ``first .. end - 1``; pixels are shared, not copied."""
        return ClassBatch(
            images=self.images[first:end],
            labels=self.labels[first:end],
            labels_b=self.labels_b[first:end],
            shares=self.shares[first:end],
            sample_ids=self.sample_ids[first:end],
        )


@dataclass(frozen=True, slots=True)
class PointBatch:
    """Point clouds with all their boxes, flat; LiDAR frame, as the augmentation left them."""

    points: Tensor
    """(P, F) float32: x, y, z in metres, intensity in [0, 1], and what else the data has."""
    point_counts: tuple[int, ...]
    """(B,) points of each cloud."""
    boxes3d: Tensor
    """(M, C) float32, as in ``ops.boxes3d``."""
    labels: Tensor
    """(M,) int64."""
    box_counts: tuple[int, ...]
    """(B,) boxes of each cloud."""
    sample_ids: tuple[int, ...]

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.sample_ids)

    def to(self, device: torch.device) -> PointBatch:
        """The same batch on ``device``."""
        return replace(
            self,
            points=self.points.to(device, non_blocking=True),
            boxes3d=self.boxes3d.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def part(self, first: int, end: int) -> PointBatch:
        """The clouds ``first .. end - 1`` and their boxes; nothing is copied."""
        points = slice(sum(self.point_counts[:first]), sum(self.point_counts[:end]))
        boxes = slice(sum(self.box_counts[:first]), sum(self.box_counts[:end]))
        return PointBatch(
            points=self.points[points],
            point_counts=self.point_counts[first:end],
            boxes3d=self.boxes3d[boxes],
            labels=self.labels[boxes],
            box_counts=self.box_counts[first:end],
            sample_ids=self.sample_ids[first:end],
        )

    @property
    def clouds(self) -> PointClouds:
        """The points as the models take them."""
        return PointClouds(self.points, self.point_counts)

    @property
    def targets(self) -> BoxTargets3D:
        """The true boxes as the models take them."""
        return BoxTargets3D(self.boxes3d, self.labels, self.box_counts)


@dataclass(frozen=True, slots=True)
class BoxPrediction:
    """Detections of one image in pixels of the image file, best first; on the CPU."""

    sample_id: int
    boxes_xyxy: Tensor
    """(N, 4) float32."""
    scores: Tensor
    """(N,) float32 in [0, 1]."""
    labels: Tensor
    """(N,) int64."""


@dataclass(frozen=True, slots=True)
class Box3DPrediction:
    """Detections in one point cloud, LiDAR frame, best first; on the CPU."""

    sample_id: int
    boxes3d: Tensor
    """(N, C) float32, as in ``ops.boxes3d``."""
    scores: Tensor
    """(N,) float32 in [0, 1]."""
    labels: Tensor
    """(N,) int64."""


@dataclass(frozen=True, slots=True)
class ClassPrediction:
    """What a classifier says of one image; on the CPU."""

    sample_id: int
    logits: Tensor
    """(K,), before the softmax."""

    @property
    def probs(self) -> Tensor:
        """(K,) in [0, 1], of sum 1."""
        return self.logits.softmax(dim=0)
