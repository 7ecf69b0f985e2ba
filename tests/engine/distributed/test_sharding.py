"""A run in shards is the run of one process: the same losses, weights, checkpoints and figures, in parts."""

import json
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from sightline.config.errors import ConfigError
from sightline.engine.callback import Callback
from sightline.engine.checkpoint.reader import find_checkpoints, load_tensors, read_checkpoint
from sightline.engine.checkpoint.save_schedule import REQUEST_SECONDS
from sightline.engine.distributed.sharding import is_sharded, own_parts
from tests.engine.distributed.test_processes import (
    TOY,
    assert_same_losses,
    assert_same_weights,
    detector,
    rows,
    samples_by_step,
    toy,
)
from tests.engine.sessions import session
from tests.engine.toy import ToyTask, toy_run
from tests.together import together

FSDP = {"strategy": "fsdp"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulation": {"every": 4}, "max_grad_norm": 0.5, "on_nonfinite": "skip"},
        {"optimizer": {"kind": "adamw"}, "batch_size": 5, "fsdp": {"layers": ["net.*"]}, "evaluate": {"loss": True}},
        {"optimizer": {"kind": "mx_radam"}},
    ],
)
def test_shards_take_the_steps_of_one_process(tmp_path, changes):
    alone = together(1, toy, tmp_path / "1", changes)
    for count in (2, 3):  # of 8 rows and of 2, three processes hold unequal parts, and some hold none
        results = together(count, toy, tmp_path / str(count), {**FSDP, **changes})
        assert {result[:2] for result in results} == {alone[0][:2]}
        assert samples_by_step(results) == samples_by_step(alone)
        assert_same_losses(tmp_path / str(count), tmp_path / "1")
        assert_same_weights(tmp_path / str(count), tmp_path / "1")
        for result in results:
            assert result[2] == pytest.approx(alone[0][2], rel=1e-6), "every process knows the figures"


def test_shards_of_a_detector_take_the_steps_of_one_process(tmp_path):
    changes = ["epochs=3", "batch_size=4", "evaluate.every_epochs=3", "lr=1e-4", "schedule.warmup.bias_lr=1e-4"]
    together(1, detector, tmp_path / "1", changes)
    layers = 'fsdp.layers=["network.layers.*"]'
    together(2, detector, tmp_path / "2", [*changes, "strategy=fsdp", layers])
    assert_same_losses(tmp_path / "2", tmp_path / "1")
    found, wanted = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("2", "1"))
    assert found == wanted


def test_other_strategies_and_other_numbers_of_processes_go_on_with_a_run_in_shards(tmp_path):
    plan = ((2, 1, "fsdp"), (1, 2, "fsdp"), (3, 3, "fsdp"), (2, 4, "ddp"))
    for place, (count, epochs, strategy) in enumerate(plan):
        together(count, toy, tmp_path / "a", {"epochs": epochs, "schedule": {}, "strategy": strategy}, place > 0)
    together(1, toy, tmp_path / "whole", {"schedule": {}})
    assert_same_weights(tmp_path / "a", tmp_path / "whole")


class Held(Callback):
    """Numbers that this process holds, of all that there are; asks for a checkpoint amid the second evaluation."""

    in_every_process = True

    def __init__(self, folder):
        self.folder, self.held, self.evaluations = folder, {}, 0

    def on_step_end(self, training, report):
        tensors = {
            "weights": list(training.task.parameters()),
            "momentum": list(training.optimizer.state_tensors().values()),
            "gradients and steps": training.optimizer.gradients(),
            "average": [t for name, t in training.ema.state_tensors().items() if not name.startswith("net.1")],
        }
        self.held = {name: sum(tensor.numel() for tensor in own_parts(members)) for name, members in tensors.items()}
        assert all(is_sharded(tensor) for tensor in tensors["weights"] + tensors["momentum"])

    def on_evaluation_start(self, training):
        self.evaluations += 1
        if self.evaluations == 2 and training.processes.is_first:
            (self.folder / "save").touch()
            time.sleep(REQUEST_SECONDS)  # the next look is due then


def held(processes, folder):
    callback = Held(folder)
    session(
        toy_run(**{**TOY, **FSDP, "checkpoint": {"every_epochs": 0}}), folder, processes=processes, callbacks=[callback]
    )
    return callback.held


