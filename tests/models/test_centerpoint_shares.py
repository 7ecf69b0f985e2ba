"""Processes with uneven shares of clouds and boxes compute the losses and gradients of the whole batch."""

import pytest
import torch

from sightline.engine.distributed.sync_batch_norm import synchronise_batch_norm
from sightline.models.centerpoint.head import CenterHead
from sightline.models.centerpoint.head_config import CenterHeadConfig
from sightline.models.centerpoint.targets import CenterGrid
from sightline.ops.boxes3d import BoxTargets3D
from sightline.ops.process_shares import PartWeights
from tests.together import together

BOXES = (0, 7, 1, 4)
"""True boxes of each cloud."""
GRID = CenterGrid(origin=(0.0, -4.0), voxel_size=(0.5, 0.5), stride=1, map_hw=(16, 24))
CONFIG = CenterHeadConfig(channels=6, groups=(("Car",), ("Pedestrian", "Cyclist"), ("Tram",)), velocity=True)
CLASSES = ("Car", "Pedestrian", "Cyclist", "Tram")


def whole_batch():
    """Maps and boxes; there is no tram, and one velocity is not known."""
    generator = torch.Generator().manual_seed(5)
    bev = torch.randn(len(BOXES), 5, *GRID.map_hw, generator=generator, dtype=torch.float64)
    boxes = torch.rand(sum(BOXES), 9, generator=generator, dtype=torch.float64)
    boxes[:, :2] = boxes[:, :2] * torch.tensor([12.0, 8.0]) - torch.tensor([0.0, 4.0])
    boxes[:, 3:6] = 0.5 + 3 * boxes[:, 3:6]
    boxes[2, 7] = torch.nan
    return bev, BoxTargets3D(boxes, torch.randint(0, 3, (sum(BOXES),), generator=generator), BOXES)


def share_of(bev, targets, chosen):
    rows = [targets.split()[sample] for sample in chosen]
    nothing = targets.boxes3d[:0], targets.labels[:0]
    boxes, labels = (torch.cat(one) for one in zip(nothing, *rows, strict=True))
    return bev[list(chosen)], BoxTargets3D(boxes, labels, tuple(BOXES[sample] for sample in chosen))


def fresh_head():
    torch.manual_seed(0)
    return CenterHead(CONFIG, CLASSES, in_channels=5, grid=GRID).double()


def losses_and_gradients(processes, count):
    head = fresh_head()
    if count > 1:
        synchronise_batch_norm(head, torch.device("cpu"))
    bev, targets = share_of(*whole_batch(), range(len(BOXES))[processes.share.rank :: count])
    losses = head.losses(head(bev), targets)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in head.named_parameters()}
    for tensor in gradients.values() if count > 1 else ():
        torch.distributed.all_reduce(tensor)
        tensor.div_(count)
    return {name: float(value.detach()) for name, value in processes.mean(losses).items()}, gradients


@pytest.mark.parametrize("count", [2, 3, 5])  # the fifth has no cloud
def test_losses_and_gradients_are_those_of_one_process(count):
    ((losses, gradients),) = together(1, losses_and_gradients, 1)
    for found_losses, found in together(count, losses_and_gradients, count):
        assert found_losses == pytest.approx(losses, rel=1e-6)
        for name, gradient in gradients.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-7 * scale + 1e-12, msg=name)


def test_parts_of_a_batch_have_the_losses_of_the_whole():
    head = fresh_head().eval()  # a batch norm sees one part at a time
    batch = whole_batch()
    whole = head.losses(head(batch[0]), batch[1])
    parts = [share_of(*batch, chosen) for chosen in ((0,), (1, 2), (3,))]
    weights = PartWeights(len(parts))
    for bev, targets in parts:
        with weights.counting():
            head.losses(head(bev), targets)
    weights.end_counting()
    means = dict.fromkeys(whole, 0.0)
    for bev, targets in parts:
        with weights.weighing():
            for name, value in head.losses(head(bev), targets).items():
                means[name] += float(value.detach()) / len(parts)
    assert means == pytest.approx({name: float(value.detach()) for name, value in whole.items()}, rel=1e-9)
