"""Where everything goes that is made once and used by later runs: the built-in world and packed images."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$SIGHTLINE_CACHE``; else ``sightline`` in ``$XDG_CACHE_HOME``, or in ``~/.cache`` where that is no whole path.

    The folder need not exist yet.
    """
    if chosen := os.environ.get("SIGHTLINE_CACHE"):
        return Path(chosen).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "sightline"
