"""The learning rates of BMXNet, which are looked up by the number of updates made, counted from 1."""

import json

import numpy as np

from sightline.engine.parameter_groups import ALL_ALIKE
from sightline.engine.schedule import Progress, RunLength, Schedule, ScheduleConfig, WarmupConfig
from tests.conftest import oracle


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


def test_every_update_has_the_recorded_rate():
    cases = json.loads(oracle("bmxnet", "lr.json").read_text())
    assert cases
    for case in cases:
        schedule, per_epoch = schedule_of(case), case["iters_per_epoch"]
        ours = [schedule.at(Progress(i, i, i // per_epoch))[0].lr for i in range(schedule.length.steps)]
        theirs = case["lr_by_num_update"][1 : len(ours) + 1]
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15, err_msg=f"{case['mode']} {per_epoch}")
