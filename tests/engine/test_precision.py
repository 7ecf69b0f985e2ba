import pytest
import torch
from torch import nn

from sightline.api.configuration import resolve
from sightline.api.inference import refuse_unused
from sightline.config.errors import ConfigError, RunError
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.precision import LossScaler, Precision, ScalerConfig, choose_kernels, to_channels_last
from sightline.engine.schedule import GroupValues
from sightline.recipes import recipe
from tests.engine.sessions import session
from tests.engine.toy import toy_run

CPU = torch.device("cpu")


@pytest.mark.parametrize("name, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_forward_pass_computes_in_the_chosen_format_and_weights_stay_float32(name, dtype):
    precision, net = Precision(name, CPU), nn.Linear(3, 2)
    with precision.autocast():
        assert net(torch.ones(1, 3)).dtype == dtype
    assert net.weight.dtype == torch.float32
    assert net(torch.ones(1, 3)).dtype == torch.float32, "autocast is over"


def test_the_context_may_be_nested_and_ends_with_the_outer_one():
    precision, net = Precision("bf16", CPU), nn.Linear(3, 2)
    with precision.autocast():
        with precision.autocast():
            pass
        assert net(torch.ones(1, 3)).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_backward_adds_the_weighted_sum_of_the_losses():
    precision = Precision("fp32", CPU)
    x = torch.tensor(3.0, requires_grad=True)
    precision.backward({"square": x**2, "double": 2 * x}, 0.5)
    precision.backward({"square": x**2})
    assert x.grad.item() == 0.5 * (6 + 2) + 6


def reference_scaler(config):
    return torch.amp.GradScaler(
        "cpu",
        init_scale=config.initial,
        growth_factor=config.growth,
        backoff_factor=config.backoff,
        growth_interval=config.growth_interval,
    )


def test_the_scale_follows_the_rule_of_torch():
    config = ScalerConfig(initial=1024.0, growth_interval=3)
    ours, theirs = LossScaler(config, CPU), reference_scaler(config)
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    overflows = [False, False, True, False, False, False, False, False, False, True, True, False]
    for overflow in overflows:
        theirs.scale(parameter.sum()).backward()
        gradient = parameter.grad.clone()
        if overflow:
            parameter.grad[0] = gradient[0] = float("inf")
        theirs.step(optimizer)
        theirs.update()
        found_inf = ours.unscale([gradient])
        assert found_inf.item() == overflow
        ours.update(found_inf)
        assert ours.scale_factor == theirs.get_scale()
        parameter.grad = None
    assert ours.skipped == sum(overflows)


def test_scaled_and_unscaled_gradients_are_the_true_ones():
    scaler = LossScaler(ScalerConfig(initial=4096.0), CPU)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    scaler.scale((x**2).sum()).backward()
    assert x.grad.tolist() == [2 * 4096, 4 * 4096]
    assert scaler.unscale([x.grad]).item() == 0
    assert x.grad.tolist() == [2, 4]


def test_an_overflow_skips_the_step_and_training_goes_on_with_a_smaller_scale():
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    optimizer = build_optimizer(OptimizerConfig(), net)
    precision = Precision("fp16", CPU, scaler=ScalerConfig(initial=2.0**24))
    assert precision.scaler is not None
    start = net.weight.detach().clone()
    moved_at = None
    for step in range(20):
        with precision.autocast():
            losses = {"loss": net(torch.ones(4, 3)).square().mean()}
        precision.backward(losses)
        found_inf = precision.unscale(optimizer.gradients())
        optimizer.step([GroupValues(0.1, 0.9)], found_inf=found_inf)
        precision.update(found_inf)
        optimizer.zero_grad()
        if moved_at is None and not torch.equal(net.weight, start):
            moved_at = step
    assert moved_at is not None and moved_at > 0
    assert precision.scaler.skipped == moved_at
    assert precision.scaler.scale_factor == 2.0 ** (24 - moved_at)
    assert net.weight.isfinite().all()


def test_the_state_of_the_scaler_is_restored_to_the_bit():
    config = ScalerConfig(initial=64.0, growth_interval=5)
    one, two = LossScaler(config, CPU), LossScaler(config, CPU)
    for found in (1.0, 0.0, 0.0):
        one.update(torch.tensor(found))
    two.load_state_tensors({name: tensor.clone() for name, tensor in one.state_tensors().items()})
    for scaler in (one, two):
        for _ in range(4):
            scaler.update(torch.tensor(0.0))
    assert one.scale_factor == two.scale_factor == 64.0
    assert one.skipped == two.skipped == 1


def test_a_foreign_scaler_state_is_refused():
    with pytest.raises(RunError, match="expected scale, growth_tracker, skipped, got nothing"):
        LossScaler(ScalerConfig(), CPU).load_state_tensors({})


def test_fp32_and_bf16_need_no_scaler():
    for name in ("fp32", "bf16"):
        precision = Precision(name, CPU)
        assert precision.scaler is None and precision.unscale([torch.ones(1)]) is None


def test_a_device_without_mixed_precision_is_named():
    with pytest.raises(ConfigError, match=r"'bf16' is not possible on device 'meta'\. Use precision=fp32"):
        Precision("bf16", torch.device("meta"))


def test_channels_last_changes_the_layout_and_not_the_values():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(2, 3, 5, 5)
    before = net(x)
    to_channels_last(net)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert net[0](x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-6)


def test_deterministic_kernels_can_be_switched_on_and_off():
    try:
        choose_kernels(deterministic=True)
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    finally:
        choose_kernels(deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark


def test_the_search_for_the_fastest_kernels_has_a_switch_of_its_own():
    try:
        choose_kernels(deterministic=False, benchmark=False)
        assert not torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
        choose_kernels(deterministic=False, benchmark=True)
        assert torch.backends.cudnn.benchmark
    finally:
        choose_kernels(deterministic=False)


@pytest.mark.parametrize("given", [True, False, None])
def test_a_run_on_a_cpu_may_say_so_too_and_an_evaluation_of_it(given, tmp_path):
    config = toy_run(epochs=1, cudnn_benchmark=given)
    assert session(config, tmp_path / "run").outcome == "done"
    refuse_unused([f"cudnn_benchmark={given}"], config.evaluation_keys, "an evaluation")


def test_bits_that_never_change_leave_nothing_to_search_for():
    with pytest.raises(ValueError, match="cudnn_benchmark=true takes whichever kernel is fastest that time"):
        toy_run(deterministic=True, cudnn_benchmark=True)
    with pytest.raises(ConfigError, match="cudnn_benchmark=False has no effect: nothing is tried"):
        resolve("yolov7-tiny", ["deterministic=true", "cudnn_benchmark=false"])
    config, _ = resolve(recipe("yolov7-tiny").but(cudnn_benchmark=True), ["deterministic=true"])
    assert config.cudnn_benchmark is None


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_gpu_step_follows_the_cpu(name):
    weights = []
    for device in (CPU, torch.device("cuda")):
        torch.manual_seed(0)
        net = nn.Linear(8, 4).to(device)
        optimizer, precision = build_optimizer(OptimizerConfig(), net), Precision(name, device)
        for _ in range(5):
            with precision.autocast():
                losses = {"loss": net(torch.linspace(0, 1, 16, device=device).view(2, 8)).square().mean()}
            precision.backward(losses)
            found_inf = precision.unscale(optimizer.gradients())
            optimizer.step([GroupValues(0.1, 0.9)], found_inf=found_inf)
            precision.update(found_inf)
            optimizer.zero_grad()
        weights.append(net.weight.detach().cpu())
    torch.testing.assert_close(weights[0], weights[1], rtol=2e-2, atol=2e-3)
