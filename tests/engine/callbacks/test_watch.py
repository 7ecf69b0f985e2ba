"""Figures of layers are those of their tensors, and looking at them changes nothing."""

import json

import pytest
import torch

from sightline.config.errors import ConfigError
from sightline.engine.callback import Callback
from sightline.engine.callbacks.watch import Moments, WatchConfig, moments_of
from sightline.engine.tensor_names import matching_layers
from sightline.engine.trackers.tracker import tag_of
from tests.engine.sessions import session
from tests.engine.toy import ToyTask, toy_run


def run(folder, callbacks=(), **changes):
    return session(toy_run(**changes), folder, callbacks=callbacks)


def rows(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["values"] for row in map(json.loads, lines) if row["kind"] == kind}


def test_moments_of_several_tensors_are_those_of_all_their_values():
    parts = [torch.tensor([1.0, 0, -3]), torch.tensor([[0.0, 2], [5, 0]])]
    joined = Moments(*moments_of(parts[0]).tolist()).joined(Moments(*moments_of(parts[1]).tolist()))
    # 1, 0, -3, 0, 2, 5, 0: the sum is 5, the sum of squares is 39.
    assert joined == pytest.approx((7, 5 / 7, 39 / 7 - 25 / 49, 5, 3))


def test_a_nan_in_either_part_is_seen():
    whole, spoiled = Moments(2, 0, 1, 1, 0), Moments(2, float("nan"), 1, float("nan"), 0)
    assert whole.joined(spoiled).max_abs != whole.joined(spoiled).max_abs
    assert spoiled.joined(whole).max_abs != spoiled.joined(whole).max_abs


class Spy(Callback):
    """Keeps what the first layer puts out and the gradient of it, at one step, by means of its own."""

    def __init__(self, step):
        self.step, self.outputs, self.gradients = step, [], []

    def on_run_start(self, training):
        def see(layer, inputs, output):
            if training.step == self.step - 1 and layer.training:
                self.outputs.append(output.detach().clone())
                output.register_hook(lambda gradient: self.gradients.append(gradient.clone()))

        training.task.net[0].register_forward_hook(see)


@pytest.mark.parametrize("every", [1, 2], ids=["one", "accumulated"])
def test_figures_are_those_of_what_the_layer_put_out(tmp_path, every):
    spy = Spy(step=4)
    watch = {"layers": ["net.0"], "every_steps": 4}
    run(tmp_path / "a", [spy], watch=watch, accumulation={"every": every}, epochs=2)
    found = rows(tmp_path / "a", "watch")
    assert set(found) == ({4, 8, 12} if every == 1 else {4})
    for kind, tensors in (("activation", spy.outputs), ("gradient", spy.gradients)):
        assert len(tensors) == every
        values = torch.cat([tensor.flatten() for tensor in tensors]).double()
        assert found[4][f"net.0/{kind}/mean"] == pytest.approx(values.mean().item(), rel=1e-5, abs=1e-9)
        assert found[4][f"net.0/{kind}/std"] == pytest.approx(values.std(correction=0).item(), rel=1e-5)
        assert found[4][f"net.0/{kind}/max_abs"] == pytest.approx(values.abs().max().item())
        assert found[4][f"net.0/{kind}/zeros"] == (values == 0).double().mean().item()


def test_gradients_do_not_carry_the_scale_of_fp16(tmp_path):
    run(tmp_path / "plain", watch={"layers": "net.4", "every_steps": 3}, epochs=1)
    run(tmp_path / "half", watch={"layers": "net.4", "every_steps": 3}, epochs=1, precision="fp16")
    plain, half = (rows(tmp_path / name, "watch")[3]["net.4/gradient/max_abs"] for name in ("plain", "half"))
    assert half == pytest.approx(plain, rel=0.2)


def test_watching_changes_no_loss_and_leaves_no_hook(tmp_path):
    class Hooks(Callback):
        seen = ()

        def on_step_end(self, training, report):
            self.seen += (sum(len(part._forward_hooks) for part in training.task.modules()),)

        def on_run_end(self, training, outcome):
            self.on_step_end(training, None)

    hooks = Hooks()
    run(tmp_path / "plain")
    run(tmp_path / "watched", [hooks], watch={"layers": ["*"], "every_steps": 5})
    assert rows(tmp_path / "watched", "train") == rows(tmp_path / "plain", "train")
    assert rows(tmp_path / "watched", "eval") == rows(tmp_path / "plain", "eval")
    due = [step for step, count in enumerate(hooks.seen, start=1) if count]
    assert due == [4, 9, 14, 19, 24]  # the hooks wait for the step after, and not beyond the run's end, which is last


def test_evaluations_between_two_steps_are_not_counted(tmp_path):
    run(tmp_path / "often", watch={"layers": "net.2", "every_steps": 7})
    run(tmp_path / "once", watch={"layers": "net.2", "every_steps": 7}, evaluate={"every_epochs": 4})
    assert rows(tmp_path / "often", "watch") == rows(tmp_path / "once", "watch")
    assert list(rows(tmp_path / "often", "watch")) == [7, 14, 21]  # step 6 ends an epoch


def test_patterns_fit_whole_names_and_their_ends():
    task = ToyTask()
    assert list(matching_layers(task, ["net.[02]"], key="watch.layers")) == ["net.0", "net.2"]
    assert list(matching_layers(task, ["4", "net.1"], key="watch.layers")) == ["net.1", "net.4"]
    with pytest.raises(ConfigError, match=r"watch.layers: no layer is called 'net.7'. Did you mean 'net"):
        matching_layers(task, ["net.0", "net.7"], key="watch.layers")


def test_trackers_show_them_in_a_group_of_their_own():
    assert tag_of("watch", "net.0/activation/mean") == "watch/net.0/activation/mean"


def test_a_compiled_model_is_not_watched():
    with pytest.raises(ValueError, match="compile=false"):
        toy_run(watch=WatchConfig(layers=("net.0",)), compile=True)
