"""What is frozen keeps its bits, in the live weights and in their average; everything else learns."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sightline.config.errors import ConfigError
from sightline.engine.building import build_training
from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.engine.ema import Ema, EmaConfig
from sightline.engine.freeze import describe_frozen, freeze
from sightline.engine.task import Task
from tests.engine.sessions import StopAt, session
from tests.engine.toy import ToyTask, toy_run

FIRST_LAYERS = ("net.0.*", "net.1.*")
OF_FIRST_LAYERS = {
    "net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias", "net.1.running_mean", "net.1.running_var",
    "net.1.num_batches_tracked",
}  # fmt: skip
OF_THE_HEAD = {"net.4.weight", "net.4.bias"}


def run(config, folder: Path, **options) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of the newest checkpoint afterwards, by group."""
    session(config, folder, **options)
    return load_tensors(newest_whole(folder, print))


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if bits(before[name]) != bits(after[name])}


def start_of(config) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in config.open().task.state_dict().items()}


@pytest.mark.parametrize("changes", [{}, {"optimizer": {"kind": "adamw", "weight_decay": 0.1}}, {"precision": "bf16"}])
def test_frozen_tensors_keep_their_bits_and_the_others_learn(tmp_path, changes):
    config = toy_run(freeze=FIRST_LAYERS, **changes)
    after = run(config, tmp_path / "a")
    for group in ("model", "ema"):
        assert after[group].keys() == start_of(config).keys()  # a checkpoint holds all weights
        assert changed(start_of(config), after[group]) == OF_THE_HEAD


def test_without_freezing_everything_learns(tmp_path):
    after = run(toy_run(), tmp_path / "a")
    assert changed(start_of(toy_run()), after["model"]) == OF_FIRST_LAYERS | OF_THE_HEAD


def test_a_negative_zero_stays_one_in_the_average():
    # -0.0 + w * (-0.0 - -0.0) is +0.0: averaging a constant changes its bits.
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, -0.0)
    averaged, constant = Ema(EmaConfig(decay=0.9, ramp=0), layer), Ema(EmaConfig(), layer, constant=["weight"])
    averaged.update()
    constant.update()
    assert bits(averaged.state_tensors()["weight"]) != bits(layer.weight)
    assert bits(constant.state_tensors()["weight"]) == bits(layer.weight)


def test_a_run_keeps_a_frozen_negative_zero_too(tmp_path):
    start = start_of(toy_run())
    start["net.0.weight"][0] = -0.0
    save_file(start, tmp_path / "start.safetensors")
    after = run(toy_run(freeze=FIRST_LAYERS, weights=tmp_path / "start.safetensors"), tmp_path / "a")
    for group in ("model", "ema"):
        assert changed(start, after[group]) == OF_THE_HEAD


def test_an_evaluation_sees_frozen_weights_beside_averaged_ones():
    config = toy_run(freeze=FIRST_LAYERS)
    training = build_training(config, config.open())
    live = {name: tensor.clone() for name, tensor in training.task.state_dict().items()}
    with torch.no_grad():
        training.task.net[4].weight.add_(1.0)
    with training.ema.swapped():
        assert changed(live, training.task.state_dict()) == set()


def test_frozen_parameters_belong_to_no_group_and_have_no_state(tmp_path):
    config = toy_run(freeze=FIRST_LAYERS)
    groups = build_training(config, config.open()).optimizer.groups
    assert {name for group in groups for name in group.names} == OF_THE_HEAD
    state = run(config, tmp_path / "a")["optimizer"]
    assert state
    assert not [name for name in state if "net.0." in name or "net.1." in name]


def test_a_resumed_run_keeps_frozen_what_was_frozen(tmp_path):
    config = toy_run(freeze=FIRST_LAYERS)
    whole = run(config, tmp_path / "whole")
    for step in (5, 14):
        with pytest.raises(CallbackError):
            run(config, tmp_path / "broken", resume=step > 5, callbacks=[StopAt(step)])
    broken = run(config, tmp_path / "broken", resume=True)
    for group, tensors in whole.items():
        assert changed(tensors, broken[group]) == set()


