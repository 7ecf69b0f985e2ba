import math
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sightline.config.errors import RunError
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.optimizer import Optimizer
from sightline.engine.parameter_groups import WEIGHTS_DECAY, WEIGHTS_DECAY_BIASES_WARM
from sightline.engine.schedule import GroupValues

KINDS = [
    OptimizerConfig(kind="sgd", momentum=0.9, weight_decay=0.01, groups=WEIGHTS_DECAY),
    OptimizerConfig(kind="sgd", momentum=0.9, nesterov=True, weight_decay=0.01, groups=WEIGHTS_DECAY),
    OptimizerConfig(kind="sgd", momentum=0.0, weight_decay=0.01, groups=WEIGHTS_DECAY),
    OptimizerConfig(kind="adam", momentum=0.8, beta2=0.99, weight_decay=0.01, groups=WEIGHTS_DECAY),
    OptimizerConfig(kind="adamw", momentum=0.8, eps=1e-6, weight_decay=0.01, groups=WEIGHTS_DECAY),
]
IDS = ["sgd", "nesterov", "sgd-plain", "adam", "adamw"]
MX_KINDS = [
    OptimizerConfig(kind="mx_sgd", momentum=0.9, weight_decay=0.01, groups=WEIGHTS_DECAY),
    OptimizerConfig(kind="mx_sgd", momentum=0.9, nesterov=True, weight_decay=0.01, groups=WEIGHTS_DECAY),
    OptimizerConfig(kind="mx_sgd", momentum=0.0, weight_decay=0.01, groups=WEIGHTS_DECAY),
    OptimizerConfig(kind="mx_adam", momentum=0.8, eps=1e-3, weight_decay=0.01, groups=WEIGHTS_DECAY),
    OptimizerConfig(kind="mx_radam", momentum=0.8, weight_decay=0.01, groups=WEIGHTS_DECAY),
]
MX_IDS = ["mx-sgd", "mx-nag", "mx-sgd-plain", "mx-adam", "mx-radam"]
ALL_KINDS, ALL_IDS = KINDS + MX_KINDS, IDS + MX_IDS


class Net(nn.Module):
    def __init__(self, memory_format=torch.contiguous_format):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)  # a bias before the norm would have rounding for a gradient
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.never_used = nn.Parameter(torch.ones(2))
        self.to(memory_format=memory_format)

    def forward(self, x, *, skip_head=False):
        features = self.bn(self.conv(x)).relu().mean((2, 3))
        return features.sum() if skip_head else self.head(features).square().sum()


def make(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    return Net(memory_format)


def reference(config, net, **options):
    """The optimizer of torch with the same groups."""
    decay = [net.conv.weight, net.head.weight]
    rest = [p for p in net.parameters() if all(p is not d for d in decay)]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": decay, "weight_decay": config.weight_decay}]
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=0.1, momentum=config.momentum, nesterov=config.nesterov, **options)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.kind]
    betas = (config.momentum, config.beta2 or 0.999)
    return kind(groups, lr=0.1, betas=betas, eps=config.eps or 1e-8, **options)


def rates(step, config):
    """Another learning rate in every step and group, and a momentum that moves."""
    momentum = config.momentum - 0.01 * step if config.momentum else 0.0
    return [GroupValues(0.05 / (1 + step), momentum), GroupValues(0.02 * (1 + step), momentum)]


def run(net, config, step_with, zero, *, steps=6):
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        net(torch.randn(2, 3, 6, 6, generator=generator), skip_head=step == 2).backward()
        step_with(rates(step, config))
        zero()
    return net


def run_ours(config, *, fused=True, memory_format=torch.contiguous_format):
    net = make(memory_format)
    optimizer = build_optimizer(config, net, fused=fused)
    return run(net, config, optimizer.step, optimizer.zero_grad), optimizer


def run_torch(config, **options):
    net = make()
    optimizer = reference(config, net, **options)

    def step_with(values):
        for group, (lr, momentum) in zip(optimizer.param_groups, values, strict=True):
            group["lr"] = lr
            if config.kind == "sgd":
                group["momentum"] = momentum
            else:
                group["betas"] = (momentum, group["betas"][1])
        optimizer.step()

    return run(net, config, step_with, optimizer.zero_grad)


def assert_same_bits(a, b):
    for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("config", KINDS, ids=IDS)
def test_fused_steps_are_those_of_torch_to_the_bit(config):
    assert_same_bits(run_ours(config)[0], run_torch(config, fused=True))


