"""YOLOv7's parameter groups, learning rates, momentum, accumulation, decay scaling and weight average.

The cases, their numbers and names come from the recorded files. What is written here are the system's rules, as the
README beside the files states them: warm-up of at least 1000 iterations, a nominal batch of 64, averaging with
0.9999 and a ramp of 2000.
"""

import json
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from sightline.engine.accumulation import AccumulationConfig, plan_run
from sightline.engine.ema import Ema, EmaConfig
from sightline.engine.parameter_groups import WEIGHTS_DECAY_BIASES_WARM, group_table, split_parameters
from sightline.engine.schedule import RunLength, Schedule, ScheduleConfig, WarmupConfig
from tests.conftest import oracle

ACCUMULATION = AccumulationConfig(nominal_batch_size=64, ramp=True, gradient="sum")
EMA = EmaConfig(decay=0.9999, ramp=2000)


@pytest.fixture(scope="module")
def recorded():
    return json.loads(oracle("yolov7", "optim", "optim.json").read_text())


@pytest.fixture(scope="module")
def arrays():
    with np.load(oracle("yolov7", "optim", "schedule.npz")) as file:
        return {name: file[name] for name in file.files}


def schedule_config(hyper, *, is_linear, is_adam):
    return ScheduleConfig(
        kind="linear" if is_linear else "cosine",
        interval="epoch",
        final=hyper["lrf"],
        final_at="last" if is_linear else None,
        epochs_late=1,
        warmup=WarmupConfig(
            epochs=hyper["warmup_epochs"],
            iterations=1000,
            bias_lr=hyper["warmup_bias_lr"],
            momentum=None if is_adam else hyper["warmup_momentum"],
        ),
    )


def build(recorded, case):
    hyper = recorded["hyp"][case["h"]]
    config = schedule_config(hyper, is_linear=case["linear"], is_adam=case["adam"])
    plan = plan_run(ACCUMULATION, config, batch_lengths=[case["tbs"]] * case["nb"], epochs=case["epochs"])
    schedule = Schedule(
        config, lr=hyper["lr0"], momentum=hyper["momentum"], rules=WEIGHTS_DECAY_BIASES_WARM, length=plan.length
    )
    return plan, schedule


def original_steps(plan, iterations):
    """Our updates without those that finish the last window of an epoch, which the original throws away."""
    return [i for i in range(iterations) if plan.at(i).ends_window and i % plan.window_size(i) == 0]


def test_every_recorded_iteration_has_its_learning_rates_momentum_and_accumulation(recorded, arrays):
    assert recorded["schedule"]
    for name, case in recorded["schedule"].items():
        plan, schedule = build(recorded, case)
        rows = arrays[f"{name}:iters"]
        assert plan.length.warmup_iterations == case["nw"], name
        for iteration, epoch, *lrs, momentum, accumulate, steps in rows:
            where = f"{name}, iteration {iteration:.0f}"
            progress = plan.progress(int(iteration))
            values = schedule.at(progress)
            assert progress.epoch == epoch, where
            assert [group.lr for group in values] == pytest.approx(lrs, rel=1e-12, abs=1e-15), where
            if not np.isnan(momentum):
                assert values[0].momentum == pytest.approx(momentum, rel=1e-12), where
            assert plan.window_size(int(iteration)) == accumulate, where
            ends_epoch = (iteration + 1) % case["nb"] == 0
            assert plan.at(int(iteration)).ends_window == (bool(steps) or ends_epoch), where


def test_updates_come_at_the_recorded_iterations_and_at_the_end_of_each_epoch(recorded, arrays):
    for name, case in recorded["schedule"].items():
        plan, _ = build(recorded, case)
        iterations = arrays[f"{name}:iters"][:, 0].astype(int)
        last, stride = iterations[-1], iterations[-1] - iterations[-2]
        # Every so many iterations were recorded, so the recorded run ended with an epoch that ends within one stride.
        ends = [end for end in range(last + 1, last + stride + 1) if end % case["nb"] == 0]
        first = arrays[f"{name}:first_step_iters"].tolist()
        assert original_steps(plan, ends[0])[: len(first)] == first, name
        assert arrays[f"{name}:steps_total"].item() in [len(original_steps(plan, end)) for end in ends], name


def test_a_full_window_and_its_decay_are_the_recorded_ones(recorded):
    for name, case in recorded["schedule"].items():
        hyper = recorded["hyp"][case["h"]]
        assert ACCUMULATION.full_window(case["tbs"]) == case["accumulate_initial"], name
        decay = hyper["weight_decay"] * ACCUMULATION.decay_scale(case["tbs"])
        assert decay == pytest.approx(case["weight_decay_scaled"], rel=1e-12), name


