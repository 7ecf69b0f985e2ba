"""The learning rates of BMXNet, which are looked up by the number of updates made, counted from 1."""

import json
import math

import numpy as np

from sightline import api
from sightline.engine.accumulation import plan_run
from sightline.engine.parameter_groups import ALL_ALIKE
from sightline.engine.schedule import Progress, RunLength, Schedule, ScheduleConfig, WarmupConfig
from tests.conftest import oracle

CIFAR_UPDATES = 50_000 // 128  # of an epoch: 390, since the reference drops the incomplete batch


def schedule_of(case):
    """Each part of the schedule ends in its last update; the warm-up is a part of its own."""
    per_epoch = case["iters_per_epoch"]
    warmup = case["warmup_epochs"] * per_epoch
    keys = {"kind": case["mode"]}
    if case["mode"] in ("cosine", "poly", "linear"):
        keys |= {"begin": warmup, "final": 0.0, "final_at": "last"}
    if case["mode"] == "poly":
        keys["power"] = 2.0
    if case["mode"] == "step":
        milestones = [int(epoch) * per_epoch for epoch in case["lr_steps"].split(",")]
        keys |= {"milestones": milestones, "gamma": case["lr_factor"]}
    config = ScheduleConfig(interval="step", count_from=1, warmup=WarmupConfig(iterations=max(warmup - 1, 0)), **keys)
    steps = per_epoch * case["epochs"]
    length = RunLength(per_epoch, case["epochs"], steps, steps, config.warmup.iterations)
    return Schedule(config, lr=case["base_lr"], momentum=0.9, rules=ALL_ALIKE, length=length)


def run_of(case):
    """A recipe with the changes that docs/coming-from-bmxnet.md tells for the options of a case."""
    warmup = case["warmup_epochs"] * case["iters_per_epoch"]
    changes = [f"lr={case['base_lr']}", f"epochs={case['epochs']}"]
    if warmup:
        changes.append(f"schedule.warmup.iterations={warmup - 1}")
    if case["mode"] == "step":
        steps = [f"schedule.milestones=[{case['lr_steps']}]", f"schedule.gamma={case['lr_factor']}"]
        return api.resolve("resnet-e18-cifar", [*changes, *steps])[0]
    if case["mode"] != "constant":
        changes += [f"schedule.begin={warmup}"] * (warmup > 0) + ["schedule.power=2"] * (case["mode"] == "poly")
    return api.resolve("meliusnet", [*changes, f"schedule.kind={case['mode']}"])[0]


def rates(config, *, updates_per_epoch):
    """The rate of every update of a run."""
    lengths = [config.samples_per_batch] * updates_per_epoch
    plan = plan_run(config.accumulation, config.schedule, batch_lengths=lengths, epochs=config.epochs)
    rules, momentum = config.optimizer.groups, config.optimizer.momentum
    schedule = Schedule(config.schedule, lr=config.lr, momentum=momentum, rules=rules, length=plan.length)
    return [schedule.at(plan.progress(iteration))[0].lr for iteration in range(plan.length.iterations)]


def test_every_update_has_the_recorded_rate():
    cases = json.loads(oracle("bmxnet", "lr.json").read_text())
    assert cases
    for case in cases:
        schedule, per_epoch = schedule_of(case), case["iters_per_epoch"]
        ours = [schedule.at(Progress(i, i, i // per_epoch))[0].lr for i in range(schedule.length.steps)]
        theirs = case["lr_by_num_update"][1 : len(ours) + 1]
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15, err_msg=f"{case['mode']} {per_epoch}")


def test_every_update_of_the_recipes_has_the_recorded_rate():
    for case in json.loads(oracle("bmxnet", "lr.json").read_text()):
        ours = rates(run_of(case), updates_per_epoch=case["iters_per_epoch"])
        assert len(ours) == case["epochs"] * case["iters_per_epoch"]
        theirs = case["lr_by_num_update"][1 : len(ours) + 1]
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15, err_msg=case["mode"])


def test_the_published_run_on_cifar_falls_with_update_number_29250_which_is_the_last_of_75_epochs():
    config, _ = api.resolve("resnet-e18-cifar")
    assert (config.epochs, config.samples_per_batch, config.lr) == (150, 128, 0.01)
    # 75, 100 and 125 epochs of 390 updates are 29250, 39000 and 48750; the value number 1 is that of the first update.
    falls = [29250, 39000, 48750]
    expected = [0.01 * 0.3 ** sum(number >= fall for fall in falls) for number in range(1, 150 * 390 + 1)]
    np.testing.assert_allclose(rates(config, updates_per_epoch=CIFAR_UPDATES), expected, rtol=1e-12)


def test_the_cosine_of_the_best_run_on_cifar_starts_behind_its_warm_up():
    # 5 epochs are 1950 updates, of which number 1949 has the whole rate; the cosine then has 56549 steps to 0.
    changes = ["lr=0.02", "schedule.kind=cosine", "schedule.interval=step", "schedule.final_at=last"]
    config, _ = api.resolve("resnet-e18-cifar", [*changes, "schedule.begin=1950", "schedule.warmup.iterations=1949"])
    number = np.arange(1, 150 * 390 + 1)
    share = np.clip((number - 1950) / (145 * 390 - 1), 0, 1)
    expected = np.where(number < 1949, 0.02 * number / 1949, 0.01 * (1 + np.cos(math.pi * share)))
    ours = rates(config, updates_per_epoch=CIFAR_UPDATES)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-15)
    assert ours[-2:] == [0.0, 0.0]
