"""The training loss of YOLOv7: boxes, objectness and classes.

Shapes: B images, L levels, A anchors a level, H x W cells, K classes, M true boxes, P positives of a level.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from sightline.config.base import Config
from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.printable import counted, printable
from sightline.losses.box_iou import paired_overlap
from sightline.losses.focal import sigmoid_focal_loss
from sightline.losses.smoothing import smooth_one_hot
from sightline.models.yolov7.targets import Positives, find_candidates, match_predictions
from sightline.ops.boxes2d import BoxTargets, cxcywh_to_xyxy, xyxy_to_cxcywh
from sightline.ops.checks import check_shape
from sightline.ops.process_shares import mean_over_processes, share_weights

LEVEL_BALANCE: dict[int, tuple[float, ...]] = {3: (4.0, 1.0, 0.4)}
"""Weight of the objectness of each level, finest first."""

MANY_LEVELS_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)


ClassWeights = tuple[float, ...] | tuple[tuple[str, float], ...]


def _known_weights(given: object) -> object:
    if given is None:
        return None
    found = list(given) if isinstance(given, list | tuple) else []
    pairs = [one for one in found if isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], str)]
    weights = [pair[1] for pair in pairs] if pairs else found
    if not found or (pairs and len(pairs) != len(found)) or not all(map(_is_weight, weights)):
        raise ValueError(
            "give a weight of 0 or more for each class ([1, 2, 1]), or for some by name ([[pedestrian, 2]]), "
            f"not {given!r}"
        )
    names = [pair[0] for pair in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"a class has two weights in {given!r}")
    return given


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


class LossGains(NamedTuple):
    """Weights of the three parts as they enter the sum."""

    box: float
    objectness: float
    label: float


class YOLOv7LossConfig(Config):
    """Weights are those of the hyper-parameter files, written for 3 levels, 80 classes and 640 pixels."""

    assignment: Literal["ota", "anchor"] = "ota"
    """Who answers for a box: the candidates that predict it best (ota), or all anchors of its shape (anchor)."""
    box_gain: float = Field(0.05, ge=0)
    """Weight of 1 - CIoU."""
    objectness_gain: float = Field(0.7, ge=0)
    """Weight of the objectness; grows with the number of cells."""
    class_gain: float = Field(0.3, ge=0)
    """Weight of the classes; grows with their number."""
    objectness_positive_weight: PositiveFloat = 1.0
    """Factor of the positive part of the objectness."""
    class_positive_weight: PositiveFloat = 1.0
    """Factor of the positive part of the classes."""
    anchor_ratio_threshold: float = Field(4.0, gt=1)
    """An anchor proposes itself for boxes whose sides differ by a factor below this."""
    focal_gamma: float = Field(0.0, ge=0)
    """Damping of easy answers in objectness and classes; 0 is plain cross-entropy."""
    class_weights: Annotated[ClassWeights | None, BeforeValidator(_known_weights)] = None
    """Factor of the class loss of a positive, by the class of its box: one for each class in their order ([1, 2, 1]),
    or some by name ([[pedestrian, 2]]), where the others keep 1."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Class targets become 1 - s/2 and s/2."""
    objectness_iou_ratio: float = Field(1.0, ge=0, le=1)
    """Objectness target of a positive: (1 - r) + r * CIoU."""
    level_balance: tuple[PositiveFloat, ...] | None = None
    """Weight of each level's objectness, finest first; None: 4, 1, 0.4 for 3 levels, else 4, 1, 0.25, 0.06."""
    autobalance: bool = False
    """Let the level weights drift so that all levels have the same objectness loss."""
    iou_candidates: PositiveInt | None = None
    """OTA: a box gets as many positives as so many of its largest IoUs add up to; None: 10, with aux heads 20."""
    aux_gain: float = Field(0.25, ge=0)
    """Weight of the auxiliary heads against the lead heads."""
    pixel_scale: Literal["exact", "height"] = "exact"
    """OTA: true boxes in pixels, or, as the original does, both axes in fractions times the image's height."""

    @model_validator(mode="after")
    def _nothing_unused(self) -> Self:
        unused = {"iou_candidates": self.iou_candidates is not None, "pixel_scale": self.pixel_scale != "exact"}
        for name, is_set in unused.items():
            if is_set and self.assignment == "anchor":
                raise ValueError(f"{name} is used by assignment 'ota' only, and the assignment is 'anchor'.")
        return self

    def class_weights_of(self, class_names: Sequence[str]) -> tuple[float, ...] | None:
        """(K,) ``class_weights`` in the order of the classes; None where all count alike.

        Raises:
            ConfigError: If they are not those of the classes, or there is one class only, which has no class loss.
        """
        given = self.class_weights
        if given is None:
            return None
        key, known = "model.loss.class_weights", printable(", ".join(class_names), limit=200)
        if len(class_names) == 1:
            raise ConfigError(f"{key}: with one class ({known}) there is no class loss to weigh. Leave it out.")
        by_name = dict(pair for pair in given if isinstance(pair, tuple))
        for name in by_name:
            if name not in class_names:
                near = did_you_mean(name, list(class_names)) or f" There are: {known}."
                raise ConfigError(f"{key}: the data has no class {printable(name)!r}.{near}")
        if by_name:
            return tuple(by_name.get(name, 1.0) for name in class_names)
        if len(given) != len(class_names):
            raise ConfigError(
                f"{key}: {counted(len(given), 'weight')} for {counted(len(class_names), 'class')} ({known}). Give one "
                f"for each in this order, or some by name: [[{printable(class_names[0])}, 2]]."
            )
        return tuple(weight for weight in given if isinstance(weight, float))

    def gains(self, *, num_levels: int, num_classes: int, image_size: int) -> LossGains:
        """The weights for a model: each level counts 3 / levels, classes / 80, and (size / 640)^2 cells.

        Args:
            num_levels: L.
            num_classes: K.
            image_size: Side of the square training input, pixels.
        """
        share = 3 / num_levels
        return LossGains(
            box=self.box_gain * share,
            objectness=self.objectness_gain * share * (image_size / 640) ** 2,
            label=self.class_gain * share * num_classes / 80,
        )