@pytest.mark.parametrize("config", KINDS, ids=IDS)
def test_without_the_private_kernels_steps_are_those_of_torch_to_the_bit(config):
    assert_same_bits(run_ours(config, fused=False)[0], run_torch(config))


@pytest.mark.parametrize("config", ALL_KINDS, ids=ALL_IDS)
def test_a_missing_kernel_falls_back_to_the_same_update(config, monkeypatch):
    expected = run_ours(config, fused=False)[0]
    for name in ("_fused_sgd_", "_fused_adam_", "_fused_adamw_"):
        monkeypatch.delattr(torch, name)
    assert_same_bits(run_ours(config)[0], expected)


@pytest.mark.parametrize("config", ALL_KINDS, ids=ALL_IDS)
def test_fused_and_plain_updates_agree(config):
    fused, plain = run_ours(config)[0], run_ours(config, fused=False)[0]
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", ALL_KINDS, ids=ALL_IDS)
def test_the_memory_format_changes_nothing(config):
    contiguous, channels_last = run_ours(config)[0], run_ours(config, memory_format=torch.channels_last)[0]
    for a, b in zip(contiguous.parameters(), channels_last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("skip_head", [False, True])
@pytest.mark.parametrize("config", ALL_KINDS, ids=ALL_IDS)
def test_a_fused_kernel_gets_every_number_in_the_order_of_memory(config, skip_head):
    net = make(torch.channels_last)
    optimizer = build_optimizer(config, net)
    kernel, seen = optimizer._kernel, []
    optimizer._kernel = lambda *lists, **options: (seen.extend(t for x in lists for t in x), kernel(*lists, **options))
    net(torch.randn(2, 3, 6, 6), skip_head=skip_head).backward()
    net.conv.weight.grad = net.conv.weight.grad.contiguous(memory_format=torch.channels_last)
    before = net.conv.weight.clone()
    optimizer.step(rates(0, config))
    assert all(tensor.is_contiguous() for tensor in seen)
    assert not net.conv.weight.is_contiguous()
    assert not net.conv.weight.equal(before)


def by_the_rule(config, grads, values, weight, decay):
    """What MXNet's formulas make of a weight, one number after the other; a gradient may be missing."""
    m = v = step = 0.0
    beta2 = 0.999
    for grad, (lr, beta1) in zip(grads, values, strict=True):
        if grad is None:
            continue
        g = grad + decay * weight
        if config.kind == "mx_sgd":
            m = beta1 * m - lr * g
            weight = weight + (beta1 * m - lr * g if config.nesterov else m)
            continue
        step += 1
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        if config.kind == "mx_adam":
            weight = weight - lr * math.sqrt(1 - beta2**step) / (1 - beta1**step) * m / (math.sqrt(v) + config.eps)
            continue
        full = 2 / (1 - beta2) - 1
        n = full - 2 * step * beta2**step / (1 - beta2**step)
        if n > 5:
            r = math.sqrt((1 - beta2**step) * (n - 4) / (full - 4) * (n - 2) / n * full / (full - 2))
            weight = weight - lr * r / (1 - beta1**step) * m / (math.sqrt(v) + 1e-5)
        else:
            weight = weight - lr / (1 - beta1**step) * m
    return weight


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("config", MX_KINDS, ids=MX_IDS)
def test_mxnet_s_rules_by_their_formulas(config, fused):
    net = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1, bias=False)}).double()
    optimizer = build_optimizer(config, net, fused=fused)
    start = {name: p.item() for name, p in net.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    grads = {name: torch.randn(9, generator=generator).tolist() for name in start}
    grads["b.weight"][1] = grads["b.weight"][7] = None  # from then on it counts other steps than the rest
    values = [GroupValues(0.1 / (1 + step), max(config.momentum - 0.01 * step, 0.0)) for step in range(9)]
    for step in range(9):
        for name, parameter in net.named_parameters():
            g = grads[name][step]
            parameter.grad = None if g is None else torch.full_like(parameter, g)
        optimizer.step([values[step]] * len(optimizer.groups))
    for name, parameter in net.named_parameters():
        decay = 0.0 if name.endswith("bias") else config.weight_decay
        expected = by_the_rule(config, grads[name], values, start[name], decay)
        assert parameter.item() == pytest.approx(expected, rel=1e-12), name


def test_mxnet_s_rules_are_not_torch_s():
    # A lower rate in the second step: torch shrinks the momentum of the first one with it, MXNet does not.
    moved = {}
    for kind in ("sgd", "mx_sgd"):
        net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(net.weight)
        optimizer = build_optimizer(OptimizerConfig(kind=kind), net)
        for lr, g in ((1.0, 1.0), (0.1, 0.0)):
            net.weight.grad = torch.tensor([[g]])
            optimizer.step([GroupValues(lr, 0.5)])
        moved[kind] = -net.weight.item()
    assert moved == {"sgd": pytest.approx(1 + 0.1 * 0.5), "mx_sgd": pytest.approx(1 + 0.5)}


def test_a_step_by_hand():
    # w = 1, g = 2, decay 0.5: g + 0.5 w = 2.5 = m. Nesterov: w - lr (2.5 + 0.9 * 2.5) = 1 - 0.1 * 4.75.
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    optimizer = build_optimizer(OptimizerConfig(nesterov=True, weight_decay=0.5), net)
    net.weight.grad = torch.tensor([[2.0]])
    optimizer.step([GroupValues(0.1, 0.9)])
    assert net.weight.item() == pytest.approx(0.525)
    assert optimizer.state_tensors()["momentum/weight"].item() == pytest.approx(2.5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("config", ALL_KINDS, ids=ALL_IDS)
def test_a_step_leaves_the_gradients_as_they_are_for_whoever_shows_them(config, fused):
    net = make()
    optimizer = build_optimizer(config, net, fused=fused)
    net(torch.ones(2, 3, 6, 6)).backward()
    before = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    optimizer.step(rates(0, config))
    assert before
    for name, gradient in before.items():
        assert torch.equal(net.get_parameter(name).grad, gradient), name


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("config", ALL_KINDS, ids=ALL_IDS)
def test_a_step_with_an_overflow_leaves_weights_and_states_alone(config, fused):
    net, optimizer = run_ours(config, fused=fused)
    before = {name: tensor.clone() for name, tensor in (net.state_dict() | optimizer.state_tensors()).items()}
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step(rates(6, config), found_inf=torch.ones(()))
    for name, tensor in (net.state_dict() | optimizer.state_tensors()).items():
        assert torch.equal(tensor, before[name]), name
    optimizer.zero_grad()
    net(torch.ones(2, 3, 6, 6)).backward()
    optimizer.step(rates(6, config), found_inf=torch.zeros(()))
    assert not torch.equal(net.head.bias, before["head.bias"])


def state_of(optimizer):
    return {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}


@pytest.mark.parametrize("config", ALL_KINDS, ids=ALL_IDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_run_cut_in_two_ends_with_the_bits_of_an_unbroken_one(config, memory_format):
    whole = make(memory_format)
    optimizer = build_optimizer(config, whole)
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(6, 2, 3, 6, 6, generator=generator)
    half = None
    for step in range(6):
        whole(inputs[step], skip_head=step == 0).backward()
        optimizer.step(rates(step, config))
        optimizer.zero_grad()
        if step == 2:
            half = {name: tensor.clone() for name, tensor in whole.state_dict().items()}, state_of(optimizer)

    resumed = make(memory_format)
    resumed.load_state_dict({name: tensor.contiguous() for name, tensor in half[0].items()})
    second = build_optimizer(config, resumed)
    second.load_state_tensors({name: tensor.contiguous() for name, tensor in half[1].items()})
    for step in range(3, 6):
        resumed(inputs[step]).backward()
        second.step(rates(step, config))
        second.zero_grad()
    assert_same_bits(resumed, whole)
    for name, tensor in second.state_tensors().items():
        assert torch.equal(tensor, optimizer.state_tensors()[name]), name


def test_state_names_are_made_of_parameter_names():
    names = {"conv.weight", "bn.weight", "bn.bias", "head.weight", "head.bias", "never_used"}
    sgd = build_optimizer(OptimizerConfig(groups=WEIGHTS_DECAY_BIASES_WARM), make())
    assert set(sgd.state_tensors()) == {f"momentum/{name}" for name in names}
    adam = build_optimizer(OptimizerConfig(kind="adam"), make())
    assert set(adam.state_tensors()) == {
        f"{slot}/{name}" for name in names for slot in ("exp_avg", "exp_avg_sq", "step")
    }


def test_adam_counts_the_steps_of_each_parameter():
    _, optimizer = run_ours(OptimizerConfig(kind="adam", groups=WEIGHTS_DECAY))
    steps = {name: int(tensor) for name, tensor in optimizer.state_tensors().items() if name.startswith("step/")}
    assert steps["step/conv.weight"] == 6
    assert steps["step/head.weight"] == 5  # one forward pass left the head out
    assert steps["step/never_used"] == 0


def test_a_state_that_does_not_fit_names_the_tensors_and_changes_nothing():
    optimizer: Optimizer = build_optimizer(OptimizerConfig(), make())
    state = {name: torch.ones_like(tensor) for name, tensor in optimizer.state_tensors().items()}
    del state["momentum/bn.bias"]
    state["momentum/other"] = torch.zeros(1)
    state["momentum/head.bias"] = torch.zeros(5)
    with pytest.raises(
        RunError, match=r"3 of 6 tensors do not fit. momentum/bn\.bias is missing; .*\(5,\).*other is unknown"
    ):
        optimizer.load_state_tensors(state)
    assert all(tensor.count_nonzero() == 0 for tensor in optimizer.state_tensors().values())


@pytest.mark.parametrize("kinds", [("sgd", "mx_sgd"), ("mx_sgd", "sgd")])
def test_no_rule_goes_on_with_a_momentum_that_means_something_else(kinds):
    saved, loading = (build_optimizer(OptimizerConfig(kind=kind), make()) for kind in kinds)
    with pytest.raises(RunError, match="optimizer state"):
        loading.load_state_tensors(saved.state_tensors())


def test_the_decay_may_follow_the_batch():
    config = OptimizerConfig(weight_decay=0.1, decay_follows_batch=True)
    assert build_optimizer(config, make(), decay_scale=1.5).groups[0].weight_decay == pytest.approx(0.15)
    assert build_optimizer(config.but(decay_follows_batch=False), make(), decay_scale=1.5).groups[0].weight_decay == 0.1


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"beta2": 0.9}, "beta2 does nothing in 'sgd'"),
        ({"eps": 1e-8}, "eps does nothing in 'sgd'"),
        ({"kind": "adam", "nesterov": True}, "nesterov does nothing in 'adam'; it belongs to sgd and mx_sgd"),
        ({"kind": "mx_sgd", "eps": 1e-8}, "eps does nothing in 'mx_sgd'; it belongs to the kinds of adam"),
        ({"kind": "mx_radam", "nesterov": True}, "nesterov does nothing in 'mx_radam'"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum"),
        ({"groups": [{"name": "a", "match": ["any"]}, {"name": "a", "match": ["any"]}]}, "names must differ"),
        ({"kind": "lion"}, "Input should be 'sgd'"),
    ],
)
def test_a_contradiction_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        OptimizerConfig(**keys)


