"""Steps of OpenPCDet's Adam one-cycle on a small network, by the house's optimizer, schedule and clipping."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.engine.clip import clip_grad_norm
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.parameter_groups import ALL_ALIKE
from sightline.engine.schedule import Progress, RunLength, Schedule, ScheduleConfig
from tests.conftest import oracle

PREFIX = "trace_onecycle/"
BEFORE_NORM = "a.bias"


class Net(nn.Module):
    """The network of the recording: its first loss and gradients, checked below, say how its parts are joined."""

    def __init__(self, start: dict[str, Tensor]) -> None:
        super().__init__()
        hidden, inputs = start["a.weight"].shape
        outputs = len(start["direct"])
        self.direct = nn.Parameter(torch.zeros(outputs))
        self.a = nn.Linear(inputs, hidden)
        self.bn = nn.BatchNorm1d(hidden)
        self.blk = nn.Sequential(nn.Linear(hidden, outputs, bias=False), nn.LayerNorm(outputs))
        self.frozen = nn.Linear(outputs, outputs).requires_grad_(False)
        self.load_state_dict(start, strict=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.blk(self.bn(self.a(x)))) + self.direct


class Trace:
    def __init__(self):
        path = oracle("openpcdet", "optimisation.json")
        self.told = json.loads(path.read_text())["trace_onecycle"]
        self.used = json.loads(path.read_text())["config_used"]
        with np.load(oracle("openpcdet", "optimisation.npz")) as file:
            of_trace = [name for name in file.files if name.startswith(PREFIX)]
            self.arrays = {name.removeprefix(PREFIX): torch.from_numpy(file[name]) for name in of_trace}

    def after(self, step):
        begin = f"{step}/"
        return {name.removeprefix(begin): tensor for name, tensor in self.arrays.items() if name.startswith(begin)}

    @property
    def num_steps(self):
        return sum(name.endswith("loss_gradnorm_lr_mom") for name in self.arrays)

    def run(self, net):
        """Take the steps; what was before and during each: loss, norm, lr, momentum."""
        used, told = self.used, self.told
        high, low = used["MOMS"]
        config = ScheduleConfig(
            kind="one_cycle",
            rise=used["PCT_START"],
            initial=1 / used["DIV_FACTOR"],
            final=1 / used["DIV_FACTOR"] / 1e4,
            momentum_range=(low, high),
        )
        steps = told["it_per_epoch"] * told["epochs"]
        length = RunLength(told["it_per_epoch"], told["epochs"], steps, steps)
        schedule = Schedule(config, lr=told["LR"], momentum=used["MOMENTUM"], rules=ALL_ALIKE, length=length)
        optimizer = build_optimizer(OptimizerConfig(kind="adamw", beta2=0.99, weight_decay=told["WEIGHT_DECAY"]), net)
        assert self.num_steps
        for step in range(self.num_steps):
            optimizer.zero_grad()
            loss = (net(self.arrays["x"]) - self.arrays["y"]).square().sum()
            loss.backward()
            norm = clip_grad_norm(optimizer.gradients(), told["clip"])
            values = schedule.at(Progress(step, step, step // told["it_per_epoch"]))
            optimizer.step(values)
            yield step, [loss.item(), norm.item(), *values[0]]


@pytest.fixture
def trace():
    return Trace()


def test_parameters_after_every_step_are_as_recorded(trace):
    net = Net(trace.after("init"))
    rates = 0.0
    for step, found in trace.run(net):
        rates += found[2]
        largest = max(p.grad.abs().max().item() for p in net.parameters() if p.requires_grad)
        assert net.get_parameter(BEFORE_NORM).grad.abs().max().item() < 1e-4 * largest
        with torch.no_grad():
            net.direct.copy_(trace.arrays["init/direct"])  # which the original never trains
        wanted = trace.after(f"step{step}")
        assert found == pytest.approx(wanted.pop("loss_gradnorm_lr_mom").tolist(), rel=1e-4)
        state = net.state_dict()
        assert set(wanted) == set(trace.told["names"])
        for name, tensor in wanted.items():
            # A batch norm takes away the bias before it, whose gradient is rounding; Adam makes whole steps of that.
            limits = (0, 2 * rates) if name == BEFORE_NORM else (1e-5, 5e-6)
            np.testing.assert_allclose(state[name], tensor, *limits, err_msg=f"{name} after step {step}")


def test_a_parameter_that_the_network_itself_owns_is_trained_too(trace):
    net = Net(trace.after("init"))
    before = net.direct.detach().clone()
    for _ in trace.run(net):
        assert not torch.equal(net.direct, before)
    assert torch.equal(net.frozen.weight, trace.arrays["init/frozen.weight"])
