"""Detectors with an anchor head, held to a recorded evaluation and recorded training steps of OpenPCDet."""

import re

import numpy as np
import pytest
import torch

from sightline.engine.clip import clip_grad_norm
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.parameter_groups import ALL_ALIKE
from sightline.engine.schedule import Progress, RunLength, Schedule, ScheduleConfig
from sightline.ops.point_clouds import PointClouds
from tests.conftest import oracle
from tests.parity.openpcdet_anchors import box_targets, settings
from tests.parity.openpcdet_clouds import recorded_points
from tests.parity.openpcdet_weights import our_name

OUTPUTS = 1e-4


def arrays_of(name):
    with np.load(oracle("openpcdet", f"model_{name}.npz")) as file:
        return {key: file[key] for key in file.files}


def clouds(name, frames):
    points = [torch.from_numpy(recorded_points(name, frame)) for frame in frames]
    return PointClouds(torch.cat(points), tuple(len(one) for one in points))


def check_channels(got, arrays, name, channels):
    """Sums and extremes of the channels; the largest magnitude."""
    assert list(got.shape) == arrays[f"{name}/shape"].tolist()
    scale = max(np.abs(arrays[f"{name}/channel_min"]).max(), np.abs(arrays[f"{name}/channel_max"]).max())
    others = [axis for axis in range(got.dim()) if axis != channels]
    exact = got.double()
    count = got.numel() / got.shape[channels]
    for kind, values, size in (
        ("sum", exact.sum(others), scale * count),
        ("sumsq", exact.square().sum(others), scale**2 * count),
        ("min", exact.amin(others), scale),
        ("max", exact.amax(others), scale),
    ):
        np.testing.assert_allclose(values, arrays[f"{name}/channel_{kind}"], rtol=0, atol=OUTPUTS * size, err_msg=name)
    return scale


def check_map(got, arrays, name):
    """A map in the original's layout: its channels, single values, and crops."""
    channels = 1 if name.startswith("spatial") else got.dim() - 1
    scale = check_channels(got, arrays, name, channels)
    if f"{name}/flat_index" in arrays:
        values = got.flatten()[torch.from_numpy(arrays[f"{name}/flat_index"])]
        np.testing.assert_allclose(values, arrays[f"{name}/value"], rtol=0, atol=OUTPUTS * scale, err_msg=name)
    for key, rows, columns in crops(arrays, name):
        cut = got[0][..., rows, columns] if channels == 1 else got[0, rows, columns]
        np.testing.assert_allclose(cut, arrays[key], rtol=0, atol=OUTPUTS * scale, err_msg=key)


def crops(arrays, name):
    """Keys of crops of a map whose place is told, with their rows and columns."""
    for key in arrays:
        if place := re.fullmatch(rf"{name}/crop_y(\d+)_(\d+)_x(\d+)_(\d+)", key):
            top, bottom, left, right = map(int, place.groups())
            yield key, slice(top, bottom), slice(left, right)
        elif re.fullmatch(rf"{name}/crop\d+", key):
            top, left = arrays[f"{name}/crop_y0x0"].tolist()
            yield key, *(slice(at, at + size) for at, size in zip((top, left), arrays[key].shape[-2:], strict=True))


def check_from_cells(model, cells, arrays):
    """The map, what the backbone makes of it, and what the head says."""
    check_map(cells.to_map(), arrays, "spatial_features")
    joined = model.backbone(cells)
    check_map(joined, arrays, "spatial_features_2d")
    predictions = model.head(joined)
    height, width = joined.shape[2:]
    for name, values in (("cls", predictions.logits), ("box", predictions.deltas), ("dir_cls", predictions.directions)):
        check_map(values.reshape(1, height, width, -1), arrays, f"{name}_preds")
    boxes = model.head.decode(predictions, 0)
    for name, values in (("cls", predictions.logits[0]), ("box", boxes)):
        wanted = arrays[f"batch_{name}_preds/value"]
        got = values.flatten()[torch.from_numpy(arrays[f"batch_{name}_preds/flat_index"])]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=OUTPUTS * np.abs(wanted).max())