def test_the_weight_decay_follows_every_recorded_batch_size(recorded):
    rows = recorded["weight_decay_scaling"]
    bases = {hyper["weight_decay"] for hyper in recorded["hyp"].values()}
    assert rows
    for row in rows:
        assert ACCUMULATION.full_window(row["total_batch"]) == row["accumulate"]
        scale = ACCUMULATION.decay_scale(row["total_batch"])
        assert any(base * scale == pytest.approx(row["wd"], rel=1e-12) for base in bases), row


def factors(config, epochs):
    """Factor of every epoch of a run without warm-up, and of the epoch that would follow it."""
    length = RunLength(iterations_per_epoch=1, epochs=epochs, iterations=epochs, steps=epochs)
    schedule = Schedule(config, lr=1.0, momentum=0.9, rules=WEIGHTS_DECAY_BIASES_WARM, length=length)
    return [schedule.at((epoch, epoch, epoch))[0].lr for epoch in range(epochs + 1)]


def test_every_epoch_has_the_recorded_factor(recorded, arrays):
    for name, case in recorded["schedule"].items():
        kind, final_at = ("linear", "last") if case["linear"] else ("cosine", None)
        final = recorded["hyp"][case["h"]]["lrf"]
        config = ScheduleConfig(kind=kind, interval="epoch", final=final, final_at=final_at)
        ours, expected = factors(config, case["epochs"]), arrays[f"{name}:epoch_factor"]
        if case["linear"]:  # past its last epoch the original goes on falling, ours stays; no epoch uses that value
            ours, expected = ours[:-1], expected[:-1]
        np.testing.assert_allclose(ours, expected, rtol=1e-12, err_msg=name)


def test_long_cosines_are_the_recorded_ones(arrays):
    names = [name for name in arrays if re.fullmatch(r"cosine\d+_lrf[\d.]+", name)]
    assert names
    for name in names:
        final = float(name.partition("_lrf")[2])
        epochs = len(arrays[name]) - 1
        config = ScheduleConfig(kind="cosine", interval="epoch", final=final)
        np.testing.assert_allclose(factors(config, epochs), arrays[name], rtol=1e-12, err_msg=name)


def test_the_average_decays_as_recorded(arrays):
    ema = Ema(EMA, nn.Linear(1, 1))
    pairs = dict(enumerate(next(v for k, v in arrays.items() if re.fullmatch(r"ema_decay_\d+", k)), start=1))
    pairs |= {int(update): decay for update, decay in arrays["ema_decay_at"]}
    for update, decay in pairs.items():
        assert ema.decay_at(update) == pytest.approx(decay, rel=1e-12)


def test_every_update_gives_the_recorded_average(arrays):
    live, average = (torch.from_numpy(arrays[name]) for name in ("ema_model_w", "ema_w"))  # (updates, weights)
    net = nn.ModuleDict({"layer": nn.Linear(live.shape[1], 1, bias=False), "norm": nn.BatchNorm1d(1)})
    ema = Ema(EMA, net)
    start = {**ema.state_tensors(), "layer.weight": average[:1]}
    ema.load(start, updates=1)  # the first recorded average: what came before it is not recorded
    for update in range(1, len(live)):
        with torch.no_grad():
            net["layer"].weight.copy_(live[update : update + 1])
        net["norm"](torch.zeros(2, 1))
        ema.update()
        torch.testing.assert_close(ema.state_tensors()["layer.weight"][0], average[update], rtol=1e-5, atol=1e-6)
    counter = ema.state_tensors()["norm.num_batches_tracked"]
    assert counter.item() == arrays["ema_num_batches_tracked_final"].item()


def skeleton(state):
    """A module with the recorded parameter names and shapes; what has running statistics is a batch norm."""
    leaves = defaultdict(dict)
    for key, shape in state:
        prefix, _, last = key.rpartition(".")
        leaves[prefix][last] = shape
    root = nn.Module()
    for prefix, entries in leaves.items():
        if "running_mean" in entries:
            leaf = nn.BatchNorm2d(entries["weight"][0], device="meta")
        else:
            leaf = nn.Module()
            for last, shape in entries.items():
                if not last.startswith("anchor"):
                    leaf.register_parameter(last, nn.Parameter(torch.empty(shape, device="meta")))
        owner = root
        *path, name = prefix.split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]
        for child_name, child in owner._modules.get(name, nn.Module()).named_children():
            leaf.add_module(child_name, child)
        owner.add_module(name, leaf)
    return root


def test_every_recorded_network_is_split_into_the_recorded_groups():
    models = json.loads(oracle("yolov7", "models.json").read_text())
    built = {name: model for name, model in models.items() if "state" in model}
    assert built
    for name, model in built.items():
        table = group_table(split_parameters(skeleton(model["state"]), WEIGHTS_DECAY_BIASES_WARM, weight_decay=5e-4))
        expected = [model["groups"][group] for group in ("pg0_no_decay", "pg1_decay", "pg2_bias")]
        assert [row.tensors for row in table] == expected, name
        assert [row.numel for row in table] == model["groups"]["numel"], name
        assert [row.weight_decay for row in table] == [0.0, 5e-4, 0.0]
