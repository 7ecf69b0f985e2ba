import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from sightline.engine.accumulation import AccumulationConfig, AccumulationPlan, plan_run
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.schedule import GroupValues, Progress, ScheduleConfig, WarmupConfig


def windows(plan):
    """The micro-batches of every window of a run, found by asking for one after the other."""
    found, window = [], []
    for iteration in range(plan.length.iterations):
        window.append(iteration)
        if plan.at(iteration).ends_window:
            found.append(window)
            window = []
    assert not window, "the run ends within a window"
    return found


def test_windows_of_three_in_an_epoch_of_seven():
    plan = AccumulationPlan(AccumulationConfig(every=3), batch_lengths=[4] * 7, epochs=2)
    assert windows(plan) == [[0, 1, 2], [3, 4, 5], [6], [7, 8, 9], [10, 11, 12], [13]]
    assert plan.length.steps == 6 and plan.length.iterations == 14


def test_every_micro_batch_is_weighted_by_its_share_of_the_samples_in_its_window():
    # Batches of 4, 4, 4, 4, 1 in windows of 3: the second window has 5 samples.
    plan = AccumulationPlan(AccumulationConfig(every=3), batch_lengths=[4, 4, 4, 4, 1], epochs=1)
    assert [plan.at(i).weight for i in range(5)] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.8, 0.2])


def test_the_sum_of_gradients_keeps_its_size_in_a_short_window():
    # A full window has 3 * 4 = 12 samples. Losses are means, so weights are 4, 4, 4 and then 12 * 4/5, 12 * 1/5.
    config = AccumulationConfig(every=3, gradient="sum")
    plan = AccumulationPlan(config, batch_lengths=[4, 4, 4, 4, 1], epochs=1)
    assert [plan.at(i).weight for i in range(5)] == pytest.approx([4, 4, 4, 9.6, 2.4])


def test_one_batch_per_step_needs_no_weight():
    plan = AccumulationPlan(AccumulationConfig(), batch_lengths=[4, 4, 3], epochs=2)
    assert [plan.at(i)[:2] for i in range(6)] == [(1.0, True)] * 6
    assert [plan.at(i).samples for i in range(6)] == [4, 4, 3] * 2


@pytest.mark.parametrize("batch, expected", [(1, 64), (6, 11), (10, 6), (16, 4), (24, 3), (43, 1), (64, 1), (256, 1)])
def test_the_nominal_batch_decides_the_size_of_a_window(batch, expected):
    assert AccumulationConfig(nominal_batch_size=64).full_window(batch) == expected


def test_the_ramp_grows_from_one_batch_to_the_nominal_batch():
    config = AccumulationConfig(nominal_batch_size=64, ramp=True)
    plan = AccumulationPlan(config, batch_lengths=[16] * 100, epochs=3, warmup_iterations=120)
    sizes = [plan.window_size(i) for i in range(300)]
    assert sizes == sorted(sizes) and set(sizes) == {1, 2, 3, 4}
    assert sizes[19:21] == [1, 2]  # 1.5 is reached at 120 / 6, and rounds to 2
    assert set(sizes[120:]) == {4}


configs = st.one_of(
    st.builds(AccumulationConfig, every=st.integers(1, 9), gradient=st.sampled_from(["mean", "sum"])),
    st.builds(
        AccumulationConfig,
        nominal_batch_size=st.integers(1, 100),
        ramp=st.booleans(),
        gradient=st.sampled_from(["mean", "sum"]),
    ),
)
epochs_of_batches = st.builds(
    lambda full, size, last: [size] * full + [min(size, last)], st.integers(0, 30), *[st.integers(1, 20)] * 2
)