class YOLOv7Loss(nn.Module):
    """Raw head outputs and true boxes to three weighted scalars.

    Box: mean of 1 - CIoU over a level's positives, summed over levels. Objectness: cross-entropy of every
    anchor, against the CIoU that a positive reaches and 0 for the others, mean over a level, weighted by
    level. Class: cross-entropy, mean over a level's positives and classes, each positive times the weight of its
    box's class; none with a single class.

    With twice as many outputs as levels, the second half are auxiliary heads (P6 models): they get
    positives from five instead of three cells, matched by the lead heads' predictions, and count ``aux_gain``.

    Args:
        config: Weights and choices.
        anchors_px: (L, A, 2) width and height in input pixels.
        strides: Pixels per cell of each level.
        num_classes: K.
        image_size: Side of the square training input, pixels; scales the objectness weight.
        class_names: (K,) for weights by name; their numbers by default.

    Raises:
        ValueError: If a shape or the number of level weights does not fit.
        ConfigError: If the weights of classes do not fit.

    Reference:
        Wang et al., "YOLOv7: Trainable bag-of-freebies sets new state-of-the-art for real-time object
        detectors", CVPR 2023. Numbers compared with the authors' program; differences on purpose are listed
        under ``pixel_scale`` and in the documentation.
    """

    anchors_px: Tensor
    balance: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        config: YOLOv7LossConfig,
        *,
        anchors_px: Tensor,
        strides: Sequence[int],
        num_classes: int,
        image_size: int,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_shape("anchors_px", anchors_px, (len(strides), "A", 2))
        num_levels = len(strides)
        balance = LEVEL_BALANCE.get(num_levels, MANY_LEVELS_BALANCE[:num_levels])
        if config.level_balance is not None:
            balance = config.level_balance
        if len(balance) != num_levels:
            raise ValueError(f"level_balance: {len(balance)} weights {balance} for {num_levels} levels.")
        self.config = config
        self.strides = tuple(int(stride) for stride in strides)
        self.num_classes = num_classes
        self.gains = config.gains(num_levels=num_levels, num_classes=num_classes, image_size=image_size)
        weights = config.class_weights_of(class_names or [str(number) for number in range(num_classes)])
        weighs = None if weights is None else torch.tensor(weights)
        self.register_buffer("class_weights", weighs, persistent=False)
        self.register_buffer("anchors_px", anchors_px.detach().clone().float(), persistent=False)
        # Weights that drift are part of a run's state, fixed ones are not.
        self.register_buffer("balance", torch.tensor(balance), persistent=config.autobalance)

    def forward(self, raw: Sequence[Tensor], targets: BoxTargets, input_hw: tuple[int, int]) -> dict[str, Tensor]:
        """The loss of a batch. With ``autobalance`` and in training mode the level weights drift.

        Args:
            raw: L lead outputs, finest first, each (B, A, H, W, 5 + K) before the sigmoid, in any memory
                layout; then, with auxiliary heads, L more.
            targets: True boxes in input pixels. Any number, also none.
            input_hw: Size of the network's input, pixels.

        Returns:
            ``box``, ``objectness``, ``class``: weighted scalars, not multiplied by the batch size; float32, or
            float64 for such outputs.

        Raises:
            ValueError: If a shape or the number of outputs is wrong.
        """
        num_levels = len(self.strides)
        if len(raw) not in {num_levels, 2 * num_levels}:
            raise ValueError(f"raw: expected {num_levels} or {2 * num_levels} outputs, got {len(raw)}.")
        for output in raw:
            check_shape("raw", output, ("B", self.anchors_px.shape[1], "H", "W", 5 + self.num_classes))
        boxes_cxcywh = xyxy_to_cxcywh(targets.boxes_xyxy)
        heads = self.positives(raw, targets, input_hw)
        parts, level_objectness = self._head_losses(raw[:num_levels], heads[0], boxes_cxcywh, targets.labels)
        if len(heads) > 1:
            aux_parts, _ = self._head_losses(raw[num_levels:], heads[1], boxes_cxcywh, targets.labels)
            parts = parts + self.config.aux_gain * aux_parts
        if self.config.autobalance and self.training:
            self._drift(mean_over_processes(level_objectness.detach()))
        gains = parts.new_tensor(self.gains)
        box, objectness, label = (parts * gains).unbind()
        return {"box": box, "objectness": objectness, "class": label}

    def positives(self, raw: Sequence[Tensor], targets: BoxTargets, input_hw: tuple[int, int]) -> list[Positives]:
        """Which anchors answer for which true box: one entry for the lead heads, one for auxiliary heads."""
        boxes_cxcywh = xyxy_to_cxcywh(targets.boxes_xyxy)
        num_levels = len(self.strides)
        lead, has_aux = raw[:num_levels], len(raw) > num_levels
        iou_candidates = self.config.iou_candidates or (20 if has_aux else 10)
        to_match = boxes_cxcywh
        if self.config.pixel_scale == "height":
            height, width = input_hw
            to_match = boxes_cxcywh * boxes_cxcywh.new_tensor((height / width, 1, height / width, 1))
        heads = []
        for reach in (0.5, 1.0) if has_aux else (0.5,):
            found = find_candidates(
                boxes_cxcywh,
                targets.image_index,
                self.anchors_px,
                self.strides,
                [(output.shape[2], output.shape[3]) for output in lead],
                ratio_threshold=self.config.anchor_ratio_threshold,
                reach=reach,
            )
            if self.config.assignment == "ota":
                found = match_predictions(
                    lead,
                    found,
                    to_match,
                    targets.labels,
                    targets.image_index,
                    self.anchors_px,
                    self.strides,
                    iou_candidates=iou_candidates,
                )
            heads.append(found)
        return heads

    def _head_losses(
        self, raw: Sequence[Tensor], positives: Positives, boxes_cxcywh: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(3,) box, objectness and class before the gains; (L,) objectness of each level before the balance."""
        boxes, objectnesses, classes = [], [], []
        by_level_here = positives.by_level(len(raw))
        counts = [len(raw[0]), *(len(here.target) for here in by_level_here)]
        weights = share_weights(torch.tensor(counts, device=raw[0].device))  # of images, then of each level's positives
        for i, here in enumerate(by_level_here):
            rows, objectness = _Gather.apply(raw[i], here.image, here.anchor, here.row, here.column)
            dtype = torch.float64 if raw[i].dtype == torch.float64 else torch.float32
            rows, objectness = rows.to(dtype), objectness.to(dtype)
            truth = torch.zeros_like(objectness)
            if len(here.target):
                overlap = self._overlap(i, rows, here, boxes_cxcywh)
                boxes.append(_weighted(1 - overlap.mean(), weights, 1 + i))
                ratio = self.config.objectness_iou_ratio
                reached = (1 - ratio) + ratio * overlap.detach().clamp(min=0)
                _write_last(truth, here, reached)
                if self.num_classes > 1:
                    wanted = smooth_one_hot(labels[here.target], self.num_classes, self.config.label_smoothing, dtype)
                    by_row = None if self.class_weights is None else self.class_weights[labels[here.target], None]
                    entropy = self._cross_entropy(rows[:, 5:], wanted, self.config.class_positive_weight, by_row)
                    classes.append(_weighted(entropy, weights, 1 + i))
            entropy = self._cross_entropy(objectness, truth, self.config.objectness_positive_weight)
            objectnesses.append(_weighted(entropy, weights, 0))
        by_level = torch.stack(objectnesses)
        nothing = by_level.new_zeros(())
        parts = torch.stack((sum(boxes, nothing), (by_level * self.balance).sum(), sum(classes, nothing)))
        return parts, by_level

    def _overlap(self, level: int, rows: Tensor, here: Positives, boxes_cxcywh: Tensor) -> Tensor:
        """(P,) CIoU of the predicted with the true boxes, both in cells and relative to the positive's cell."""
        stride = self.strides[level]
        truth = (boxes_cxcywh[here.target] / stride).to(rows.dtype)
        cells = torch.stack((here.column, here.row), dim=1)
        truth = torch.cat((truth[:, :2] - cells, truth[:, 2:]), dim=1)
        probs = rows[:, :4].sigmoid()
        anchors = (self.anchors_px[level, here.anchor] / stride).to(rows.dtype)
        predicted = torch.cat((2 * probs[:, :2] - 0.5, (2 * probs[:, 2:]).square() * anchors), dim=1)
        return paired_overlap(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(truth), kind="ciou")

    def _cross_entropy(
        self, logits: Tensor, wanted: Tensor, positive_weight: float, by_row: Tensor | None = None
    ) -> Tensor:
        """Mean over all entries, each times its row's weight; the weights do not enter what it is divided by."""
        by_row = None if by_row is None else by_row.to(logits.dtype)
        if self.config.focal_gamma > 0:
            gamma = self.config.focal_gamma
            focal = sigmoid_focal_loss(logits, wanted, gamma=gamma, positive_weight=positive_weight)
            return (focal if by_row is None else focal * by_row).mean()
        # With a weight even where it is 1, and the mean inside: rounded as in the recorded gradients.
        weight = logits.new_full((), positive_weight)
        return F.binary_cross_entropy_with_logits(logits, wanted, weight=by_row, pos_weight=weight)

    def _drift(self, level_objectness: Tensor) -> None:
        """Weights follow the inverse of each level's loss; the level of stride 16 stays 1."""
        fixed = self.strides.index(16) if 16 in self.strides else 0
        drifted = self.balance * 0.9999 + 0.0001 / level_objectness
        self.balance.copy_(drifted / drifted[fixed])


def _weighted(mean: Tensor, weights: Tensor | None, place: int) -> Tensor:
    """A mean with its share weight; a mean over nothing is 0."""
    return mean if weights is None else torch.where(weights[place] > 0, mean, 0.0) * weights[place].to(mean.dtype)


class _Gather(torch.autograd.Function):
    """Rows of an output at the positives, and its objectness plane.

    Indexing twice would make autograd fill and add two gradients of the size of the output; here it is one.
    """

    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, image: Tensor, anchor: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(image, anchor, row, column)
        ctx.layout = raw.size(), raw.stride()
        return raw[image, anchor, row, column], raw[..., 4].clone(memory_format=torch.contiguous_format)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_rows: Tensor, grad_objectness: Tensor) -> tuple[Tensor | None, ...]:
        image, anchor, row, column = ctx.saved_tensors
        grad = grad_rows.new_empty_strided(*ctx.layout).zero_()
        grad[..., 4] = grad_objectness
        grad.index_put_((image, anchor, row, column), grad_rows, accumulate=True)
        return grad, None, None, None, None


def _write_last(plane: Tensor, positives: Positives, values: Tensor) -> None:
    """``plane[image, anchor, row, column] = values``; where several rows meet, the last one counts.

    Plain indexed writing leaves the winner open on several threads or a GPU.
    """
    sizes = plane.shape
    cell = ((positives.image * sizes[1] + positives.anchor) * sizes[2] + positives.row) * sizes[3] + positives.column
    number = torch.arange(len(values), device=plane.device)
    last = torch.full((plane.numel(),), -1, device=plane.device).scatter_reduce_(0, cell, number, "amax")
    is_last = last[cell] == number
    plane.view(-1)[cell[is_last]] = values[is_last]
