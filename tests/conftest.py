"""Where the recorded numbers and the small real data sets are, and one thread for equal bits."""

import io
import os
from pathlib import Path

import cv2
import pytest
import torch
from hypothesis import HealthCheck, settings

from sightline.engine.console import Console

ROOT = Path(__file__).parent.parent
ORACLES = Path(os.environ.get("SIGHTLINE_ORACLES", ROOT.parent / "shared" / "oracles"))
DATA = Path(os.environ.get("SIGHTLINE_DATA", ROOT.parent / "shared" / "data"))

os.environ.pop("SIGHTLINE_CACHE", None)  # tests choose their caches by XDG_CACHE_HOME
torch.set_num_threads(1)
cv2.setNumThreads(1)  # its pool of threads would hang the children that tests fork

# The clock of a busy machine is no reason to fail.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("same"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))  # the same examples for everybody; or look for more


def recorded(system: str, *parts: str, root: Path = ORACLES) -> Path:
    """Where a recording of a system would be; ``root`` holds a folder for each system, or is that of YOLOv7 itself."""
    is_of_yolov7 = system == "yolov7" and not (root / system).exists() and (root / "models.json").exists()
    return root.joinpath(*parts) if is_of_yolov7 else root.joinpath(system, *parts)


def oracle(*parts: str) -> Path:
    """A recorded file; skips the test, naming the file, where it is missing."""
    path = recorded(*parts)
    if not path.exists():
        pytest.skip(f"oracle file missing: {'/'.join(parts)} (set SIGHTLINE_ORACLES)")
    return path


def dataset(name: str) -> Path:
    """A small real data set; skips the test, naming it, where it is missing."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"data set missing: {name} (set SIGHTLINE_DATA)")
    return path


def quiet() -> Console:
    """A console whose words nobody sees."""
    return Console(io.StringIO(), is_terminal=False)


def pytest_collection_modifyitems(items):
    """GPU tests say why they do not run."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
