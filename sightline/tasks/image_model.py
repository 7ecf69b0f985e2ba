"""A trained task on pictures as it is used: one picture in, what was found on it out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from sightline.config.errors import DataError
from sightline.config.printable import printable
from sightline.data.decode import decode_image
from sightline.data.image_header import IMAGE_SUFFIXES
from sightline.tasks.drawing import Pixels
from sightline.tasks.graph import BATCH, Graph, GraphInput, GraphOutput
from sightline.tasks.trained_model import TrainedModel

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})


class ImageModel(TrainedModel):
    """A model for pictures and videos."""

    suffixes = frozenset(IMAGE_SUFFIXES) | VIDEO_SUFFIXES
    takes = ("image or video", "Give an image, a folder, a pattern in quotes such as 'photos/*.jpg', or a video.")

    def samples_of(self, path: Path) -> Iterator[tuple[int | None, Pixels]]:
        """The picture of a file, (H, W, 3) uint8 RGB, or the frames of a video, with their numbers from 0."""
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            yield None, decode_image(path)
            return
        video, frame = cv2.VideoCapture(str(path)), 0
        try:
            while True:
                got, image = video.read()
                if not got:
                    break
                yield frame, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
                frame += 1
        finally:
            video.release()
        if frame == 0:
            message = "no frame of this video can be read; convert it, for example to an mp4 with H.264"
            raise DataError(f"{printable(path)}: {message}.")

    @abstractmethod
    def batch_of(self, sample: Pixels) -> Any:
        """One picture, (H, W, 3) uint8 RGB of any size, as a batch that the task predicts on."""


def image_graph(
    module: nn.Module,
    *,
    channels: int,
    image_size: int,
    meaning: str,
    output: GraphOutput,
    facts: Mapping[str, Any],
    prepared: Callable[[Tensor], Tensor],
    dynamic_batch: bool,
) -> Graph:
    """A graph of square images, tried on a black one, a white one, and noise.

    Args:
        module: (B, ``channels``, ``image_size``, ``image_size``) to the output.
        channels: Of the images.
        image_size: Their side, pixels.
        meaning: Of the images.
        output: What comes out.
        facts: As in ``Graph``, beside the size.
        prepared: (B, C, H, W) uint8 as the module takes images.
        dynamic_batch: Whether the number of images is open; otherwise it is one.
    """
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, channels, image_size, image_size), dtype=torch.uint8, generator=random)
    images[0], images[1] = 0, 255
    images = prepared(images)
    batches = (images[1:], images[:1]) if dynamic_batch else torch.split(images, 1)
    return Graph(
        module=module,
        inputs=(GraphInput("images", (BATCH if dynamic_batch else 1, channels, image_size, image_size), meaning),),
        outputs=(output,),
        facts={"image_size": image_size, **facts},
        examples=[(batch,) for batch in batches],
    )
