"""Starting from weights and freezing, as a user of the 2D detector sees it."""

import pytest
import torch
from safetensors.torch import save_file

from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.detector import YOLOv7
from tests.cli.tool import RECIPE, TINY, sightline, without_report

RUN = f"runs/{RECIPE}/1"
FAST = ("lr=0.1", "schedule.warmup.epochs=0", "schedule.warmup.iterations=1", "ema.decay=0.5", "ema.ramp=0")
BACKBONE = ("*.layers.[0-9].*", "*.layers.1?.*", "*.layers.2[0-8].*")


@pytest.fixture
def fine_tune(workplace, tmp_path):
    """Train in an empty folder on the workplace's data and give what was printed and the run's checkpoint."""

    def train(*changes: str):
        arguments = ("train", RECIPE, "--data", workplace / "city", *TINY, *changes, "--out", "tuned")
        with without_report():
            done = sightline(*arguments, cwd=tmp_path)
        assert done.code == 0, done.err
        return done.out, load_tensors(newest_whole(tmp_path / "tuned", print))

    return train


def equal(a, b) -> bool:
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def is_of_the_backbone(name: str) -> bool:
    parts = name.split(".")
    return parts[2] == "layers" and int(parts[3]) <= 28


def test_a_frozen_backbone_keeps_its_bits_and_the_rest_learns(fine_tune, workplace):
    start = load_tensors(newest_whole(workplace / RUN, print), "ema")["ema"]
    patterns = ", ".join(f"'{pattern}'" for pattern in BACKBONE)
    out, after = fine_tune(f"weights={workplace / RUN}", f"freeze=[{patterns}]", *FAST)
    assert "342 of 342 tensors loaded, 0 new, 0 unused" in out
    # 22 convolutions, each with a norm of two parameters.
    assert "tensors), statistics of 22 normalisation layers" in out
    for group in ("model", "ema"):
        kept = {name for name, tensor in after[group].items() if equal(tensor, start[name])}
        backbone = {name for name in start if is_of_the_backbone(name)}
        # An average keeps the counters that it began with.
        learned = {name for name in start.keys() - backbone if not name.endswith("num_batches_tracked")}
        assert len(backbone) == 22 * 6
        assert backbone <= kept
        assert not learned & kept


def test_weights_of_80_classes_start_a_model_of_two(fine_tune, tmp_path):
    config = YOLOv7Config(variant="tiny", width=0.125)
    state = YOLOv7(config, num_classes=80, image_size=64).state_dict()
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "80.safetensors")
    out, _ = fine_tune("weights=80.safetensors")
    # Three levels of weight, bias and factor depend on the number of classes: 3 * (5 + 80) and 3 * (5 + 2) rows.
    assert "weights of 80.safetensors: 333 of 342 tensors loaded, 9 new, 0 unused" in out
    assert "all names begin with 'module.' in the file and with 'detector.' here" in out
    assert "detector.network.head.convs.0.weight (21, 16, 1, 1), file (255, 16, 1, 1)" in out
    assert "detector.network.head         3       0       9       0" in out
    lines = (tmp_path / "tuned" / "start_weights.txt").read_text().splitlines()
    assert sum(line.startswith("new ") for line in lines) == 9
    assert sum(line.startswith("loaded ") for line in lines) == 333
