"""One picture from anywhere as a batch of one: for prediction."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch

from sightline.data.memory import Scratch
from sightline.data.sample import ClassBatch, ImageBatch, ImageGeometry
from sightline.data.transforms.crop import centre_view
from sightline.data.transforms.image import PAD_VALUE, Image, plan_letterbox, resize, resized_hw, write_planes


def batch_of_one(image: Image, image_size: int, *, stride: int) -> ImageBatch:
    """Resize the long side to ``image_size``, pad to multiples of ``stride``, and make a batch without boxes.

    Args:
        image: (H, W, 3) uint8 RGB.
        image_size: Long side after resizing, pixels.
        stride: Height and width of the input become multiples of it.
    """
    image_hw: tuple[int, int] = (image.shape[0], image.shape[1])
    height, width = resized_hw(image_hw, image_size)
    input_hw = (math.ceil(height / stride) * stride, math.ceil(width / stride) * stride)
    fit = plan_letterbox((height, width), input_hw, upscale=False)
    planes = np.empty((1, 3, *input_hw), np.uint8)
    resized = resize(np.ascontiguousarray(image), (height, width), area=True)
    write_planes(resized, planes[0], Scratch(), left_top=fit.left_top, background=PAD_VALUE)
    scale_xy = (width / image_hw[1], height / image_hw[0])
    return ImageBatch(
        images=torch.from_numpy(planes),
        boxes_xyxy=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        image_index=torch.zeros(0, dtype=torch.int64),
        sample_ids=(0,),
        geometries=(ImageGeometry(image_hw, scale_xy, (float(fit.left_top[0]), float(fit.left_top[1]))),),
    )


def class_batch_of_one(image: Image, image_size: int, *, crop_ratio: float, channels: int) -> ClassBatch:
    """Make a batch of the middle of a picture, as an evaluation sees it; its class is said to be 0.

    Args:
        image: (H, W, 3) uint8 RGB.
        image_size: Side of the input, pixels.
        crop_ratio: The short side is resized to ``image_size / crop_ratio``.
        channels: 3 for RGB, 1 for grey.
    """
    view = np.empty((image_size, image_size, 3), np.uint8)
    centre_view(np.ascontiguousarray(image), image_size, crop_ratio, Scratch(), view)
    planes = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)[None] if channels == 1 else view.transpose(2, 0, 1)
    none = torch.zeros(1, dtype=torch.int64)
    images = torch.from_numpy(np.ascontiguousarray(planes)[None])
    return ClassBatch(images=images, labels=none, labels_b=none, shares=torch.ones(1), sample_ids=(0,))
