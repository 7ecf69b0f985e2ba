"""The training loss of an anchor head: classes, boxes and directions.

Shapes: B samples, A anchors, K classes, M true boxes, P anchors that answer for one, D direction bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.losses.focal import background_focal_loss, sigmoid_focal_loss
from sightline.losses.smooth_l1 import sine_pair, smooth_l1_loss
from sightline.models.blocks.anchor_config import AnchorHead3DConfig
from sightline.models.blocks.anchor_predictor import AnchorPredictions
from sightline.ops.anchors3d import AnchorGrid, AnchorMatches
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.direction_bins import direction_labels
from sightline.ops.process_shares import share_weights
from sightline.ops.residual_code import encode_residuals


def anchor_losses(
    predictions: AnchorPredictions,
    matches: AnchorMatches,
    targets: BoxTargets3D,
    grid: AnchorGrid,
    config: AnchorHead3DConfig,
) -> dict[str, Tensor]:
    """The losses of a batch, in float32 or float64.

    Each is a sum over anchors divided by the number of those of the sample that answer for a box (at least 1), and a
    mean over the samples. Boxes and directions are compared only where an anchor answers for a box; of the classes
    also background counts.

    Args:
        predictions: What the head says.
        matches: Which anchors answer for which boxes.
        targets: The true boxes.
        grid: The anchors.
        config: Weights, and the direction bins.

    Returns:
        ``class``, ``box`` and, with direction bins, ``direction``: weighted scalars.

    Reference:
        Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019, section 3.3.
    """
    samples, num_anchors = predictions.logits.shape[:2]
    exact = torch.float64 if predictions.logits.dtype == torch.float64 else torch.float32
    sample = matches.anchors // num_anchors  # (P,)
    ones = torch.ones_like(sample, dtype=exact)
    counts = ones.new_zeros(samples).index_add_(0, sample, ones)
    share = 1 / (samples * counts.clamp(min=1))  # (B,) of every anchor of a sample
    anchors = grid.boxes(matches.anchors % num_anchors)  # (P, 7)
    boxes3d, labels = targets.boxes3d[matches.boxes, :7], targets.labels[matches.boxes]
    weights = config.loss

    logits = predictions.logits.to(exact)
    losses = {"class": weights.class_weight * _class_loss(logits, matches, labels, share, config)}

    codes = predictions.deltas.flatten(0, 1)[matches.anchors].to(exact)  # (P, 7)
    wanted = encode_residuals(boxes3d.to(exact), anchors.to(exact))
    sine, wanted_sine = sine_pair(codes[:, 6:], wanted[:, 6:])
    difference = smooth_l1_loss(
        torch.cat((codes[:, :6], sine), dim=1),
        torch.cat((wanted[:, :6], wanted_sine), dim=1),
        beta=weights.smooth_l1_beta,
        code_weights=codes.new_tensor(weights.code_weights),
    )
    losses["box"] = weights.box_weight * (difference.sum(dim=1) * share[sample]).sum()

    if predictions.directions is not None:
        chosen = predictions.directions.flatten(0, 1)[matches.anchors].to(exact)  # (P, D)
        bins = direction_labels(boxes3d[:, 6], bins=config.direction_bins, offset=config.direction_offset)
        entropy = F.cross_entropy(chosen, bins, reduction="none")
        losses["direction"] = weights.direction_weight * (entropy * share[sample]).sum()
    of_samples = share_weights(torch.tensor([samples], device=logits.device))
    if of_samples is not None:
        losses = {name: loss * of_samples[0].to(exact) for name, loss in losses.items()}
    return losses


def _class_loss(
    logits: Tensor, matches: AnchorMatches, labels: Tensor, share: Tensor, config: AnchorHead3DConfig
) -> Tensor:
    """Sum of the focal losses of all classes of all anchors that are trained, weighted by sample.

    Nearly all anchors are background. So the loss of background is taken everywhere, and replaced where something else
    is wanted.
    """
    alpha, gamma = config.loss.focal_alpha, config.loss.focal_gamma
    table = background_focal_loss(logits, alpha=alpha, gamma=gamma).flatten(0, 1)  # (B A, K)
    hits = logits.flatten(0, 1)[matches.anchors, labels]  # (P,)
    hit_losses = sigmoid_focal_loss(hits, torch.ones_like(hits), alpha=alpha, gamma=gamma)
    table = table.index_fill(0, matches.ignored, 0.0).index_put((matches.anchors, labels), hit_losses)
    return (table.view(logits.shape).sum(dim=(1, 2)) * share).sum()
