"""The anchor head of PointPillars and SECOND: from a bird's-eye-view map to losses and detections.

Shapes: B samples, C channels, H x W cells, A anchors, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.models.blocks.anchor_config import AnchorConfig, AnchorHead3DConfig
from sightline.models.blocks.anchor_loss import anchor_losses
from sightline.models.blocks.anchor_predictor import AnchorPredictions, AnchorPredictor
from sightline.ops.anchors3d import AnchorGrid, cell_centers, match_anchors
from sightline.ops.boxes3d import BoxTargets3D, Detections3D
from sightline.ops.direction_bins import yaws_in_bins
from sightline.ops.residual_code import decode_residuals
from sightline.ops.rotated_nms import rotated_nms


class AnchorHead3D(nn.Module):
    """Predictions for every anchor, their loss, and what is detected.

    Args:
        config: Anchors, weights, thresholds.
        class_names: The K classes of the data.
        in_channels: C of the map.
        map_hw: H and W of the map: cells along y and x.
        point_range: (x_min, y_min, z_min, x_max, y_max, z_max) of the map, metres.

    Attributes:
        predictor: The layers.

    Raises:
        ConfigError: If a class has no anchors.

    Reference:
        Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019, sections 2.3, 3.3.
    """

    xs: Tensor
    ys: Tensor
    shapes: Tensor
    labels: Tensor

    def __init__(
        self,
        config: AnchorHead3DConfig,
        class_names: Sequence[str],
        *,
        in_channels: int,
        map_hw: tuple[int, int],
        point_range: Sequence[float],
    ) -> None:
        super().__init__()
        anchors = config.anchors_of(class_names)
        self.config = config
        self.matched_iou = [anchor.matched_iou for anchor in anchors]
        self.unmatched_iou = [anchor.unmatched_iou for anchor in anchors]
        shapes, labels = _shapes(anchors)
        self.register_buffer("shapes", shapes, persistent=False)
        self.register_buffer("labels", labels, persistent=False)
        for name, axis, cells in (("xs", 0, map_hw[1]), ("ys", 1, map_hw[0])):
            centers = cell_centers(point_range[axis], point_range[axis + 3], cells, is_centered=config.is_centered)
            self.register_buffer(name, centers, persistent=False)
        self.predictor = AnchorPredictor(
            in_channels,
            num_classes=len(class_names),
            anchors_per_cell=len(shapes),
            direction_bins=config.direction_bins,
        )

    @property
    def grid(self) -> AnchorGrid:
        """The anchors."""
        return AnchorGrid(self.xs, self.ys, self.shapes, self.labels)

    def forward(self, bev: Tensor | Sequence[Tensor]) -> AnchorPredictions:
        """(B, C, H, W), or several maps of C channels together -> what is predicted for every anchor."""
        predictions: AnchorPredictions = self.predictor(bev)
        return predictions

    def losses(self, predictions: AnchorPredictions, targets: BoxTargets3D) -> dict[str, Tensor]:
        """``class``, ``box``, ``direction``: weighted scalars, means over the samples; see ``anchor_losses``."""
        with torch.no_grad():
            matches = match_anchors(self.grid, targets, matched_iou=self.matched_iou, unmatched_iou=self.unmatched_iou)
        with torch.autocast(predictions.logits.device.type, enabled=False):
            return anchor_losses(predictions, matches, targets, self.grid, self.config)

    @torch.no_grad()
    def decode(self, predictions: AnchorPredictions, sample: int, index: Tensor | None = None) -> Tensor:
        """(N, 7) boxes of the anchors ``index`` (N,) of one sample; of all of them where there is none."""
        chosen = slice(None) if index is None else index
        boxes3d = decode_residuals(predictions.deltas[sample, chosen].float(), self.grid.boxes(index))
        if predictions.directions is None:
            return boxes3d
        yaws = yaws_in_bins(
            boxes3d[:, 6],
            predictions.directions[sample, chosen].argmax(dim=1),
            bins=self.config.direction_bins,
            offset=self.config.direction_offset,
            limit_offset=self.config.direction_limit_offset,
        )
        return torch.cat((boxes3d[:, :6], yaws[:, None]), dim=1)

    @torch.no_grad()
    def detections(self, predictions: AnchorPredictions) -> list[Detections3D]:
        """Detections of each sample, best first: of every anchor its best class, then suppression of all classes."""
        config = self.config
        found = []
        for sample, logits in enumerate(predictions.logits):
            scores, labels = logits.float().sigmoid().max(dim=1)  # (A,)
            candidates = (scores >= config.score_threshold).nonzero().squeeze(1)
            boxes3d = self.decode(predictions, sample, candidates)
            kept = rotated_nms(
                boxes3d,
                scores[candidates],
                config.nms_iou_threshold,
                max_candidates=config.max_candidates,
                max_kept=config.max_detections,
            )
            chosen = candidates[kept]
            found.append(Detections3D(boxes3d[kept], scores[chosen], labels[chosen]))
        return found


def _shapes(anchors: Sequence[AnchorConfig]) -> tuple[Tensor, Tensor]:
    """(L, 5) z, dx, dy, dz, yaw and (L,) label of the anchors of a cell: by class, size, rotation."""
    rows = [
        (label, (anchor.bottom + size[2] / 2, *size, yaw))
        for label, anchor in enumerate(anchors)
        for size in anchor.sizes
        for yaw in anchor.rotations
    ]
    return torch.tensor([row[1] for row in rows]), torch.tensor([row[0] for row in rows])


def openpcdet_head_names(config: AnchorHead3DConfig, *, theirs: str = "dense_head.") -> dict[str, str]:
    """OpenPCDet's names of the layers of ``AnchorHeadSingle``, each with ours relative to ``AnchorHead3D``."""
    names = {f"{theirs}conv_cls": "predictor.classes", f"{theirs}conv_box": "predictor.boxes"}
    if config.direction_bins:
        names[f"{theirs}conv_dir_cls"] = "predictor.directions"
    return names
