"""A trained task on pictures as it is used: one picture in, what was found on it out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor, nn

from sightline.config.errors import ConfigError, DataError
from sightline.config.printable import printable
from sightline.data.decode import decode_image
from sightline.data.image_header import IMAGE_SUFFIXES
from sightline.tasks.drawing import Pixels
from sightline.tasks.trained_model import TrainedModel

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})


@dataclass(frozen=True)
class Graph:
    """A trained model as other programs run it: one tensor of images in, one tensor out."""

    module: nn.Module
    """(B, ``channels``, ``image_size``, ``image_size``) to the output."""
    channels: int
    image_size: int
    input_meaning: str
    output: str
    """What the output is called."""
    output_meaning: str
    facts: Mapping[str, Any]
    """What whoever prepares images has to know, as plain values."""
    prepared: Callable[[Tensor], Tensor]
    """(B, C, H, W) uint8 as the module takes images."""


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

    def graph(self, *, normalised: bool) -> Graph:
        """The model as other programs run it, its weights shared; after ``prepare``.

        Args:
            normalised: Whether the images come as floats that are normalised already, or as uint8.

        Raises:
            ConfigError: If there is none.
        """
        raise ConfigError(f"{type(self.task).__name__}: has no graph that can be exported.")
