"""Processes with uneven shares of images and boxes compute the losses and gradients of the whole batch."""

import pytest
import torch

from sightline.engine.distributed.sync_batch_norm import synchronise_batch_norm
from sightline.models.yolov7.config import YOLOv7Config
from sightline.models.yolov7.detector import YOLOv7
from sightline.models.yolov7.loss import YOLOv7LossConfig
from sightline.ops.boxes2d import BoxTargets
from tests.together import together

BOXES = (0, 7, 1, 3)
"""True boxes of each image."""


def whole_batch():
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(len(BOXES), 3, 64, 96, generator=generator, dtype=torch.float64)
    corner = torch.rand(sum(BOXES), 2, generator=generator) * 40
    boxes = torch.cat((corner, corner + 4 + torch.rand(sum(BOXES), 2, generator=generator) * 20), dim=1)
    labels = torch.randint(0, 3, (sum(BOXES),), generator=generator)
    return images, BoxTargets(boxes, labels, torch.repeat_interleave(torch.arange(len(BOXES)), torch.tensor(BOXES)))


def share_of(images, targets, chosen):
    place = {image: number for number, image in enumerate(chosen)}
    mine = [row for row, image in enumerate(targets.image_index.tolist()) if image in place]
    index = torch.tensor([place[int(targets.image_index[row])] for row in mine], dtype=torch.int64)
    return images[list(chosen)], BoxTargets(targets.boxes_xyxy[mine], targets.labels[mine], index)


def losses_and_gradients(processes, config, count):
    torch.manual_seed(0)
    detector = YOLOv7(config, num_classes=3, image_size=64).double()
    if count > 1:
        synchronise_batch_norm(detector, torch.device("cpu"))
    images, targets = whole_batch()
    chosen = range(len(images))[processes.share.rank :: count]
    losses = detector.losses(*share_of(images, targets, tuple(chosen)))
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in detector.named_parameters()}
    for tensor in gradients.values() if count > 1 else ():
        torch.distributed.all_reduce(tensor)
        tensor.div_(count)
    return {name: float(value.detach()) for name, value in processes.mean(losses).items()}, gradients


@pytest.mark.parametrize("assignment", ["anchor", "ota"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_losses_and_gradients_are_those_of_one_process(assignment, count):
    loss = YOLOv7LossConfig(assignment=assignment, class_weights=(2.0, 1.0, 0.5))
    config = YOLOv7Config(variant="tiny", width=0.125, loss=loss)
    ((losses, gradients),) = together(1, losses_and_gradients, config, 1)
    for found_losses, found in together(count, losses_and_gradients, config, count):
        assert found_losses == pytest.approx(losses, rel=1e-6)
        for name, gradient in gradients.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-7 * scale + 1e-12, msg=name)
