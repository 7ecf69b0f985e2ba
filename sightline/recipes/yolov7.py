"""YOLOv7 (Wang et al., CVPR 2023): the published recipes, and ours for small data sets and small machines."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sightline.data.transforms.augment import ImageAugmentConfig
from sightline.engine.accumulation import AccumulationConfig
from sightline.engine.ema import EmaConfig
from sightline.engine.evaluation import EvaluateConfig
from sightline.engine.finding import Finding
from sightline.engine.optim import OptimizerConfig
from sightline.engine.parameter_groups import WEIGHTS_DECAY, WEIGHTS_DECAY_BIASES_WARM
from sightline.engine.run_config import Problem
from sightline.engine.schedule import ScheduleConfig, WarmupConfig
from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.detector import YOLOv7
from sightline.models.yolov7.loss import YOLOv7LossConfig
from sightline.recipes.detection2d import Detection2DRun


class YOLOv7Run(Detection2DRun):
    """A run of a YOLOv7 detector."""

    model: YOLOv7Config = YOLOv7Config()

    def build_detector(self, class_names: Sequence[str]) -> nn.Module:
        """YOLOv7 with fresh weights."""
        return YOLOv7(self.model, num_classes=len(class_names), image_size=self.image_size, class_names=class_names)

    def preflight_findings(self, problem: Problem) -> list[Finding]:
        """The anchors against the boxes."""
        from sightline.recipes.yolov7_review import review_anchors

        return [*super().preflight_findings(problem), review_anchors(self, problem)]


def yolov7_tiny() -> YOLOv7Run:
    """YOLOv7-tiny as published, from scratch: a nominal batch of 64, warm-up of 3 epochs or 1000 iterations.

    On BCCD (205 training, 87 validation images of blood cells) with ``image_size=320 batch_size=8 epochs=60``: AP
    0.481 and AP50 0.826 on the validation images after the last epoch, means of seeds 0, 1, 2 (0.488 0.497 0.458 and
    0.818 0.856 0.804), in 8.7 minutes on both cores of a 2-core server CPU. The original's own program reached 0.424
    and 0.727 with one seed. In a run this short most steps are warm-up: see ``yolov7_tiny_small``.
    """
    return YOLOv7Run(
        recipe="yolov7-tiny",
        epochs=300,
        batch_size=16,
        lr=0.01,
        channels_last=True,
        optimizer=OptimizerConfig(
            kind="sgd",
            momentum=0.937,
            nesterov=True,
            weight_decay=5e-4,
            decay_follows_batch=True,
            groups=WEIGHTS_DECAY_BIASES_WARM,
        ),
        schedule=ScheduleConfig(
            kind="cosine",
            interval="epoch",
            epochs_late=1,
            final=0.01,
            warmup=WarmupConfig(epochs=3, iterations=1000, bias_lr=0.1, momentum=0.8),
        ),
        accumulation=AccumulationConfig(nominal_batch_size=64, ramp=True, gradient="sum"),
        ema=EmaConfig(decay=0.9999, ramp=2000),
        augment=ImageAugmentConfig(
            mosaic=1.0, mosaic9=0.2, mixup=0.05, translate=0.1, scale=(0.5, 1.6), hsv_h=0.015, hsv_s=0.7, hsv_v=0.4
        ),
        model=YOLOv7Config(
            variant="tiny", loss=YOLOv7LossConfig(box_gain=0.05, class_gain=0.5, objectness_gain=1.0, assignment="ota")
        ),
    )


def yolov7() -> YOLOv7Run:
    """YOLOv7 as published, from scratch: 36.9 M parameters when fused."""
    base = yolov7_tiny()
    return base.but(
        recipe="yolov7",
        schedule=base.schedule.but(final=0.1),
        augment=base.augment.but(mixup=0.15, translate=0.2, scale=(0.1, 2.0)),
        model=YOLOv7Config(
            variant="yolov7",
            loss=YOLOv7LossConfig(box_gain=0.05, class_gain=0.3, objectness_gain=0.7, assignment="ota"),
        ),
    )


def yolov7_tiny_small() -> YOLOv7Run:
    """YOLOv7-tiny for a few hundred images and a CPU: AdamW in one cycle, plain loss, bf16 where the CPU has it.

    On BCCD (205 training, 87 validation images of blood cells, 320 pixels): AP 0.605 and AP50 0.915 on the
    validation images after the last epoch, means of seeds 0, 1, 2 (0.609 0.602 0.605 and 0.917 0.916 0.913), in
    8.1 minutes on one thread of a 2-core server CPU with bf16. The published recipe with the same epochs: see
    ``yolov7_tiny``.
    """
    base = yolov7_tiny()
    return base.but(
        recipe="yolov7-tiny-small",
        epochs=60,
        batch_size=8,
        image_size=320,
        lr=2e-3,
        precision="auto",
        max_grad_norm=10.0,
        optimizer=OptimizerConfig(kind="adamw", momentum=0.9, weight_decay=0.05, groups=WEIGHTS_DECAY),
        schedule=ScheduleConfig(kind="one_cycle", rise=0.1, final=1e-3),
        accumulation=AccumulationConfig(),
        augment=ImageAugmentConfig(close_mosaic=15, scale=(0.6, 1.4)),
        evaluate=EvaluateConfig(every_epochs=10),
        model=base.model.but(loss=base.model.loss.but(assignment="anchor")),
    )


def yolov7_tiny_world() -> YOLOv7Run:
    """YOLOv7-tiny on the built-in world within minutes on a laptop: what ``make demo`` runs.

    AP 0.517 and AP50 0.847 on the 100 validation pictures (seed 0), in about 4 minutes on one thread of a 2-core
    server CPU with bf16.
    """
    base = yolov7_tiny_small()
    return base.but(
        recipe="yolov7-tiny-world",
        epochs=16,
        schedule=ScheduleConfig(kind="one_cycle", rise=0.15, final=1e-3),
        augment=ImageAugmentConfig(mosaic=0.0, scale=(0.75, 1.35)),
        evaluate=EvaluateConfig(every_epochs=4),
    )
