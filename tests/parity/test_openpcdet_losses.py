"""Loss functions of OpenPCDet one by one: values, and gradients of their sums."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sightline.losses.corner import corner_loss
from sightline.losses.focal import sigmoid_focal_loss
from sightline.losses.smooth_l1 import sine_pair, smooth_l1_loss
from tests.conftest import oracle


@pytest.fixture(scope="module")
def arrays():
    with np.load(oracle("openpcdet", "loss_functions.npz")) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def close(got, wanted):
    # Relative; the absolute part is for values that are nothing beside the largest. An unknown target is NaN.
    atol = 1e-6 * wanted.nan_to_num().abs().max().item()
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=atol, equal_nan=True)


def check(loss, x, arrays, case):
    close(loss.detach(), arrays[f"{case}/loss"])
    loss.sum().backward()
    close(x.grad, arrays[f"{case}/grad"])


def test_focal_loss(arrays):
    x = arrays["focal/x"].clone().requires_grad_()
    check(sigmoid_focal_loss(x, arrays["focal/t"]) * arrays["focal/w"][..., None], x, arrays, "focal")


def test_smooth_l1_passes_over_unknown_targets(arrays):
    x, targets = arrays["sl1/x"].clone().requires_grad_(), arrays["sl1/t"]
    assert targets.isnan().any()
    weights = arrays["sl1/code_weights"].float()
    loss = smooth_l1_loss(x, targets, beta=float(arrays["sl1/beta"]), code_weights=weights)
    check(loss * arrays["focal/w"][..., None], x, arrays, "sl1")


def test_pair_of_a_sine_difference(arrays):
    predicted, target = sine_pair(arrays["sl1/x"][..., 6], arrays["sl1/t"][..., 6])
    close(predicted, arrays["sin/pred"][..., 6])
    close(target, arrays["sin/target"][..., 6])


def test_cross_entropy_of_directions(arrays):
    x = arrays["dirce/x"].clone().requires_grad_()
    bins = arrays["dirce/t_onehot"].argmax(dim=-1)
    loss = F.cross_entropy(x.flatten(0, 1), bins.flatten(), reduction="none").view(bins.shape)
    check(loss * arrays["focal/w"], x, arrays, "dirce")


def test_corner_loss(arrays):
    close(corner_loss(arrays["corner/pred"], arrays["corner/gt"]), arrays["corner/loss"])
