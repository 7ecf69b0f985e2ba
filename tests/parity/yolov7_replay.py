"""Recorded training steps of YOLOv7, repeated by our model, loss and training loop."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.engine.accumulation import AccumulationConfig, plan_run
from sightline.engine.callback import Callback
from sightline.engine.ema import Ema, EmaConfig
from sightline.engine.finite import FiniteGuard
from sightline.engine.loop import Training, train
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.parameter_groups import WEIGHTS_DECAY_BIASES_WARM
from sightline.engine.precision import Precision
from sightline.engine.schedule import Schedule, ScheduleConfig, WarmupConfig
from sightline.engine.task import Task
from sightline.models.yolov7.detector import YOLOv7
from sightline.models.yolov7.layers import DetectionHead
from sightline.models.yolov7.loss import YOLOv7Loss, YOLOv7LossConfig
from sightline.models.yolov7.published import published_names
from sightline.ops.boxes2d import BoxTargets, cxcywh_to_xyxy
from tests.conftest import oracle
from tests.parity.yolov7_recipe import config_of, fill, read_json, recipe_images

CPU = torch.device("cpu")
PREFIX = "detector.network."
ASSIGNMENTS = {"ComputeLoss": "anchor", "ComputeLossOTA": "ota", "ComputeLossAuxOTA": "ota"}


@dataclass(frozen=True)
class Images:
    """A batch of float images, which the recordings use, with their true boxes."""

    images: Tensor
    targets: BoxTargets
    sample_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Self:
        return self


class Fetched(NamedTuple):
    epoch: int
    index: int
    batch: Images


class OnFloatImages(Task):
    """A detector as the loop wants it."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Images) -> dict[str, Tensor]:
        return self.detector.losses(batch.images, batch.targets)


@dataclass
class Replay:
    """What the recordings hold: tables by step, and (sum, norm, elements) by published name."""

    losses: np.ndarray
    """(steps,) multiplied by the batch size."""
    items: np.ndarray
    """(steps, 4) box, objectness, class, sum."""
    lrs_and_momentum: np.ndarray
    """(steps, 4)"""
    first_gradients: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    average: dict[str, np.ndarray]


class Case:
    """One recorded case."""

    def __init__(self, name: str) -> None:
        self.meta = read_json("trainstep", "meta.json")[name]
        self.arrays = np.load(oracle("yolov7", "trainstep", f"{name}.npz"))
        self.hyper = read_json("optim", "optim.json")["hyp"][self.meta["hyp"]]
        self.iterations: list[int] = self.meta["ni_of_steps"]
        self.batch_size, _, self.height, self.width = self.meta["shape"]
        assert self.meta["every_iteration_steps"]
        assert self.iterations == list(range(self.iterations[0], self.iterations[-1] + 1))

    def detector(self) -> YOLOv7:
        """The model with the recipe's weights."""
        assignment = ASSIGNMENTS[self.meta["loss"]]
        loss = YOLOv7LossConfig(
            assignment=assignment,
            box_gain=self.hyper["box"],
            objectness_gain=self.hyper["obj"],
            class_gain=self.hyper["cls"],
            objectness_positive_weight=self.hyper["obj_pw"],
            class_positive_weight=self.hyper["cls_pw"],
            anchor_ratio_threshold=self.hyper["anchor_t"],
            focal_gamma=self.hyper["fl_gamma"],
            pixel_scale="height" if assignment == "ota" else "exact",
        )
        config = config_of(self.meta["cfg"]).but(loss=loss)
        detector = YOLOv7(config, num_classes=self.meta["nc"], image_size=self.width)
        fill(detector.network, self.meta["state_names"], self.meta["weight_seed"], self.meta["gain"])
        return detector

    def batch(self, step: int) -> Images:
        """The batch of a step, counted from 0."""
        # Targets in float64, so that the way over corners and back does not move a centre across a cell's border.
        rows = torch.from_numpy(self.arrays[f"targets{step}"]).double()
        boxes = rows[:, 2:] * rows.new_tensor((self.width, self.height, self.width, self.height))
        return Images(
            recipe_images(self.meta["batch_seed"] + step, self.meta["shape"]),
            BoxTargets(cxcywh_to_xyxy(boxes), rows[:, 1].long(), rows[:, 0].long()),
            sample_ids=range(self.batch_size),
        )

    def iterate(self, *, epoch: int, index: int, epochs: int) -> Iterator[Fetched]:
        """The recorded batches, as a loader that ends after them."""
        for step, iteration in enumerate(self.iterations):
            assert iteration == index + step
            yield Fetched(epoch, iteration, self.batch(step))

    def training(self, detector: YOLOv7) -> Training:
        """A run that stands before the first recorded iteration, in the middle of its warm-up."""
        task = OnFloatImages(detector)
        schedule = ScheduleConfig(
            kind="cosine",
            interval="epoch",
            final=self.hyper["lrf"],
            warmup=WarmupConfig(
                iterations=self.meta["warmup_iterations_nw"],
                bias_lr=self.hyper["warmup_bias_lr"],
                momentum=self.hyper["warmup_momentum"],
            ),
        )
        plan = plan_run(
            AccumulationConfig(every=1, gradient="sum"),
            schedule,
            batch_lengths=[self.batch_size] * (self.iterations[-1] + 1),
            epochs=self.meta["epochs"],
        )
        optimizer = OptimizerConfig(
            kind="sgd",
            momentum=self.hyper["momentum"],
            nesterov=True,
            weight_decay=self.hyper["weight_decay"],
            decay_follows_batch=True,
            groups=WEIGHTS_DECAY_BIASES_WARM,
        )
        nominal = AccumulationConfig(nominal_batch_size=64)
        return Training(
            task=task,
            module=task,
            optimizer=build_optimizer(optimizer, task, decay_scale=nominal.decay_scale(self.batch_size)),
            schedule=Schedule(
                schedule,
                lr=self.hyper["lr0"],
                momentum=self.hyper["momentum"],
                rules=WEIGHTS_DECAY_BIASES_WARM,
                length=plan.length,
            ),
            plan=plan,
            precision=Precision("fp32", CPU),
            guard=FiniteGuard("stop", device=CPU),
            device=CPU,
            ema=Ema(EmaConfig(decay=0.9999, ramp=2000), task),
            iteration=self.iterations[0],
            step=self.iterations[0],
        )

    def replay(self, detector: YOLOv7) -> Replay:
        """Take the recorded steps with a copy of ``detector``."""
        training = self.training(copy.deepcopy(detector))
        watch = Watch(training.task)
        assert train(training, self, callbacks=[watch]) == "done"
        names = {PREFIX + ours: published for ours, published in published_names(detector.network).items()}
        assert training.ema is not None
        items = np.array(watch.items)
        return Replay(
            losses=items[:, 3] * self.batch_size,
            items=items,
            lrs_and_momentum=np.array(watch.values),
            first_gradients={names[name]: row for name, row in watch.gradients.items()},
            state=summaries(training.task.state_dict(), names),
            average=summaries(training.ema.state_tensors(), names),
        )


