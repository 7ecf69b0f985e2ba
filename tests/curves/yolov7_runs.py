"""Short seeded runs of a narrow YOLOv7-tiny on drawn pictures; ``python -m tests.curves.yolov7_runs`` writes them.

A run is made so that any machine repeats it: weights and pictures come from numpy's legacy generator, whose numbers
never change, no file is read, and everything is computed in float64 by one thread.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightline.engine.accumulation import AccumulationConfig
from sightline.engine.building import build_training
from sightline.engine.callback import Callback
from sightline.engine.ema import EmaConfig
from sightline.engine.log import LogConfig
from sightline.engine.loop import train
from sightline.engine.optim import OptimizerConfig
from sightline.engine.parameter_groups import WEIGHTS_DECAY, WEIGHTS_DECAY_BIASES_WARM
from sightline.engine.run_config import Problem
from sightline.engine.schedule import ScheduleConfig, WarmupConfig
from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.detector import YOLOv7
from sightline.models.yolov7.loss import YOLOv7LossConfig
from sightline.models.yolov7.published import published_names
from sightline.ops.boxes2d import BoxTargets
from sightline.recipes.yolov7 import YOLOv7Run
from tests.parity.yolov7_replay import Fetched, Images, OnFloatImages

SIDE = 128
NUM_CLASSES = 3
PICTURES = 32
COLUMNS = ("box", "objectness", "class", "grad_norm", "lag")
"""Losses, norm of the gradients before clipping, distance of the averaged state from the live one (0: no average)."""


def model(assignment):
    return YOLOv7Config(variant="tiny", width=0.125, loss=YOLOv7LossConfig(assignment=assignment))


BASE = YOLOv7Run(steps=20, batch_size=8, image_size=SIDE, device="cpu", log=LogConfig(grad_norm=True))
RUNS = {
    "yolov7_sgd_ota": BASE.but(
        lr=1e-3,
        model=model("ota"),
        optimizer=OptimizerConfig(
            kind="sgd", momentum=0.937, nesterov=True, weight_decay=5e-4, groups=WEIGHTS_DECAY_BIASES_WARM
        ),
        schedule=ScheduleConfig(
            kind="cosine", final=0.1, warmup=WarmupConfig(iterations=5, bias_lr=2e-3, momentum=0.8)
        ),
        ema=EmaConfig(decay=0.99, ramp=10),
        max_grad_norm=6.0,
    ),
    "yolov7_adamw_anchor": BASE.but(
        lr=3e-4,
        model=model("anchor"),
        optimizer=OptimizerConfig(kind="adamw", momentum=0.9, weight_decay=0.05, groups=WEIGHTS_DECAY),
        schedule=ScheduleConfig(kind="one_cycle", rise=0.3),
        accumulation=AccumulationConfig(every=2),
    ),
}


def picture(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One to three rectangles in one of three colours on grey noise: pixels (3, S, S) in [0, 1], boxes, labels."""
    random = np.random.RandomState(number)
    pixels = 0.4 + 0.2 * random.random_sample((3, 1, 1)) * random.random_sample((3, SIDE, SIDE))
    boxes, labels = [], []
    for _ in range(random.randint(1, 4)):
        width, height = random.randint(12, SIDE // 2, size=2)
        left, top, label = random.randint(SIDE - width), random.randint(SIDE - height), random.randint(NUM_CLASSES)
        pixels[:, top : top + height, left : left + width] = 0.1
        pixels[label, top : top + height, left : left + width] = 0.9
        boxes.append((left, top, left + width, top + height))
        labels.append(label)
    return pixels, np.array(boxes, dtype=np.float64), np.array(labels)


class Pictures:
    """All pictures in one order, again and again: a loader for ``train``."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.batches_per_epoch = PICTURES // batch_size

    def batch_length(self, index: int) -> int:
        return self.batch_size

    def batch(self, index: int) -> Images:
        numbers = range(index * self.batch_size, (index + 1) * self.batch_size)
        pixels, boxes, labels = zip(*map(picture, numbers), strict=True)
        targets = BoxTargets(
            torch.from_numpy(np.concatenate(boxes)),
            torch.from_numpy(np.concatenate(labels)),
            torch.from_numpy(np.repeat(np.arange(self.batch_size), [len(one) for one in labels])),
        )
        return Images(torch.from_numpy(np.stack(pixels)), targets, sample_ids=numbers)

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[Fetched]:
        while epoch < epochs:
            for number in range(index, self.batches_per_epoch):
                yield Fetched(epoch, number, self.batch(number))
            epoch, index = epoch + 1, 0

    def close(self) -> None:
        pass


def start(detector: YOLOv7) -> None:
    """Fresh weights that depend on the published names alone, not on the order of layers or on torch's generator."""
    names = published_names(detector.network)
    with torch.no_grad():
        for name, parameter in detector.network.named_parameters():
            random = np.random.RandomState(zlib.crc32(names[name].encode()))
            values = random.standard_normal(tuple(parameter.shape))
            if names[name].endswith(".implicit"):
                values = 0.02 * values + (".im." in names[name])
            elif parameter.dim() == 4:
                values *= np.sqrt(2 / np.prod(parameter.shape[1:]))
            elif ".bn." in names[name]:
                values = 0.1 * values + names[name].endswith(".weight")
            else:
                values *= 0.1
            parameter.copy_(torch.from_numpy(values))


class Curve(Callback):
    """Notes the columns of every step."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_step_end(self, training, report):
        live, average = training.task.state_dict(), {} if training.ema is None else training.ema.state_tensors()
        floating = [name for name, tensor in average.items() if tensor.is_floating_point()]
        lag = sum((live[name] - average[name]).square().sum().item() for name in floating) ** 0.5
        losses = [report.losses[name].item() for name in ("box", "objectness", "class")]
        self.rows.append([*losses, report.grad_norm.item(), lag])


class Noise(NamedTuple):
    size: float
    seed: int

    def on(self, parameter: Tensor) -> Tensor:
        random = np.random.RandomState(self.seed)
        return 1 + self.size * torch.from_numpy(random.uniform(-1, 1, tuple(parameter.shape)))


def run(name: str, noise: Noise | None = None) -> np.ndarray:
    """(steps, columns) of a run; with noise its weights begin a little off, relatively."""
    config = RUNS[name]
    detector = config.build_detector([str(number) for number in range(NUM_CLASSES)]).double()
    start(detector)
    if noise is not None:
        with torch.no_grad():
            for parameter in detector.parameters():
                parameter.mul_(noise.on(parameter))
    loader, curve = Pictures(config.batch_size), Curve()
    training = build_training(config, Problem(OnFloatImages(detector), loader, None))
    assert train(training, loader, callbacks=[curve]) == "done"
    return np.array(curve.rows)


def path_of(name: str) -> Path:
    return Path(__file__).parent / f"{name}.txt"


def write(name: str) -> None:
    lines = [f"# {'step':>4}  " + "  ".join(f"{column:>17}" for column in COLUMNS)]
    for step, row in enumerate(run(name), start=1):
        lines.append(f"{step:6d}  " + "  ".join(f"{value:17.10e}" for value in row))
    path_of(name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in RUNS:
        write(each)
