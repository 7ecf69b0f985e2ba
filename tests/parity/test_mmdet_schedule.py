"""The learning rate policies of the mmdetection family, with every warm-up, and the rates of resumed runs.

Left out are those without a counterpart of ours: cyclic rates, cosines with restarts, and its form of one cycle.
"""

import json

import numpy as np
import pytest

from sightline.engine.parameter_groups import ALL_ALIKE
from sightline.engine.schedule import PolicyConfig, Progress, RunLength, Schedule, ScheduleConfig, WarmupConfig
from tests.conftest import oracle

KINDS = {
    "fixed": "constant",
    "step": "step",
    "exp": "exp",
    "poly": "poly",
    "inv": "inverse",
    "cosine": "cosine",
    "CosineAnnealing": "cosine",
    "LinearAnnealing": "linear",
    "FlatCosineAnnealing": "constant",
}


def warmup_of(theirs):
    if "warmup" not in theirs:
        return WarmupConfig()
    unit = "epochs" if theirs.get("warmup_by_epoch") else "iterations"
    kind = {"exp": "exponential"}.get(theirs["warmup"], theirs["warmup"])
    return WarmupConfig(**{unit: theirs["warmup_iters"]}, kind=kind, start_factor=theirs["warmup_ratio"])


def schedule_of(theirs, *, lr, length):
    interval = "epoch" if theirs.get("by_epoch", True) else "iteration"
    kind = KINDS[theirs["policy"]]
    keys = {}
    lowest = theirs.get("min_lr_ratio", theirs.get("min_lr", theirs.get("target_lr", 0)) / lr)
    if kind == "step":
        keys["milestones" if isinstance(theirs["step"], list) else "every"] = theirs["step"]
        keys |= {"gamma": theirs.get("gamma", 0.1), "minimum": lowest}
    elif kind in ("exp", "inverse"):
        keys |= {"gamma": theirs["gamma"]}
    elif kind in ("poly", "cosine", "linear"):
        keys |= {"final": lowest}
    if "power" in theirs:
        keys["power"] = theirs["power"]
    chain = ()
    if theirs["policy"] == "FlatCosineAnnealing":
        begin = round(theirs["start_percent"] * length.units(interval))
        chain = (PolicyConfig(kind="cosine", interval=interval, begin=begin, final=lowest),)
    return ScheduleConfig(kind=kind, interval=interval, chain=chain, warmup=warmup_of(theirs), **keys)


def rates(theirs, *, lr, iterations_per_epoch, epochs):
    iterations = iterations_per_epoch * epochs
    length = RunLength(iterations_per_epoch, epochs, iterations, iterations)
    config = schedule_of(theirs, lr=lr, length=length)
    warmup = config.warmup.length(iterations_per_epoch=iterations_per_epoch, iterations=iterations)
    length = RunLength(iterations_per_epoch, epochs, iterations, iterations, warmup)
    schedule = Schedule(config, lr=lr, momentum=0.9, rules=ALL_ALIKE, length=length)
    return [schedule.at(Progress(i, i, i // iterations_per_epoch))[0].lr for i in range(iterations)]


@pytest.mark.parametrize("name, prefix", [("lr_mmcv028", ""), ("lr_momentum_mmcv172", "lr__")])
def test_every_iteration_of_our_policies_with_every_warm_up_has_the_recorded_rate(name, prefix):
    recorded = json.loads(oracle("mmdet", "runner", f"{name}.json").read_text())
    with np.load(oracle("mmdet", "runner", f"{name}.npz")) as arrays:
        cases = [c for c in arrays.files if c.startswith(prefix) and recorded["cfgs"][c]["policy"] in KINDS]
        assert cases
        for case in cases:
            theirs = recorded["cfgs"][case]
            iterations_per_epoch = theirs.get("iters", recorded["iters_per_epoch"])
            for group, lr in enumerate(theirs.get("base", recorded["base_lrs"])):
                ours = rates(
                    theirs,
                    lr=lr,
                    iterations_per_epoch=iterations_per_epoch,
                    epochs=theirs.get("epochs", recorded["epochs"]),
                )
                _, first = theirs.get("start", (0, 0))  # a resumed run has the rates of the rest of an unbroken one
                np.testing.assert_allclose(ours[first:], arrays[case][:, group], rtol=1e-9, atol=1e-15, err_msg=case)