class Watch(Callback):
    """Notes the first gradients and every step's losses."""

    def __init__(self, task: nn.Module) -> None:
        self.items: list[list[float]] = []
        self.values: list[list[float]] = []
        self.gradients: dict[str, np.ndarray] = {}
        for name, parameter in task.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: self._note(name, p))

    def _note(self, name: str, parameter: Tensor) -> None:
        if not self.items:
            self.gradients[name] = summary(parameter.grad)

    def on_step_end(self, training, report):
        parts = [report.losses[name] for name in ("box", "objectness", "class")]
        self.items.append([part.item() for part in (*parts, sum(parts))])
        self.values.append([*(group.lr for group in report.values), report.values[0].momentum])


def summary(tensor: Tensor) -> np.ndarray:
    """Sum, norm and number of elements, in float64."""
    exact = tensor.detach().double()
    return np.array([exact.sum().item(), exact.norm().item(), exact.numel()])


def summaries(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, np.ndarray]:
    return {published: summary(state[name]) for name, published in names.items()}


def with_noise(detector: YOLOv7, seed: int, size: float) -> YOLOv7:
    """A copy whose weights are off by up to ``size``, relatively; the opposite sign gives the opposite noise."""
    random = torch.Generator().manual_seed(seed)
    result = copy.deepcopy(detector)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.mul_(1 + size * (2 * torch.rand(parameter.shape, generator=random) - 1))
    return result


def round_as_recorded(monkeypatch) -> None:
    """Let the model round as the recorded program did.

    The functions stay the same. At three places we compute them in another order, because that is faster:

    - The head's implicit offset and factor are folded into its weights; here they act on features and outputs.
    - Poolings of 9 and 13 cells are poolings of 5 cells of poolings; here all read the same feature. The maxima are
      equal, and gradients are summed in another order.
    - The objectness is copied out of the predictions; here it is read where it lies, and torch takes the exponential
      of neighbours in memory by other instructions than that of scattered numbers.
    """
    pool_once, cross_entropy = nn.MaxPool2d.forward, YOLOv7Loss._cross_entropy

    def head(self: DetectionHead, features: Sequence[Tensor]) -> list[Tensor]:
        raw = []
        for level, (conv, feature) in enumerate(zip(self.convs, features, strict=True)):
            if self.implicit_offset is None or self.implicit_factor is None:
                out = conv(feature)
            else:
                out = conv(feature + self.implicit_offset[level]) * self.implicit_factor[level]
            split = out.unflatten(1, (self.num_anchors, self.num_outputs))
            raw.append(split.permute(0, 1, 3, 4, 2).contiguous())
        return raw

    def pool(self: nn.MaxPool2d, x: Tensor) -> Tensor:
        if self.stride != 1:
            return pool_once(self, x)
        source, window = getattr(x, "pooled_from", (x, 1))
        window += self.kernel_size - 1
        out = F.max_pool2d(source, window, stride=1, padding=window // 2)
        out.pooled_from = source, window
        return out

    def scattered(self: YOLOv7Loss, logits: Tensor, *others: Any) -> Tensor:
        if logits.dim() == 4:  # the objectness of all anchors
            logits = torch.stack((logits, logits), dim=-1)[..., 0]
        return cross_entropy(self, logits, *others)

    monkeypatch.setattr(DetectionHead, "forward", head)
    monkeypatch.setattr(nn.MaxPool2d, "forward", pool)
    monkeypatch.setattr(YOLOv7Loss, "_cross_entropy", scattered)
