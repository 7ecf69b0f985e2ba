"""Images of a data set, decoded and resized."""

from __future__ import annotations

import math

import numpy as np

from sightline.config.errors import DataError
from sightline.data.annotations import ImageAnnotations
from sightline.data.class_labels import ClassLabels
from sightline.data.decode import decode_image
from sightline.data.memory import Scratch
from sightline.data.transforms.image import Image, resize, resized_hw


class ImageReader:
    """Reads images with their long side resized to ``image_size``.

    Args:
        annotations: Paths of the files and sizes of the images.
        image_size: Long side after resizing, pixels.
        area: Average pixels when an image shrinks, else interpolate.
        upscale: Whether smaller images grow.
    """

    def __init__(
        self, annotations: ImageAnnotations | ClassLabels, image_size: int, *, area: bool = False, upscale: bool = True
    ) -> None:
        self.paths = annotations.paths
        self.image_size = image_size
        self.area = area
        self.upscale = upscale
        self._sizes_hw = annotations.sizes_hw
        self._scratch = Scratch()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def image_hw(self, index: int) -> tuple[int, int]:
        """Height and width of the image in its file.

        Raises:
            DataError: If the file could not be read when the data set was.
        """
        height, width = self._sizes_hw[index].tolist()
        if height < 1 or width < 1:
            decode_image(self.paths[index])  # says what is wrong with it
            raise DataError(f"{self.paths[index]}: was unreadable when the data set was opened. Start again.")
        return height, width

    def hw(self, index: int) -> tuple[int, int]:
        """Height and width after resizing."""
        image_hw = self.image_hw(index)
        if not self.upscale and max(image_hw) < self.image_size:
            return image_hw
        return resized_hw(image_hw, self.image_size)

    def read(self, index: int, out: Image) -> None:
        """Write the image to ``out``, (*hw(index), 3), RGB.

        Raises:
            DataError: If the file is missing or broken, or has changed its size since the data set was opened.
        """
        image_hw = self.image_hw(index)
        is_as_wanted = image_hw == out.shape[:2] and out.flags.c_contiguous
        memory = out if is_as_wanted else self._scratch.array("decoded", (*image_hw, 3))
        try:
            pixels = decode_image(self.paths[index], out=memory)
        except ValueError as error:
            raise DataError(f"{self.paths[index]}: has changed since the data set was opened: {error}") from None
        if not is_as_wanted:
            resize(pixels, out.shape[:2], area=self.area, out=out)


class WholeImageReader(ImageReader):
    """Reads images at their own size.

    Args:
        labels: Paths of the files and sizes of the images, which must be known.
    """

    def __init__(self, labels: ClassLabels) -> None:
        largest = int(labels.sizes_hw.astype(np.int64).prod(axis=1).max(initial=1))
        super().__init__(labels, math.ceil(math.sqrt(largest)), upscale=False)

    def hw(self, index: int) -> tuple[int, int]:
        """Height and width of the image in its file."""
        return self.image_hw(index)
