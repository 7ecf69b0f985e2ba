"""What OpenPCDet's training does around its models: checkpoints, settings, the long epoch, steps, names of figures.

Where the original crashes or is wrong (see docs/deviations.md), the test says what ours does instead.
"""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import create_model
from torch import nn

from sightline.config.base import Config
from sightline.config.errors import ConfigError
from sightline.config.override import apply_changes, parse_change
from sightline.data.sampler import LongEpochSampler
from sightline.engine.checkpoint.retention import BestBy, CheckpointConfig, KeepLast, Saved, kept_steps
from sightline.engine.checkpoint.save_schedule import SaveSchedule
from sightline.engine.clip import clip_grad_norm
from sightline.engine.optim import OptimizerConfig, build_optimizer
from sightline.engine.parameter_groups import ALL_ALIKE
from sightline.engine.schedule import (
    GroupValues,
    PolicyConfig,
    Progress,
    RunLength,
    Schedule,
    ScheduleConfig,
    WarmupConfig,
)
from sightline.metrics.kitti_ap import KittiAP
from sightline.metrics.kitti_boxes import NO_TRUTHS, KittiDetections
from tests.conftest import oracle


def commands():
    return json.loads(oracle("openpcdet", "train_config_cli.json").read_text())


def optimisation():
    return json.loads(oracle("openpcdet", "optimisation.json").read_text())


def arrays():
    return np.load(oracle("openpcdet", "optimisation.npz"))


# Checkpoints.


def test_checkpoints_of_the_last_epochs_and_the_latest_by_the_clock(tmp_path):
    flags = {
        row["dest"] if "dest" in row else row["flags"][0].lstrip("-"): row["default"] for row in commands()["cli_train"]
    }
    interval, most, seconds = (
        flags[name] for name in ("ckpt_save_interval", "max_ckpt_save_num", "ckpt_save_time_interval")
    )
    config = CheckpointConfig(
        every_epochs=interval, every_minutes=seconds / 60, keep=[KeepLast(count=most, epoch_ends=True)]
    )
    now, step_seconds, steps_per_epoch, epochs = [0.0], seconds / 7, 25, 2 * most
    schedule = SaveSchedule(config, tmp_path, clock=lambda: now[0])
    saved: list[Saved] = []
    for step in range(1, steps_per_epoch * epochs + 1):
        now[0] += step_seconds
        epoch, ends_epoch = step // steps_per_epoch, step % steps_per_epoch == 0
        if schedule.reason(step=step, epoch=epoch, ends_epoch=ends_epoch):
            saved.append(Saved(step, epoch, ends_epoch))
            kept = kept_steps(saved, config, best=BestBy())
            saved = [one for one in saved if one.step in kept]
        ends = [one.epoch for one in saved if one.ends_epoch]
        due = list(range(interval, epoch + 1, interval))
        assert ends == due[-most:]
        assert sum(not one.ends_epoch for one in saved) <= 1
        newest = saved[-1].step if saved else 0
        assert (step - newest) * step_seconds <= seconds


# Settings on the command line.


def as_config(tree: dict[str, Any]) -> type[Config]:
    """A configuration with the keys, types and values of a recorded one."""
    fields: dict[str, Any] = {}
    for key, value in tree.items():
        if key.startswith("_"):
            continue
        if isinstance(value, dict):
            kind = as_config(value)
            fields[key] = (kind, kind())
        elif isinstance(value, list):
            kinds = {type(one) for one in value}
            item: Any = float if kinds == {int, float} else kinds.pop() if len(kinds) == 1 else Any
            fields[key] = (tuple[Any if item in (list, dict) else item, ...], tuple(value))
        else:
            fields[key] = (type(value), value)
    return create_model("Recorded", __base__=Config, **fields)


def value_at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return list(config) if isinstance(config, tuple) else config


