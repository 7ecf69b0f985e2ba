"""A look at the image files of a run before it begins."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from sightline.data.annotations import Fault
from sightline.data.cache_folder import cache_folder
from sightline.data.check import readable_images
from sightline.data.decode import decode_bytes, read_image_bytes
from sightline.data.faults import make_fault
from sightline.data.image_header import ImageError
from sightline.data.transforms.image import resized_hw
from sightline.recipes.data_review import SplitReview
from sightline.recipes.data_run import SplitDataConfig
from sightline.recipes.images import ImageDataConfig


class ImageReview(SplitReview, ABC):
    """Images are decoded, and may be kept in a cache."""

    looked = "decoded"

    def whole_files(self, truth: Any) -> Iterable[int]:
        """Images that are files of their own and whose header is sound."""
        return readable_images(truth)

    def look(self, path: str) -> Fault | None:
        """Decode it."""
        try:
            decode_bytes(read_image_bytes(path), path)
        except ImageError as error:
            return make_fault(error.kind, path, error.message)
        return None

    def lenient(self, data: SplitDataConfig) -> SplitDataConfig:
        """Without what is broken, and without a cache."""
        return super().lenient(data).but(cache="none")

    def cached_hw(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which a cache keeps an image of this size."""
        return resized_hw(size, cast(Any, self.config).image_size)

    def caches(self, truths: Sequence[Any]) -> tuple[dict[str, int], dict[Path, int]]:
        """Those of ``data.cache``."""
        data = cast(ImageDataConfig, self.config.data)
        if data.cache == "none":
            return {}, {}
        sizes = np.concatenate([truth.sizes_hw[: len(truth.paths)] for truth in truths])  # of files; others need none
        sizes = sizes[(sizes > 0).all(axis=1)]
        total = sum(3 * h * w for h, w in (self.cached_hw((int(h), int(w))) for h, w in sizes))
        if data.cache == "disk":
            return {}, {cache_folder(): total}
        copies = self.config.workers if data.loader == "processes" and self.config.workers else 1
        return {"data.cache=ram": total * copies}, {}