def test_layers_stay_in_evaluation_mode_through_every_change_of_mode(tmp_path):
    modes = []

    class Look(Callback):
        def on_step_end(self, training, report):
            modes.append([layer.training for layer in training.task.net])

    run(toy_run(freeze=FIRST_LAYERS), tmp_path / "a", callbacks=[Look()])  # evaluates after each of 4 epochs
    assert modes == [[False, False, True, True, True]] * 24
    task = ToyTask()
    freeze(task, FIRST_LAYERS)
    for mode in (True, False, True):
        assert task.train(mode) is task
        assert not task.net[1].training
        assert task.net[4].training is mode


class Wrapper(nn.Module):
    """As those that spread a module over processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_a_module_around_the_task_changes_nothing():
    task = ToyTask()
    freeze(task, FIRST_LAYERS)
    outer = Wrapper(task).train()
    assert not task.net[1].training
    assert describe_frozen(outer) == "56 parameters (4 tensors), statistics of 1 normalisation layer"  # 4 * 8 + 3 * 8


def test_frozen_early_layers_have_no_graph():
    task = ToyTask()
    x = torch.ones(3, 4)
    assert task.net[:3](x).grad_fn is not None
    freeze(task, FIRST_LAYERS)
    assert task.net[:4](x).grad_fn is None
    assert task.net(x).grad_fn is not None


def test_statistics_alone_can_be_frozen(tmp_path):
    config = toy_run(freeze="*.running_*")
    after = run(config, tmp_path / "a")
    kept = {"net.1.running_mean", "net.1.running_var", "net.1.num_batches_tracked"}
    for group in ("model", "ema"):
        assert changed(start_of(config), after[group]) == (OF_FIRST_LAYERS | OF_THE_HEAD) - kept


@pytest.mark.parametrize("patterns", [("net.1.*",), ("net.1.weight", "net.1.bias"), ("net.1.bias", "*.running_mean")])
def test_a_norm_whose_parameters_are_frozen_keeps_its_statistics(patterns):
    task = ToyTask()
    freeze(task, patterns)
    assert not task.train().net[1].training


def test_a_norm_that_still_learns_its_scale_measures_on():
    task = ToyTask()
    freeze(task, ["net.1.bias"])
    assert task.train().net[1].training
    assert describe_frozen(task) == "8 parameters (1 tensors)"


class Parts(Task):
    """A part with dropout inside, a norm without parameters, two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4, affine=False))
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.ones(1))


def test_a_part_that_is_frozen_whole_has_no_dropout():
    task = Parts()
    names = freeze(task, ["part.*"])
    assert not any(module.training for module in task.train().part.modules())
    assert {"part.0.weight", "part.2.running_var"} <= names
    assert not any(name.startswith(("first", "last", "scale")) for name in names)


def test_a_shared_weight_is_frozen_under_both_of_its_names():
    task = Parts()
    assert {"first.weight", "last.weight"} <= freeze(task, ["last.weight"])
    assert not task.first.weight.requires_grad
    assert task.first.bias.requires_grad


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("net.0", "Did you mean 'net.0.*'"),
        ("0.weight", "Did you mean 'net.0.weight'"),
        ("1", "Did you mean 'net.1.*'"),
        ("net.7.*", "The nearest are 'net.4.*', 'net.1.*', 'net.0.*'"),
        ("backbone.*", "The parts of the model are 'net.0.*', 'net.1.*', 'net.4.*'"),
        ("*", "all 6 parameters: nothing is left to train"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused_with_what_may_be(pattern, words):
    with pytest.raises(ConfigError) as error:
        freeze(ToyTask(), [pattern])
    assert words in str(error.value)


def test_a_constant_needs_no_freezing():
    with pytest.raises(ConfigError, match="'scale' fits nothing that training would change"):
        freeze(Parts(), ["scale"])


def test_a_single_pattern_needs_no_brackets():
    assert toy_run(freeze="net.0.*").freeze == ("net.0.*",)