def test_settings_mean_what_they_mean_to_the_original_or_are_refused():
    recorded = commands()
    config = as_config({key: recorded["merged_pointpillar"][key] for key in ("OPTIMIZATION", "DATA_CONFIG")})()
    same = refused = 0
    for case in recorded["set_overrides"]:
        texts = case["set"]
        pairs = ["=".join(texts[i : i + 2]) for i in range(0, len(texts), 2)]
        try:
            changed, _ = apply_changes(config, [parse_change(pair) for pair in pairs])
        except ConfigError:
            # What the original refuses or crashes at, or a list or mapping that is not written as one.
            is_unwritten = any(isinstance(value, list | dict) for value in case.get("result", {}).values())
            assert "error" in case or is_unwritten, case
            refused += 1
            continue
        if "result" in case:
            assert {key: value_at(changed, key) for key in case["result"]} == case["result"], case
            same += 1
        else:  # 1 for a number with a fraction or a switch, true in small letters, a mapping in braces
            assert len(texts) == 2, case
            old, new = value_at(config, texts[0]), value_at(changed, texts[0])
            assert type(new) is type(old) or isinstance(old, Config), case
    assert same
    assert refused


# The long epoch.


def one_cycle(used: dict[str, Any], length: RunLength) -> Schedule:
    config = ScheduleConfig(
        kind="one_cycle",
        rise=used["PCT_START"],
        initial=1 / used["DIV_FACTOR"],
        final=1 / used["DIV_FACTOR"] / 1e4,
        momentum_range=(used["MOMS"][1], used["MOMS"][0]),
    )
    return Schedule(config, lr=used["LR"], momentum=0.9, rules=ALL_ALIKE, length=length)