@settings(max_examples=150)
@given(config=configs, lengths=epochs_of_batches, epochs=st.integers(1, 6), warmup=st.integers(0, 120))
def test_windows_tile_the_run_and_no_sample_is_lost_or_mis_scaled(config, lengths, epochs, warmup):
    plan = AccumulationPlan(config, batch_lengths=lengths, epochs=epochs, warmup_iterations=warmup)
    found = windows(plan)
    assert plan.length.iterations == epochs * len(lengths) == sum(map(len, found))
    assert plan.length.steps == len(found)
    for step, window in enumerate(found):
        first, last = window[0], window[-1]
        assert first // len(lengths) == last // len(lengths), "a window crosses an epoch"
        assert plan.first_iteration(step) == first
        assert [plan.steps_before(i) for i in window] == [step] * len(window)
        assert plan.progress(last) == Progress(last, step, last // len(lengths))
        samples = np.array([lengths[i % len(lengths)] for i in window])
        weights = np.array([plan.at(i).weight for i in window])
        np.testing.assert_allclose(weights / weights.sum(), samples / samples.sum())
        expected = 1.0 if config.gradient == "mean" else plan.window_size(last) * max(lengths)
        assert weights.sum() == pytest.approx(expected)


@settings(max_examples=100)
@given(config=configs, lengths=epochs_of_batches, steps=st.integers(1, 60), warmup=st.integers(0, 120))
def test_a_run_counted_in_steps_is_the_beginning_of_one_counted_in_epochs(config, lengths, steps, warmup):
    plan = AccumulationPlan(config, batch_lengths=lengths, steps=steps, warmup_iterations=warmup)
    assert len(windows(plan)) == steps == plan.length.steps
    longer = AccumulationPlan(config, batch_lengths=lengths, epochs=plan.length.epochs, warmup_iterations=warmup)
    assert longer.steps_before(plan.length.iterations) == steps
    assert (plan.length.epochs - 1) * len(lengths) < plan.length.iterations <= plan.length.epochs * len(lengths)


@settings(max_examples=150)
@given(config=configs, lengths=epochs_of_batches, samples=st.integers(1, 2000), warmup=st.integers(0, 120))
def test_a_run_counted_in_samples_ends_with_the_step_that_reaches_them(config, lengths, samples, warmup):
    plan = AccumulationPlan(config, batch_lengths=lengths, samples=samples, warmup_iterations=warmup)
    *_, last = windows(plan)
    seen = [lengths[i % len(lengths)] for i in range(plan.length.iterations)]
    assert sum(seen[: last[0]]) < samples <= sum(seen)
    counted = AccumulationPlan(config, batch_lengths=lengths, steps=plan.length.steps, warmup_iterations=warmup)
    assert counted.length == plan.length


def test_epochs_steps_and_samples_are_three_ways_to_say_one_length():
    # 10 batches of 8 and one of 3, two a step: 6 steps and 83 samples an epoch.
    ways = ({"epochs": 3}, {"steps": 18}, {"samples": 249}, {"samples": 247})
    warmup = ScheduleConfig(warmup=WarmupConfig(epochs=3, max_fraction=0.2))
    plans = [plan_run(AccumulationConfig(every=2), warmup, batch_lengths=[8] * 10 + [3], **way) for way in ways]
    assert {plan.length.steps for plan in plans} == {18}
    assert {plan.length.iterations for plan in plans} == {33}
    assert [plan.length.warmup_iterations for plan in plans] == [
        6,
        7,
        6,
        6,
    ]  # a fifth of 33; steps count full windows, 36
    longer = plan_run(AccumulationConfig(every=2), warmup, batch_lengths=[8] * 10 + [3], samples=250)
    assert (longer.length.steps, longer.length.epochs, longer.length.iterations) == (19, 4, 35)


def test_a_hundred_million_samples_are_planned_at_once():
    start = time.process_time()
    plan = AccumulationPlan(AccumulationConfig(), batch_lengths=[16] * 6999 + [3], samples=100_000_000)
    assert plan.length.iterations == 892 * 7000 + 6725  # 107,596 samples after 892 epochs of 111,987
    assert time.process_time() - start < 0.2


def test_two_million_iterations_are_planned_and_jumped_into_at_once():
    start = time.process_time()
    config = AccumulationConfig(nominal_batch_size=64, ramp=True)
    plan = AccumulationPlan(config, batch_lengths=[16] * 6999 + [3], epochs=300, warmup_iterations=21_000)
    middle = plan.length.steps // 2
    assert plan.steps_before(plan.first_iteration(middle)) == middle
    assert plan.length.iterations == 2_100_000
    assert time.process_time() - start < 0.2


def test_plan_run_takes_the_warm_up_from_the_schedule():
    schedule = ScheduleConfig(warmup=WarmupConfig(epochs=3, iterations=1000))
    plan = plan_run(AccumulationConfig(), schedule, batch_lengths=[8] * 400, epochs=10)
    assert plan.length.warmup_iterations == 1200
    capped = schedule.but(warmup=schedule.warmup.but(max_fraction=0.1))
    assert plan_run(AccumulationConfig(), capped, batch_lengths=[8] * 400, epochs=10).length.warmup_iterations == 400
    assert (
        plan_run(AccumulationConfig(every=2), capped, batch_lengths=[8] * 400, steps=500).length.warmup_iterations
        == 100
    )


def trained(batch_size, every, *, samples=22):
    """Weights after two epochs over the same samples in the same order."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(samples, 3, dtype=torch.float64), torch.randn(samples, 1, dtype=torch.float64)
    net = nn.Linear(3, 1).double()
    optimizer = build_optimizer(OptimizerConfig(momentum=0.9), net)
    parts = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
    plan = AccumulationPlan(AccumulationConfig(every=every), batch_lengths=[len(x) for x, _ in parts], epochs=2)
    for iteration in range(plan.length.iterations):
        x, y = parts[iteration % len(parts)]
        part = plan.at(iteration)
        (nn.functional.mse_loss(net(x), y) * part.weight).backward()
        if part.ends_window:
            optimizer.step([GroupValues(0.1, 0.9)])
            optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("batch_size, every", [(4, 2), (2, 4), (1, 8)])
def test_accumulated_micro_batches_train_as_whole_batches_do(batch_size, every):
    # 22 samples in batches of 8: the last window has 6 samples, in micro-batches of 4 + 2, 3 x 2, or 6 x 1.
    torch.testing.assert_close(trained(batch_size, every), trained(8, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "keys, message",
    [({"every": 2, "nominal_batch_size": 64}, "either every or nominal_batch_size"), ({"ramp": True}, "ramp needs")],
)
def test_a_contradiction_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        AccumulationConfig(**keys)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"epochs": 1, "steps": 1}, {"steps": 1, "samples": 1}, {"epochs": 0}, {"steps": 0}, {"samples": 0}],
)
def test_a_run_has_one_length(arguments):
    with pytest.raises(ValueError, match="one of epochs, steps and samples"):
        AccumulationPlan(AccumulationConfig(), batch_lengths=[1], **arguments)


@pytest.mark.parametrize("lengths", [[], [4, 0]])
def test_an_epoch_without_samples_is_refused(lengths):
    with pytest.raises(ValueError, match="at least one"):
        AccumulationPlan(AccumulationConfig(), batch_lengths=lengths, epochs=1)
