"""Twelve steps of a small binary network under each optimizer of BMXNet v2, in float64.

Tolerances, as the README beside the files suggests: losses 1e-9 and weights 1e-8 against the independent float64
implementation. Against MXNet's own run, in which a few roundings differ, the README measured 2e-6 in losses and 5e-5 in
weights; the logits in evaluation are held to 1e-3 of their size.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.parameter_groups import FULL_PRECISION_DECAYS
from sightline.engine.schedule import GroupValues
from sightline.models.blocks.batch_norm import BiasedBatchNorm
from sightline.models.blocks.binary_layers import QuantisedActivation, QuantisedConv2d, QuantisedLinear
from tests.conftest import oracle, recorded

LR, KEYS = "lr", "keys"
RULES = {
    "sgd": {LR: 0.05, KEYS: {"kind": "mx_sgd", "momentum": 0.9, "weight_decay": 1e-3}},
    "nag": {LR: 0.05, KEYS: {"kind": "mx_sgd", "momentum": 0.9, "nesterov": True}},
    "adam": {LR: 0.01, KEYS: {"kind": "mx_adam"}},
    "adam_wd": {LR: 0.01, KEYS: {"kind": "mx_adam", "weight_decay": 1e-2}},
    "radam": {LR: 0.01, KEYS: {"kind": "mx_radam", "momentum": 0.95}},
}


def optimizers():
    path = recorded("bmxnet", "train12.npz")
    if not path.exists():
        return [None]
    with np.load(path) as file:
        return sorted({name.split("/")[1] for name in file.files if name.startswith("float64/")})


@pytest.fixture(scope="module")
def arrays():
    with np.load(oracle("bmxnet", "train12.npz")) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


class SmallNet(nn.Module):
    """The network that the README beside the files describes, with the sizes of the recorded weights."""

    def __init__(self, arrays):
        super().__init__()
        init = {name.removeprefix("init/"): array for name, array in arrays.items() if name.startswith("init/")}
        first, conv, dense, last = (init[name].shape for name in ("conv0", "qconv", "qdense", "fc"))
        self.layers = nn.Sequential(
            nn.Conv2d(first[1], first[0], first[2], bias=False),
            nn.Tanh(),
            nn.MaxPool2d(2),
            BiasedBatchNorm(first[0]),
            QuantisedActivation(threshold=1.3),
            QuantisedConv2d(conv[1], conv[0], conv[2], padding=1),
            BiasedBatchNorm(conv[0]),
            nn.MaxPool2d(5),
            QuantisedActivation(threshold=1.3),
            QuantisedLinear(dense[1], dense[0]),
            BiasedBatchNorm(dense[0]),
            nn.Tanh(),
            nn.Linear(last[1], last[0]),
        ).double()
        layers = self.layers
        norms = [layer for layer in layers if isinstance(layer, BiasedBatchNorm)]
        self.weights = {
            "conv0": layers[0].weight,
            "qconv": layers[5].weight,
            "qdense": layers[9].weight,
            "fc": layers[12].weight,
            "fcb": layers[12].bias,
            **{f"g{number}": norm.weight for number, norm in enumerate(norms)},
            **{f"b{number}": norm.bias for number, norm in enumerate(norms)},
        }
        self.statistics = {
            **{f"rm{number}": norm.running_mean for number, norm in enumerate(norms)},
            **{f"rv{number}": norm.running_var for number, norm in enumerate(norms)},
        }
        assert set(self.weights) == set(init)
        with torch.no_grad():
            for name, weight in self.weights.items():
                assert weight.shape == init[name].shape, name
                weight.copy_(init[name])

    def forward(self, x):
        return self.layers(x)


def train(arrays, rule, *, fused):
    net = SmallNet(arrays)
    config = OptimizerConfig(groups=FULL_PRECISION_DECAYS, **rule[KEYS])
    optimizer = build_optimizer(config, net, fused=fused)
    values = [GroupValues(rule[LR], config.momentum)] * len(optimizer.groups)
    steps = len(next(array for name, array in arrays.items() if name.endswith("/losses")))
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(net(arrays["x"]), arrays["labels"])
        loss.backward()
        optimizer.step(values)
        optimizer.zero_grad()
        losses.append(loss.detach())
    return net, torch.stack(losses)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", optimizers())
def test_every_loss_and_the_last_weights_and_statistics_are_the_recorded_ones(arrays, name, fused):
    net, losses = train(arrays, RULES[name], fused=fused)
    torch.testing.assert_close(losses, arrays[f"float64/{name}/losses"], rtol=0, atol=1e-9)
    for kind, tensors in (("final", net.weights), ("running", net.statistics)):
        for key, tensor in tensors.items():
            torch.testing.assert_close(
                tensor.detach(), arrays[f"float64/{name}/{kind}/{key}"], rtol=0, atol=1e-8, msg=key
            )


@pytest.mark.parametrize("name", optimizers())
def test_the_logits_in_evaluation_are_those_of_the_original(arrays, name):
    net, losses = train(arrays, RULES[name], fused=True)
    torch.testing.assert_close(losses, arrays[f"mxnet/{name}/losses"], rtol=0, atol=1e-5)
    with torch.no_grad():
        logits = net.eval()(arrays["x"])
    expected = arrays[f"mxnet/{name}/eval_logits"].double()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_binary_weights_and_norms_do_not_decay_and_all_else_does(arrays):
    net = SmallNet(arrays)
    config = OptimizerConfig(groups=FULL_PRECISION_DECAYS, weight_decay=0.1)
    decaying = {id(p) for group in build_optimizer(config, net).groups if group.weight_decay for p in group.parameters}
    assert {name for name, weight in net.weights.items() if id(weight) in decaying} == {"conv0", "fc", "fcb"}
