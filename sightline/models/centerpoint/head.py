"""The head of CenterPoint: from a bird's-eye-view map to losses and detections.

Shapes: B samples, C channels, H x W cells, K classes, N peaks, D numbers of a code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.models.centerpoint.head_config import CenterHeadConfig
from sightline.models.centerpoint.loss import HeadLoss, center_losses
from sightline.models.centerpoint.predictor import CenterMaps, CenterPredictor
from sightline.models.centerpoint.targets import CenterGrid, CenterTargets, center_targets
from sightline.ops.boxes3d import BoxTargets3D, Detections3D, centers_in_range
from sightline.ops.heatmap import Peaks, gather_cells, top_peaks
from sightline.ops.rotated_nms import rotated_nms


class CenterHead(nn.Module):
    """What is said of every cell, its loss, and what is detected.

    Args:
        config: Groups, layers, weights, thresholds.
        class_names: The K classes of the data.
        in_channels: C of the map.
        grid: The map.

    Attributes:
        labels_of_heads: Labels of the classes of each head.
        predictor: The layers.

    Raises:
        ConfigError: If the groups do not fit the classes.
    """

    def __init__(
        self, config: CenterHeadConfig, class_names: Sequence[str], *, in_channels: int, grid: CenterGrid
    ) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.num_classes = len(class_names)
        self.labels_of_heads = config.labels_of(class_names)
        self.predictor = CenterPredictor(config, in_channels, [len(labels) for labels in self.labels_of_heads])

    def forward(self, bev: Tensor) -> list[CenterMaps]:
        """(B, C, H, W) -> what each head says of every cell."""
        said: list[CenterMaps] = self.predictor(bev)
        return said

    @torch.no_grad()
    def targets(self, targets: BoxTargets3D) -> CenterTargets:
        """What the heads should say."""
        config = self.config
        return center_targets(
            targets,
            self.grid,
            num_classes=self.num_classes,
            min_overlap=config.min_overlap,
            min_radius=config.min_radius,
            velocity=config.velocity,
        )

    def head_losses(self, said: Sequence[CenterMaps], targets: BoxTargets3D) -> list[HeadLoss]:
        """The weighted losses of each head."""
        wanted = self.targets(targets)
        config = self.config
        with torch.autocast(wanted.heatmaps.device.type, enabled=False):
            losses = center_losses(said, self.labels_of_heads, wanted, targets.labels[wanted.boxes])
            weights = losses[0].codes.new_tensor(config.code_weights) * config.loss.box_weight
            return [HeadLoss(config.loss.heatmap_weight * one.heatmap, weights * one.codes) for one in losses]

    def losses(self, said: Sequence[CenterMaps], targets: BoxTargets3D) -> dict[str, Tensor]:
        """``heatmap`` and ``box``: weighted scalars, sums over the heads."""
        losses = self.head_losses(said, targets)
        return {
            "heatmap": torch.stack([one.heatmap for one in losses]).sum(),
            "box": torch.stack([one.codes.sum() for one in losses]).sum(),
        }

    @torch.no_grad()
    def decode(self, maps: CenterMaps) -> tuple[Tensor, Peaks]:
        """The highest peaks of one head as boxes (B, N, 7 or 9), in float32 or float64."""
        exact = torch.float64 if maps.heatmap.dtype == torch.float64 else torch.float32
        peaks = top_peaks(maps.heatmap.to(exact).sigmoid(), self.config.max_peaks)
        samples, limit = peaks.cells.shape
        sample = torch.arange(samples, device=peaks.cells.device).repeat_interleave(limit)
        cells = peaks.cells.flatten()
        boxes3d = self.boxes_at([gather_cells(part, sample, cells).to(exact) for part in maps.codes], cells)
        return boxes3d.view(samples, limit, boxes3d.shape[1]), peaks

    def boxes_at(self, codes: Sequence[Tensor], cells: Tensor) -> Tensor:
        """Boxes (M, 7 or 9) of flat cells (M,), and of what is said there: as in ``CenterMaps``, (M, its channels)."""
        offset, height, size, turn, *velocity = codes
        width = self.grid.map_hw[1]
        places = torch.stack((cells % width, torch.div(cells, width, rounding_mode="floor")), dim=1)
        scale = offset.new_tensor(self.grid.voxel_size)
        centers = (places + offset) * self.grid.stride * scale + offset.new_tensor(self.grid.origin)
        yaw = torch.atan2(turn[:, 1:], turn[:, :1])
        return torch.cat((centers, height, size.exp(), yaw, *velocity), dim=1)

    @torch.no_grad()
    def detections(self, said: Sequence[CenterMaps]) -> list[Detections3D]:
        """Detections of each sample, best first; boxes of one head suppress each other, whatever their classes."""
        found: list[list[Detections3D]] = [[] for _ in said[0].heatmap]
        for maps, labels in zip(said, self.labels_of_heads, strict=True):
            boxes3d, peaks = self.decode(maps)
            own = torch.tensor(labels, device=boxes3d.device)[peaks.labels]
            for sample, rows in enumerate(zip(boxes3d, peaks.scores, own, strict=True)):
                found[sample].append(self._suppressed(Detections3D(*rows)))
        return [_joined(parts) for parts in found]

    def _suppressed(self, peaks: Detections3D) -> Detections3D:
        config = self.config
        is_kept = (peaks.scores > config.score_threshold) & centers_in_range(peaks.boxes3d, config.center_range)
        boxes3d, scores, labels = (field[is_kept] for field in peaks)
        kept = rotated_nms(
            boxes3d,
            scores,
            config.nms_iou_threshold,
            max_candidates=config.max_candidates,
            max_kept=config.max_detections,
        )
        return Detections3D(boxes3d[kept], scores[kept], labels[kept])


def _joined(parts: Sequence[Detections3D]) -> Detections3D:
    """The detections of all heads, best first."""
    boxes3d, scores, labels = (torch.cat(fields) for fields in zip(*parts, strict=True))
    order = scores.argsort(descending=True, stable=True)
    return Detections3D(boxes3d[order], scores[order], labels[order])