def boxes_of_one_side(found, boxes, arrays):
    """Compare the detections that both sides have; which ones only we have, and which only they."""
    scores, labels = torch.from_numpy(arrays["final/pred_scores"]), torch.from_numpy(arrays["final/pred_labels"]) - 1
    distance = (found.boxes3d[:, None] - boxes[None]).abs().amax(dim=2)  # (ours, theirs)
    ours, their = (distance <= OUTPUTS * boxes.abs().max()).nonzero().unbind(1)
    assert len(ours.unique()) == len(ours) == len(their.unique())
    torch.testing.assert_close(found.scores[ours], scores[their], rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels[ours], labels[their])
    return sorted(set(range(len(found.scores))) - set(ours.tolist())), sorted(
        set(range(len(scores))) - set(their.tolist())
    )


def replay(name, model, recorded, arrays):
    """Take the recorded steps with the house's optimizer and schedule; what each was, before and after."""
    optimisation = settings(name)["OPTIMIZATION"]
    high, low = optimisation["MOMS"]
    per_epoch, epochs = 10, optimisation["NUM_EPOCHS"]
    length = RunLength(per_epoch, epochs, per_epoch * epochs, per_epoch * epochs)
    schedule = Schedule(
        ScheduleConfig(
            kind="one_cycle",
            rise=optimisation["PCT_START"],
            initial=1 / optimisation["DIV_FACTOR"],
            final=1 / optimisation["DIV_FACTOR"] / 1e4,
            momentum_range=(low, high),
        ),
        lr=optimisation["LR"],
        momentum=0.9,
        rules=ALL_ALIKE,
        length=length,
    )
    optimizer = build_optimizer(
        OptimizerConfig(kind="adamw", beta2=0.99, weight_decay=optimisation["WEIGHT_DECAY"]), model
    )
    batch, targets = clouds(name, recorded["train_frames"]), box_targets(arrays["train_gt_boxes"])
    assert len(model.group(batch).num_points) == recorded["train_num_voxels"]
    assert recorded["steps"]
    for step in recorded["steps"]:
        optimizer.zero_grad()
        values = schedule.at(Progress(step["iteration"], step["iteration"], 0))
        losses = model.losses(batch, targets)
        torch.stack(list(losses.values())).sum().backward()
        norms = {key: p.grad.double().norm().item() for key, p in model.named_parameters()}
        total = clip_grad_norm(optimizer.gradients(), optimisation["GRAD_NORM_CLIP"])
        clipped = {key: p.grad.clone() for key, p in model.named_parameters()}
        optimizer.step(values)
        yield step, {key: loss.item() for key, loss in losses.items()}, values[0], norms, total.item(), clipped


def check_steps(name, model, layers, recorded, arrays, gradient_tolerances):
    """Rates, losses, gradients, and weights after each step.

    Args:
        layers: Their names of layers, each with ours.
        gradient_tolerances: Relative, of the length of a key's gradient, and of the gradient itself.
    """
    for step, losses, values, norms, total, clipped in replay(name, model, recorded, arrays):
        is_first = step["iteration"] == 0
        tolerance = 1e-4 if is_first else 1e-2
        assert values.lr == pytest.approx(step["lr"], rel=1e-9)
        assert values.momentum == pytest.approx(step["momentum_beta1"], rel=1e-9)
        assert sum(losses.values()) == pytest.approx(step["loss"], rel=tolerance)
        for ours, theirs in (("class", "cls"), ("box", "loc"), ("direction", "dir")):
            assert losses[ours] == pytest.approx(step[f"rpn_loss_{theirs}"], rel=tolerance), (step["iteration"], ours)
        assert total == pytest.approx(step["total_grad_norm_before_clip"], rel=1e-3 if is_first else 1e-2)
        state = model.state_dict()
        for key, norm in step["grad_norm_per_parameter"].items():
            if is_first:
                rel = gradient_tolerances(key)[0]
                assert norms[our_name(key, layers)] == pytest.approx(norm, rel=rel, abs=1e-6 * total), key
            # A sum of signs: Adam's first steps are of the size of the rate, whatever the gradient.
            after = state[our_name(key, layers)].double().abs().sum().item()
            assert after == pytest.approx(step["param_sumabs64_after"][key], rel=1e-3), key
        for key, after in step["buffer_sum64_after"].items():
            if "running" in key:
                assert state[our_name(key, layers)].double().sum().item() == pytest.approx(after, rel=1e-2, abs=1e-2)
        if is_first:
            for key in [key for key in arrays if key.startswith("step0_grad_after_clip/")]:
                got = clipped[our_name(key.partition("/")[2], layers)]
                wanted = torch.from_numpy(arrays[key])
                assert (got - wanted).norm() <= gradient_tolerances(key)[1] * wanted.norm(), key