def test_each_process_holds_its_part_and_saves_whole_tensors_amid_an_evaluation_too(tmp_path):
    parts = together(2, held, tmp_path / "a")
    whole = sum(parameter.numel() for parameter in toy_run().open().task.parameters())
    for part in parts:
        assert part["weights"] == part["momentum"] == whole / 2
        assert part["gradients and steps"] == 0, "dropped after the step"
        assert part["average"] == (whole - 16) / 2  # batch norm has 16
    manifests = [read_checkpoint(path).manifest for path in find_checkpoints(tmp_path / "a")]
    steps = rows(tmp_path / "a")[-1]["step"]
    assert sorted((one.step, one.reason) for one in manifests) == [(steps // 2, "request"), (steps, "done")]
    tensors = load_tensors(read_checkpoint(find_checkpoints(tmp_path / "a")[0]))
    assert (
        sum(t.numel() for name, t in tensors["model"].items() if "running" not in name and "num" not in name) == whole
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"sync_batch_norm": False, "data_samples": 24, "batch_size": 6},  # the first process's statistics count
        {"freeze": ["*net.0.*"], "samples_at_once": 1, "ema": None, "precision": "fp16"},
        {"watch": {"layers": ["net.4"], "every_steps": 3}, "max_grad_norm": 0.1},
    ],
)
def test_shards_and_whole_weights_take_the_same_steps(tmp_path, changes):
    for strategy in ("ddp", "fsdp"):
        together(2, toy, tmp_path / strategy, {**changes, "strategy": strategy})
    assert_same_losses(tmp_path / "fsdp", tmp_path / "ddp")
    assert_same_weights(tmp_path / "fsdp", tmp_path / "ddp")


def number(task):
    task.temperature = nn.Parameter(torch.ones(()))


def tied(task):
    task.second = nn.Linear(4, 8)
    task.second.weight = task.net[0].weight


def begin(processes, folder, changes, change_task):
    config = toy_run(**{**TOY, **FSDP, **changes})
    problem = config.open(share=processes.share)
    change_task(problem.task)
    try:
        session(config, folder, problem=problem, processes=processes)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("layers", "change_task", "words"),
    [
        ((), number, "the parameter temperature is a single number"),
        (("nett.*",), number, "the parameter temperature is a single number"),
        (("nett.*",), nn.Module.train, "fsdp.layers: no layer is called 'nett.*'"),
        (("second",), tied, "fsdp.layers: second shares a weight with net.0.weight"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(tmp_path, layers, change_task, words):
    first, second = together(2, begin, tmp_path / "run", {"fsdp": {"layers": layers}}, change_task)
    assert first == second
    assert words in first
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"], "nothing was begun"


class Turns(ToyTask):
    """Each process uses a layer of its own."""

    def __init__(self, rank):
        super().__init__(dropout=0.0)
        self.rank = rank
        self.branches = nn.ModuleList([nn.Linear(4, 8), nn.Linear(4, 8)])

    def logits(self, batch):
        x = batch.x.to(self.net[0].weight.dtype)
        return self.net[1:](self.net[0](x) + self.branches[self.rank](x))


def turns(processes, folder, strategy):
    unused = {"find_unused_parameters": True} if strategy == "ddp" else {}
    config = toy_run(**{**TOY, "strategy": strategy, **unused})
    torch.manual_seed(0)
    problem = replace(config.open(share=processes.share), task=Turns(processes.share.rank).double())
    session(config, folder, problem=problem, processes=processes)


@pytest.mark.skipif(
    not hasattr(FSDPModule, "set_reduce_scatter_unused_params"),
    reason="this PyTorch cuts gradients of used layers alone",
)
def test_processes_that_use_different_layers_train_all_of_them(tmp_path):
    for strategy in ("ddp", "fsdp"):
        together(2, turns, tmp_path / strategy, strategy)
    assert_same_losses(tmp_path / "fsdp", tmp_path / "ddp")
    assert_same_weights(tmp_path / "fsdp", tmp_path / "ddp")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"compile": True}, "compile=true"),
        ({"batch_size": "auto"}, "batch_size=auto"),
        ({"histograms": {}, "log": {"trackers": ["tensorboard"]}}, "histograms"),
        ({"on_nonfinite": "rollback", "rollback": {"keep_on": "host"}}, "rollback.keep_on=host"),
    ],
)
def test_what_needs_whole_weights_is_refused(changes, word):
    with pytest.raises(ValueError, match=f"{word} needs whole weights, and strategy=fsdp keeps parts"):
        toy_run(**FSDP, **changes)


def test_layers_to_gather_do_nothing_without_shards():
    assert toy_run(fsdp={"layers": "net.*"}).without_effect()["fsdp"] == "nothing is in shards (strategy=ddp)"