def rates(schedule: Schedule, count: int, per_epoch: int) -> list[float]:
    return [schedule.at(Progress(i, i, i // per_epoch))[0].lr for i in range(count)]


def test_one_long_epoch_has_as_many_iterations_and_a_schedule_of_that_length():
    recorded = optimisation()
    merge, used = recorded["merge"], recorded["config_used"]
    per_epoch, epochs, run = merge["batches_per_epoch"], merge["epochs"], merge["iterations_really_run"]
    sampler = LongEpochSampler(per_epoch * used["BATCH_SIZE_PER_GPU"], used["BATCH_SIZE_PER_GPU"], epochs=epochs)
    assert sampler.batches_per_epoch == merge["total_it_each_epoch_in_train_model"]
    assert sampler.batches_per_epoch * epochs == run

    # The original multiplies by the epochs twice: what it runs is the beginning of a schedule that is too long.
    too_long = merge["total_steps_given_to_onecycle"]
    wrong = one_cycle(used, RunLength(per_epoch, too_long // per_epoch, too_long, too_long))
    with arrays() as stored:
        [name] = [name for name in stored.files if name.startswith("merged_")]
        np.testing.assert_allclose(rates(wrong, run, per_epoch), stored[name], rtol=1e-9)
    # Ours rises and falls within the run.
    right = rates(one_cycle(used, RunLength(per_epoch, epochs, run, run)), run + 1, per_epoch)
    assert max(right) == used["LR"]
    assert right.index(used["LR"]) == int(used["PCT_START"] * run)
    assert right[-1] == pytest.approx(used["LR"] / used["DIV_FACTOR"] / 1e4)


# Steps.


def test_rates_that_drop_at_milestones():
    used = optimisation()["config_used"]
    config = ScheduleConfig(
        kind="step",
        interval="epoch",
        milestones=used["DECAY_STEP_LIST"],
        gamma=used["LR_DECAY"],
        minimum=used["LR_CLIP"] / used["LR"],
    )
    with arrays() as stored:
        names = [re.fullmatch(r"(?:adam|sgd)_lambda_lr_it(\d+)_ep(\d+)", name) for name in stored.files]
        assert any(names)
        for case in filter(None, names):
            name, per_epoch, epochs = case[0], int(case[1]), int(case[2])
            length = RunLength(per_epoch, epochs, per_epoch * epochs, per_epoch * epochs)
            schedule = Schedule(config, lr=used["LR"], momentum=0.9, rules=ALL_ALIKE, length=length)
            np.testing.assert_allclose(rates(schedule, len(stored[name]), per_epoch), stored[name], rtol=1e-9)


def test_a_cosine_by_epoch_behind_a_warm_up_to_the_rate_itself_with_cycling_momentum():
    # adam_cosineanneal: from 1/3 of the rate to all of it, then down to a thousandth.
    used = optimisation()["config_used"]
    with arrays() as stored:
        names = [re.fullmatch(r"(cosineanneal_it(\d+)_ep(\d+)_warm(\d+))/lr", name) for name in stored.files]
        assert any(names)
        for case in filter(None, names):
            per_epoch, epochs, warm = (int(number) for number in case.groups()[1:])
            config = ScheduleConfig(
                kind="cosine",
                interval="epoch",
                final=1e-3,
                rise=used["PCT_START"],
                momentum_range=(used["MOMS"][1], used["MOMS"][0]),
                warmup=WarmupConfig(iterations=warm, start_factor=1 / 3, leads_to="lr"),
            )
            length = RunLength(per_epoch, epochs, per_epoch * epochs, per_epoch * epochs, warmup_iterations=warm)
            schedule = Schedule(config, lr=used["LR"], momentum=0.9, rules=ALL_ALIKE, length=length)
            values = [schedule.at(Progress(i, i, i // per_epoch))[0] for i in range(length.iterations)]
            np.testing.assert_allclose([one.lr for one in values], stored[f"{case[1]}/lr"], rtol=1e-6)
            np.testing.assert_allclose([one.momentum for one in values], stored[f"{case[1]}/momentum"], rtol=1e-6)


def test_the_rise_of_its_cosine_warm_up_which_the_original_cannot_reach():
    # There a warm-up ends the building of the optimizer with an error; its formula rises and then falls again.
    with arrays() as stored:
        names = [
            re.fullmatch(r"cosine_warmup_lr([\d.]+)_T(\d+)_etamin([\d.]+)_\d+steps", name) for name in stored.files
        ]
        assert any(names)
        for case in filter(None, names):
            lr, rise, lowest = float(case[1]), int(case[2]), float(case[3])
            config = ScheduleConfig(kind="cosine", initial=lowest / lr, final=1.0, chain=[PolicyConfig(begin=rise)])
            schedule = Schedule(config, lr=lr, momentum=0.9, rules=ALL_ALIKE, length=RunLength(50, 1, 50, 50))
            values = rates(schedule, rise + 20, 50)
            np.testing.assert_allclose(values[: rise + 1], stored[case[0]][: rise + 1], rtol=1e-6)
            assert set(values[rise:]) == {lr}  # ours stays


def test_past_its_end_the_rate_of_a_one_cycle_stays():
    used = optimisation()["config_used"]
    with arrays() as stored:
        names = [re.fullmatch(r"onecycle_it(\d+)_ep(\d+)_steps_(\d+)_to_\d+_overrun", name) for name in stored.files]
        assert any(names)
        for case in filter(None, names):
            per_epoch, epochs, first = (int(number) for number in case.groups())
            length = RunLength(per_epoch, epochs, per_epoch * epochs, per_epoch * epochs)
            recorded = stored[case[0]]  # (steps, 2) rate and momentum
            schedule = one_cycle(used, length)
            values = [schedule.at(Progress(i, i, i // per_epoch))[0] for i in range(first, first + len(recorded))]
            within = length.iterations - first + 1
            np.testing.assert_allclose(values[:within], recorded[:within], rtol=1e-6)
            assert recorded[-1, 0] > recorded[within - 1, 0]  # there it rises again
            assert set(values[within:]) == {values[within - 1]}


class Traced(nn.Module):
    """The recorded network: two linear layers with norms, a fixed one behind them, and a parameter of its own."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        middle, inputs = state["a.weight"].shape
        outputs = len(state["blk.1.weight"])
        self.direct = nn.Parameter(torch.zeros(outputs))
        self.a, self.bn = nn.Linear(inputs, middle), nn.BatchNorm1d(middle)
        self.blk = nn.Sequential(nn.Linear(middle, outputs, bias=False), nn.LayerNorm(outputs))
        self.frozen = nn.Linear(outputs, outputs).requires_grad_(requires_grad=False)
        self.load_state_dict(state, strict=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(self.blk(self.bn(self.a(x)))) + self.direct


def test_six_steps_of_one_cycle_adam_with_decay_apart_and_clipping():
    facts = optimisation()["trace_onecycle"]
    with arrays() as stored:
        trace = {name.removeprefix("trace_onecycle/"): stored[name] for name in stored.files if "trace_" in name}
    state = {name: torch.from_numpy(trace[f"init/{name}"].copy()) for name in facts["names"]}
    model, x, y = Traced(state), torch.from_numpy(trace["x"]), torch.from_numpy(trace["y"])
    optimizer = build_optimizer(OptimizerConfig(kind="adamw", beta2=0.99, weight_decay=facts["WEIGHT_DECAY"]), model)
    per_epoch, epochs = facts["it_per_epoch"], facts["epochs"]
    length = RunLength(per_epoch, epochs, per_epoch * epochs, per_epoch * epochs)
    schedule = one_cycle(optimisation()["config_used"] | {"LR": facts["LR"]}, length)
    steps = sorted({int(name.split("/")[0].removeprefix("step")) for name in trace if name.startswith("step")})
    assert steps
    for step in steps:
        loss, norm, lr, momentum = trace[f"step{step}/loss_gradnorm_lr_mom"]
        values = schedule.at(Progress(step, step, step // per_epoch))
        assert values[0] == pytest.approx(GroupValues(lr, momentum), rel=1e-9)
        model.zero_grad(set_to_none=True)
        mine = ((model(x) - y) ** 2).sum()
        mine.backward()
        assert mine.item() == pytest.approx(loss, rel=1e-4)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert clip_grad_norm(gradients, facts["clip"]).item() == pytest.approx(norm, rel=1e-4)
        optimizer.step(values)
        for name, parameter in model.named_parameters():
            expected = torch.from_numpy(trace[f"step{step}/{name}"].copy())
            if name == "direct":  # never updated there, as it belongs to no leaf module; here it is
                assert torch.equal(expected, state["direct"])
                assert not torch.equal(parameter.detach(), expected)
                parameter.data.copy_(expected)
            elif name == "a.bias":  # a norm follows, so its gradient is nothing but rounding, of which Adam makes steps
                assert (parameter.detach() - expected).abs().max() <= 2 * lr * (step + 1)
                parameter.data.copy_(expected)
            else:
                torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-5, msg=f"{step} {name}")


# Names.


def test_every_figure_of_an_evaluation_has_its_counterpart():
    tags = commands()["tensorboard_eval_tags"]
    classes = sorted({tag.partition("_")[0] for tag in tags if not tag.startswith("recall/")})
    metric = KittiAP(classes, ["Car"])
    one = KittiDetections(*(np.zeros((1, *shape)) for shape in ((), (), (4,), (7,), (), ())))
    metric.update([0], NO_TRUTHS, one)
    figures = metric.compute()
    for tag in tags:
        if tag.startswith("recall/roi"):
            continue  # of proposals, which detectors of one stage do not have; the original logs 0
        if tag.startswith("recall/"):
            name = tag.replace("rcnn_", "")
        else:
            class_name, _, rest = tag.partition("_")
            name = f"{class_name}/{rest}"
        assert name in figures, tag
