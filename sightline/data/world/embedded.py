"""The world as the data set that every recipe has without being told: rendered once, then kept in the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from sightline.config.errors import DataError
from sightline.data.cache_folder import cache_folder
from sightline.data.world.config import WORLD_VERSION, EmbeddedWorldConfig

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
    text = f"{WORLD_VERSION} {config.model_dump_json()}"
    folder = (cache_dir or cache_folder() / WORLD_FOLDER) / hashlib.sha256(text.encode()).hexdigest()[:16]
    if (folder / "data.yaml").exists():
        return folder
    from sightline.data.world.writers import write_world  # loads OpenCV

    try:
        write_world(
            folder,
            format="yolo",
            scenes=config.scenes,
            seed=config.seed,
            val_fraction=config.val_fraction,
            config=config.world,
            progress=progress,
        )
    except (DataError, OSError) as error:
        if (folder / "data.yaml").exists():  # another process was faster
            return folder
        if isinstance(error, DataError):
            raise DataError(f"{error} Name another folder for the built-in world with SIGHTLINE_CACHE.") from error
        raise
    return folder
