"""The world as the data set that every recipe has without being told: rendered once, then kept in the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from sightline.config.errors import DataError
from sightline.data.cache_folder import cache_folder
from sightline.data.world.config import (
    CROPS_VERSION,
    LIDAR_VERSION,
    WORLD_VERSION,
    EmbeddedCropsConfig,
    EmbeddedLidarConfig,
    EmbeddedWorldConfig,
)

WORLD_FOLDER = "world"


def embedded_world(
    config: EmbeddedWorldConfig | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """A folder with the world in the YOLO layout; rendered now unless the cache has it.

    The folder's name is a hash of the config and of ``WORLD_VERSION``. Processes may ask at the same time: each
    renders into a folder of its own, and the first to finish gives the result.

    Args:
        config: Which world, and how much of it; the defaults without it.
        cache_dir: Where it is kept; ``world`` in ``cache_folder()`` without it.
        progress: Called with the number of finished pictures while rendering.

    Raises:
        UserError: If the cache folder cannot be written.
    """
    config = config or EmbeddedWorldConfig()

    def write(folder: Path) -> None:
        from sightline.data.world.writers import write_world  # loads OpenCV

        write_world(
            folder,
            format="yolo",
            scenes=config.scenes,
            seed=config.seed,
            val_fraction=config.val_fraction,
            config=config.world,
            progress=progress,
        )

    return _kept(cache_dir, f"{WORLD_VERSION} {config.model_dump_json()}", "data.yaml", write)


def embedded_crops(
    config: EmbeddedCropsConfig | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Class folders with the objects of the world, cut out: see ``crops.write_crops``. Kept as ``embedded_world``.

    Args:
        config: Which objects of which world; the defaults without it.
        cache_dir: Where they are kept; ``world`` in ``cache_folder()`` without it.
        progress: Called with the number of finished pictures while rendering.

    Raises:
        UserError: If the cache folder cannot be written, or no object is large enough.
    """
    config = config or EmbeddedCropsConfig()

    def write(folder: Path) -> None:
        from sightline.data.world.crops import write_crops  # loads OpenCV

        write_crops(folder, config, progress=progress)

    return _kept(cache_dir, f"crops {CROPS_VERSION} {WORLD_VERSION} {config.model_dump_json()}", "train", write)


def embedded_lidar_world(
    config: EmbeddedLidarConfig | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """A folder with the world in KITTI's layout, pictures as JPEG: see ``kitti_writer``. Kept as ``embedded_world``.

    Args:
        config: Which world, how much of it, and which LiDAR; the defaults without it.
        cache_dir: Where it is kept; ``world`` in ``cache_folder()`` without it.
        progress: Called with the number of finished frames while rendering.

    Raises:
        UserError: If the cache folder cannot be written.
    """
    config = config or EmbeddedLidarConfig()

    def write(folder: Path) -> None:
        from sightline.data.world.writers import write_world  # loads OpenCV

        write_world(
            folder,
            format="kitti",
            scenes=config.scenes,
            seed=config.seed,
            val_fraction=config.val_fraction,
            config=config.world,
            lidar=config.lidar,
            pictures=".jpg",
            progress=progress,
        )

    key = f"lidar {LIDAR_VERSION} {WORLD_VERSION} {config.model_dump_json()}"
    return _kept(cache_dir, key, "ImageSets/train.txt", write)


def _kept(cache_dir: Path | None, key: str, mark: str, write: Callable[[Path], object]) -> Path:
    """The folder named after a hash of ``key``; written now unless it is there with the file ``mark`` in it."""
    folder = (cache_dir or cache_folder() / WORLD_FOLDER) / hashlib.sha256(key.encode()).hexdigest()[:16]
    if (folder / mark).exists():
        return folder
    try:
        write(folder)
    except (DataError, OSError) as error:
        if (folder / mark).exists():  # another process was faster
            return folder
        if isinstance(error, DataError):
            raise DataError(f"{error} Name another folder for the built-in world with SIGHTLINE_CACHE.") from error
        raise
    return folder
