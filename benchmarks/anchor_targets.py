"""Targets of all anchors of PointPillars on KITTI's full range, in reference convolutions.

The reference is one 3x3 convolution, 64 to 64 channels, of 1x64x248x216 without gradients: it takes the machine out of
the figure. The original's assignment of 321,408 anchors costs 1.0 of them for one frame and 3.0 for two (recorded).
"""

import argparse

import torch
import torch.nn.functional as F

from benchmarks.pointpillars_step import CLASSES, targets
from benchmarks.timing import emit, paired, ratios
from sightline.models.pointpillars.config import PointPillarsConfig
from sightline.models.pointpillars.model import PointPillars
from sightline.ops.anchors3d import match_anchors
from sightline.ops.residual_code import encode_residuals

RECORDED = {1: 0.982, 2: 2.992}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks anchor-targets", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, choices=sorted(RECORDED), default=1)
    parser.add_argument("--boxes", type=int, default=10, help="true boxes a frame")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    head = PointPillars(PointPillarsConfig(), CLASSES).head
    truth = targets(options.frames, options.boxes)
    features, weight = torch.randn(1, 64, 248, 216), torch.randn(64, 64, 3, 3)

    @torch.no_grad()
    def reference() -> None:
        F.conv2d(features, weight, padding=1)

    @torch.no_grad()
    def assign() -> None:
        grid = head.grid
        matches = match_anchors(grid, truth, matched_iou=head.matched_iou, unmatched_iou=head.unmatched_iou)
        encode_residuals(truth.boxes3d[matches.boxes], grid.boxes(matches.anchors % grid.num_anchors))

    in_convolutions = ratios(paired({"reference": reference, "assign": assign}, options.rounds, inner=5), "reference")
    recorded = RECORDED[options.frames]
    emit(
        "anchor_targets",
        figure=round(in_convolutions["assign"]["cpu"] / recorded, 3),
        unit="of the original's time, both in reference convolutions, CPU time, one thread",
        peer=f"OpenPCDet 0.6.0: {recorded} reference convolutions (recorded)",
        goal="<= 0.5",
        rounds=options.rounds,
        rows=in_convolutions,
        anchors=head.grid.num_anchors,
        shape=vars(options),
        torch=torch.__version__,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
