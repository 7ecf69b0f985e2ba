import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sightline.config.errors import ConfigError
from sightline.engine.accumulation import AccumulationConfig, plan_run
from sightline.engine.parameter_groups import ALL_ALIKE, WEIGHTS_DECAY_BIASES_WARM, GroupRule
from sightline.engine.schedule import (
    PolicyConfig,
    Progress,
    RunLength,
    Schedule,
    ScheduleConfig,
    WarmupConfig,
    curve,
    curve_points,
)

LENGTH = RunLength(iterations_per_epoch=10, epochs=6, iterations=60, steps=60)


def schedule(config, *, lr=1.0, momentum=0.9, rules=ALL_ALIKE, length=LENGTH):
    warmup = config.warmup.length(iterations_per_epoch=length.iterations_per_epoch, iterations=length.iterations)
    length = RunLength(length.iterations_per_epoch, length.epochs, length.iterations, length.steps, warmup)
    return Schedule(config, lr=lr, momentum=momentum, rules=rules, length=length)


def lrs(config, at=range(60), **arguments):
    made = schedule(config, **arguments)
    return [made.at(Progress(i, i, i // LENGTH.iterations_per_epoch))[0].lr for i in at]


def test_a_constant_schedule_stays_at_its_share_of_the_learning_rate():
    assert set(lrs(ScheduleConfig(initial=0.3), lr=2.0)) == {0.6}


def test_linear_reaches_its_end_just_after_the_last_iteration_or_in_it():
    after = lrs(ScheduleConfig(kind="linear", final=0.4))
    np.testing.assert_allclose(after, 1 - 0.6 * np.arange(60) / 60)
    within = lrs(ScheduleConfig(kind="linear", final=0.4, final_at="last"))
    np.testing.assert_allclose(within, 1 - 0.6 * np.arange(60) / 59)


def test_linear_by_epoch_is_flat_within_an_epoch():
    values = lrs(ScheduleConfig(kind="linear", interval="epoch"))
    np.testing.assert_allclose(values, np.repeat(1 - np.arange(6) / 6, 10))


def test_cosine_is_half_way_in_the_middle():
    values = lrs(ScheduleConfig(kind="cosine", final=0.2))
    assert values[0] == 1.0 and values[30] == pytest.approx(0.6)
    np.testing.assert_allclose(values, 0.2 + 0.4 * (1 + np.cos(np.pi * np.arange(60) / 60)))


def test_poly_falls_with_a_power_of_what_is_left():
    np.testing.assert_allclose(
        lrs(ScheduleConfig(kind="poly", power=2.0, final=0.1)), 0.1 + 0.9 * (1 - np.arange(60) / 60) ** 2
    )


def test_steps_come_at_milestones_or_after_every_period():
    values = lrs(ScheduleConfig(kind="step", interval="epoch", milestones=(2, 5)))
    np.testing.assert_allclose(values, np.repeat([1, 1, 0.1, 0.1, 0.1, 0.01], 10))
    values = lrs(ScheduleConfig(kind="step", every=20, gamma=0.5, minimum=0.4))
    np.testing.assert_allclose(values, np.repeat([1, 0.5, 0.4], 20))


def test_exp_and_inverse_follow_their_formulas():
    np.testing.assert_allclose(lrs(ScheduleConfig(kind="exp", gamma=0.9)), 0.9 ** np.arange(60))
    np.testing.assert_allclose(
        lrs(ScheduleConfig(kind="inverse", gamma=0.1, power=0.5)), (1 + 0.1 * np.arange(60)) ** -0.5
    )


def test_one_cycle_rises_to_the_learning_rate_and_falls_while_the_momentum_does_the_opposite():
    config = ScheduleConfig(kind="one_cycle", rise=0.4, initial=0.1, final=0.001, momentum_range=(0.85, 0.95))
    made = schedule(config, lr=2.0)
    start, peak, last = (made.at(Progress(i, i, i // 10))[0] for i in (0, 24, 59))
    assert start == pytest.approx((0.2, 0.95))
    assert peak == pytest.approx((2.0, 0.85))
    assert last.lr < 0.02 and last.momentum == pytest.approx(0.95, abs=1e-3)
    rising = [made.at(Progress(i, i, 0))[0].lr for i in range(25)]
    assert rising == sorted(set(rising))


def test_a_cosine_may_cycle_the_momentum_iteration_by_iteration():
    # 6 epochs of 10 iterations; the momentum is lowest after 0.5 of them, whatever the rate counts.
    for interval in ("epoch", "iteration"):
        config = ScheduleConfig(kind="cosine", interval=interval, rise=0.5, momentum_range=(0.8, 0.9))
        made = schedule(config)
        values = [made.at(Progress(i, i, i // 10))[0] for i in range(60)]
        assert [values[i].momentum for i in (0, 15, 30, 45)] == pytest.approx([0.9, 0.85, 0.8, 0.85])
        assert [value.lr for value in values] == lrs(ScheduleConfig(kind="cosine", interval=interval))
    late = ScheduleConfig(
        chain=[{"kind": "cosine", "interval": "epoch", "begin": 2, "rise": 0.5, "momentum_range": (0.8, 0.9)}]
    )
    made = schedule(late)
    before = made.at(Progress(19, 19, 1))[0].momentum
    values = [made.at(Progress(i, i, i // 10))[0].momentum for i in (20, 30, 40, 50)]
    assert values == pytest.approx([0.9, 0.85, 0.8, 0.85])  # over the four epochs that are its own
    assert before == schedule(ScheduleConfig()).at(Progress(0, 0, 0))[0].momentum


def test_a_warm_up_may_lead_to_the_learning_rate_itself():
    # 20 of 60 iterations from 0 towards 1, while the policy has fallen to 0.1 in the second epoch.
    keys = {"kind": "step", "interval": "epoch", "milestones": (1,)}
    warmup = {"iterations": 20, "leads_to": "lr"}
    values = lrs(ScheduleConfig(**keys, warmup=warmup))
    np.testing.assert_allclose(values[:20], np.arange(20) / 20)
    np.testing.assert_allclose(values[20:], 0.1)
    values = lrs(ScheduleConfig(**keys, warmup={"iterations": 20}))
    assert values[15] == pytest.approx(0.75 * 0.1)


def test_one_cycle_of_one_or_two_iterations_does_not_divide_by_zero():
    for iterations in (1, 2):
        length = RunLength(1, iterations, iterations, iterations)
        made = schedule(ScheduleConfig(kind="one_cycle", rise=0.4), length=length)
        assert made.at(Progress(0, 0, 0))[0].lr == 1.0


def test_nothing_rises_again_past_the_end():
    for config in (
        ScheduleConfig(kind="cosine", final=0.1),
        ScheduleConfig(kind="linear", final=0.1),
        ScheduleConfig(kind="one_cycle", final=0.1),
    ):
        assert lrs(config, at=[60, 90, 119]) == pytest.approx([0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (ScheduleConfig(kind="cosine"), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 60)),
        (ScheduleConfig(kind="exp", gamma=0.97), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.97)),
        (ScheduleConfig(kind="poly", power=0.9), lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 60, power=0.9)),
        (
            ScheduleConfig(kind="step", milestones=(13, 41)),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [13, 41]),
        ),
    ],
    ids=["cosine", "exp", "poly", "step"],
)
def test_the_curves_are_those_of_torch(ours, theirs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    reference = theirs(optimizer)
    expected = []
    for _ in range(60):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    np.testing.assert_allclose(lrs(ours, lr=0.3), expected, rtol=1e-9)


def test_a_chain_hands_over_at_each_begin():
    config = ScheduleConfig(
        kind="linear",
        initial=0.0,
        final=1.0,
        chain=(PolicyConfig(begin=2, interval="epoch"), PolicyConfig(kind="cosine", begin=40, final=0.5)),
    )
    values = lrs(config)
    np.testing.assert_allclose(values[:20], np.arange(20) / 20)
    np.testing.assert_allclose(values[20:40], 1.0)
    np.testing.assert_allclose(values[40:], 0.5 + 0.25 * (1 + np.cos(np.pi * np.arange(20) / 20)))


def test_a_policy_may_count_updates():
    made = schedule(ScheduleConfig(kind="linear", interval="step"), length=RunLength(10, 6, 60, 15))
    assert made.at(Progress(iteration=40, step=3, epoch=4))[0].lr == pytest.approx(1 - 3 / 15)


def test_counted_from_1_an_epoch_begins_with_the_last_iteration_of_the_one_before():
    values = lrs(ScheduleConfig(kind="step", interval="epoch", milestones=(2, 4), gamma=0.5, count_from=1))
    assert values == [1.0] * 19 + [0.5] * 20 + [0.25] * 21


@pytest.mark.parametrize(
    "kind, expected",
    [("linear", [0.1, 0.55, 1.0]), ("constant", [0.1, 0.1, 1.0]), ("exponential", [0.1, 0.1**0.5, 1.0])],
)
def test_warm_up_leads_from_its_start_to_the_regular_value(kind, expected):
    config = ScheduleConfig(warmup=WarmupConfig(iterations=10, kind=kind, start_factor=0.1))
    assert lrs(config, at=[0, 5, 10]) == pytest.approx(expected)


def test_warm_up_follows_the_regular_curve_below_it():
    config = ScheduleConfig(kind="linear", warmup=WarmupConfig(iterations=20))
    assert lrs(config, at=[10]) == pytest.approx([0.5 * (1 - 10 / 60)])


def test_biases_warm_up_from_above_and_the_momentum_from_below():
    config = ScheduleConfig(warmup=WarmupConfig(iterations=10, bias_lr=0.1, momentum=0.8))
    made = schedule(config, lr=0.01, momentum=0.9, rules=WEIGHTS_DECAY_BIASES_WARM)
    first, half, end = (made.at(Progress(i, i, 0)) for i in (0, 5, 10))
    assert [values.lr for values in first] == pytest.approx([0, 0, 0.1])
    assert [values.lr for values in half] == pytest.approx([0.005, 0.005, 0.055])
    assert [values.lr for values in end] == pytest.approx([0.01, 0.01, 0.01])
    assert [values[0].momentum for values in (first, half, end)] == pytest.approx([0.8, 0.85, 0.9])


@pytest.mark.parametrize(
    "config, expected",
    [
        (WarmupConfig(epochs=3), 300),
        (WarmupConfig(epochs=3, iterations=1000), 1000),
        (WarmupConfig(epochs=12, iterations=1000), 1200),
        (WarmupConfig(iterations=500), 500),
        (WarmupConfig(epochs=3, iterations=1000, max_fraction=0.25), 500),
        (WarmupConfig(epochs=0.333), 33),
        (WarmupConfig(), 0),
    ],
)
def test_a_warm_up_lasts_for_the_longer_of_its_lengths_within_its_share_of_the_run(config, expected):
    assert config.length(iterations_per_epoch=100, iterations=2000) == expected


def test_each_group_scales_the_learning_rate():
    rules = (GroupRule(name="a", match=("weight",)), GroupRule(name="b", match=("bias",), lr_scale=10))
    made = schedule(ScheduleConfig(kind="cosine"), lr=0.1, rules=rules)
    assert [values.lr for values in made.at(Progress(0, 0, 0))] == pytest.approx([0.1, 1.0])


def test_the_values_of_a_step_do_not_depend_on_what_was_asked_before():
    config = ScheduleConfig(kind="cosine", interval="epoch", warmup=WarmupConfig(iterations=7, momentum=0.5))
    forward = schedule(config)
    points = [Progress(i, i, i // 10) for i in range(60)]
    expected = [forward.at(point) for point in points]
    backward = schedule(config)
    assert [backward.at(point) for point in reversed(points)] == expected[::-1]


def test_values_stay_the_same_object_while_nothing_changes():
    made = schedule(ScheduleConfig(kind="cosine", interval="epoch"))
    assert made.at(Progress(11, 11, 1)) is made.at(Progress(19, 19, 1))
    assert made.at(Progress(20, 20, 2)) is not made.at(Progress(19, 19, 1))


def test_the_curve_holds_every_group_over_the_whole_run():
    config = ScheduleConfig(kind="cosine", interval="epoch", warmup=WarmupConfig(iterations=5, bias_lr=0.5))
    plan = plan_run(AccumulationConfig(every=4), config, batch_lengths=[8] * 10, epochs=6)
    made = Schedule(config, lr=1.0, momentum=0.9, rules=WEIGHTS_DECAY_BIASES_WARM, length=plan.length)
    whole = curve(made, plan.progress, iterations=curve_points(plan.length))
    assert whole.group_names == ("no_decay", "decay", "biases")
    assert whole.lr.shape == whole.momentum.shape == (60, 3)
    assert whole.lr[0].tolist() == [0, 0, 0.5]
    assert whole.epochs.tolist() == np.repeat(range(6), 10).tolist()
    assert whole.steps[[3, 4, 9, 10]].tolist() == [0, 1, 2, 3]  # an epoch of 10 has windows of 4, 4 and 2
    few = curve_points(plan.length, most=7)
    assert len(few) == 7 and few[0] == 0 and few[-1] == 59


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"kind": "cosine", "gamma": 0.1}, "gamma does nothing in a 'cosine' policy; it belongs to step, exp, inverse"),
        ({"kind": "constant", "final": 0.1}, "final does nothing"),
        ({"kind": "step"}, "either milestones or every"),
        ({"kind": "step", "milestones": [3], "every": 2}, "either milestones or every"),
        ({"kind": "step", "milestones": [3, 3]}, "milestones must rise"),
        ({"kind": "exp"}, "needs gamma"),
        ({"kind": "one_cycle", "momentum_range": [0.95, 0.85]}, "lowest, highest"),
        ({"kind": "cosine", "rise": 0.4}, "rise does nothing in a 'cosine' policy without momentum_range"),
        ({"warmup": {"momentum": 0.8}}, "momentum does nothing without epochs or iterations"),
        ({"warmup": {"iterations": 5, "kind": "exponential"}}, "cannot start at 0"),
        ({"kind": "cosine", "epochs_late": 1}, "epochs_late does nothing without a policy by epoch"),
        ({"chain": [{"begin": 0}]}, "must be later"),
        ({"chain": [{"begin": 5}, {"begin": 5}]}, r"chain\.1\.begin must be later"),
        ({"chain": [{"begin": 5, "interval": "step"}]}, "cannot be mixed"),
        ({"kind": "cosinus"}, "Input should be 'constant'"),
    ],
)
def test_a_contradiction_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        ScheduleConfig(**keys)


def test_a_policy_that_begins_after_the_end_is_an_error():
    with pytest.raises(ConfigError, match="begins at epoch 7, but the run has 6"):
        schedule(ScheduleConfig(chain=(PolicyConfig(interval="epoch", begin=7),)))


def test_a_bias_warm_up_that_no_group_uses_is_an_error():
    with pytest.raises(ConfigError, match=r"schedule\.warmup\.bias_lr: 0\.1 is used by no parameter group"):
        schedule(ScheduleConfig(warmup=WarmupConfig(iterations=5, bias_lr=0.1)))