def test_no_step_loads_torch_s_compiler():
    program = """
import sys, torch
from sightline.engine.accumulation import AccumulationConfig, plan_run
from sightline.engine.clip import clip_grad_norm, non_finite
from sightline.engine.ema import Ema, EmaConfig
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.precision import Precision, choose_kernels
from sightline.engine.schedule import Schedule, ScheduleConfig
from sightline.engine.seed import reseed, seed_everything

seed_everything(1)
choose_kernels(deterministic=True)
device = torch.device("cpu")
for kind in ("sgd", "adam", "adamw", "mx_sgd", "mx_adam", "mx_radam"):
    net = torch.nn.Linear(3, 2)
    optimizer_config, schedule_config = OptimizerConfig(kind=kind), ScheduleConfig()
    optimizer, ema = build_optimizer(optimizer_config, net), Ema(EmaConfig(), net)
    plan = plan_run(AccumulationConfig(), schedule_config, batch_lengths=[4], epochs=1)
    schedule = Schedule(schedule_config, lr=0.1, momentum=0.9, rules=optimizer_config.groups, length=plan.length)
    for name in ("fp32", "bf16", "fp16"):
        precision = Precision(name, device)
        reseed(device, 1, 0)
        with precision.autocast():
            losses = {"loss": net(torch.ones(4, 3)).sum()}
        precision.backward(losses, plan.at(0).weight)
        found_inf = precision.unscale(optimizer.gradients())
        non_finite(clip_grad_norm(optimizer.gradients(), 1.0))
        optimizer.step(schedule.at(plan.progress(0)), found_inf=found_inf)
        precision.update(found_inf)
        optimizer.zero_grad()
        ema.update()
    with ema.swapped():
        net(torch.ones(4, 3))
print(sorted({"torch._dynamo", "torch._inductor", "sympy", "torchvision", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
