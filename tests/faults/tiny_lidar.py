"""A detector of boxes in space so small that it trains in seconds, on a built-in world of a few frames."""

from __future__ import annotations

from pathlib import Path

from sightline import api
from sightline.engine.run_folder.folder import is_run
from tests.cli.tool import without_report
from tests.conftest import quiet

RECIPE = "pointpillars-world"

TINY_WORLD = (
    "data.world.scenes=10",
    "data.world.val_fraction=0.3",
    "data.world.world.image_hw=[64,128]",
    "data.world.lidar.beams=24",
    "data.world.lidar.steps_per_turn=900",
)
"""7 frames to train on and 3 to evaluate, of a coarse LiDAR."""

TINY_PILLARS = (
    "model.point_range=[0,-10.24,-3,20.48,10.24,1]",
    "model.pillar_size=[0.64,0.64]",
    "model.pillar_channels=[8]",
    "model.backbone.layers=[1,1]",
    "model.backbone.strides=[1,2]",
    "model.backbone.channels=[8,8]",
    "model.backbone.up_strides=[1,2]",
    "model.backbone.up_channels=[8,8]",
)
"""32 x 32 pillars and a pyramid of two stages."""

TINY_VOXELS = (
    "model.point_range=[0,-10.24,-3,20.48,10.24,1]",
    "model.voxel_size=[0.32,0.32,0.4]",
    "model.encoder.channels=[4,8]",
    "model.encoder.layers=[1,1]",
    "model.encoder.z_paddings=[1]",
    "model.encoder.out_channels=8",
    "model.backbone.layers=[1]",
    "model.backbone.strides=[1]",
    "model.backbone.channels=[8]",
    "model.backbone.up_strides=[1]",
    "model.backbone.up_channels=[8]",
)
"""64 x 64 x 10 voxels, and a map of half as many cells."""

COMMON = (
    "batch_size=3",
    "device=cpu",
    "workers=0",
    "threads=1",
    "precision=fp32",
    "seed=3",
    "augment.close_epochs=1",
    "augment.object_noise={}",
    "augment.translate_std=[0.2,0.2,0.2]",
    "augment.paste.counts=[3,3,3]",
    "evaluate.every_epochs=1",
    "log.every_steps=1",
    "log.heartbeat_seconds=0.01",
)
"""3 steps an epoch, the last one of a single frame. Everything is augmented; the last epoch pastes nothing."""


def changes_with(*changes: str, model: tuple[str, ...] = TINY_PILLARS) -> list[str]:
    """The changes of a tiny run, and more of them, which win."""
    given = dict(change.split("=", 1) for change in (*TINY_WORLD, *model, *COMMON, *changes))
    return [f"{key}={value}" for key, value in given.items()]


def live(run: Path, *changes: str) -> int:
    """Begin, or go on where something was begun. Returns the exit code."""
    with without_report():
        if is_run(run):
            return api.resume(run, console=quiet()).exit_code
        return api.train(RECIPE, changes=changes_with(*changes), out=run, console=quiet()).exit_code
