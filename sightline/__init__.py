"""sightline: one training system for perception models.

Importing this package loads nothing heavy; ``train``, ``evaluate``, ``predict``, ``export`` and the others bring in
PyTorch when they are first used.
"""

from typing import Any

__version__ = "0.1.0"

_API = frozenset(
    {
        "train",
        "resume",
        "evaluate",
        "predict",
        "load",
        "release",
        "pack",
        "import_bmxnet",
        "import_openpcdet",
        "export",
        "search",
    }
)


def __getattr__(name: str) -> Any:
    """Load the Python face on first use, so that ``sightline --help`` stays fast."""
    if name in _API:
        from sightline import api

        return getattr(api, name)
    raise AttributeError(f"module 'sightline' has no attribute {name!r}")
