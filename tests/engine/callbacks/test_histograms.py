"""Histograms count what there is, and cost nothing in other steps."""

import numpy as np
import pytest
import torch

from sightline.config.errors import ConfigError
from sightline.engine.callback import Callback
from sightline.engine.callbacks.histograms import BINS, histograms_of
from tests.engine.sessions import session
from tests.engine.toy import toy_run


def test_counts_are_those_of_numpy():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    found = histograms_of({"x": values})["x"]
    counts, edges = np.histogram(values.numpy(), bins=BINS)
    assert (found.low, found.high) == pytest.approx((edges[0], edges[-1]))
    # A value that lies on an edge to the last bit may fall to either side.
    assert np.abs(np.cumsum(found.counts) - np.cumsum(counts)).max() <= 1
    assert found.total == pytest.approx(values.double().sum().item(), rel=1e-4)
    assert found.squares == pytest.approx(values.double().square().sum().item(), rel=1e-5)


def test_values_that_are_not_finite_are_left_out():
    found = histograms_of({"x": torch.tensor([1.0, float("nan"), 3, float("inf"), -float("inf")])})["x"]
    assert (found.low, found.high, found.total, sum(found.counts)) == (1, 3, 4, 2)


def test_a_constant_falls_into_one_bin():
    found = histograms_of({"x": torch.full((2, 3), 5.0)})["x"]
    assert (found.low, found.high, max(found.counts), sum(found.counts)) == (5, 5, 6, 6)


def test_a_tensor_without_values_has_none():
    assert histograms_of({"x": torch.zeros(0), "y": torch.zeros(2)}).keys() == {"y"}


def histograms_in(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    events.Reload()
    tags = events.Tags()["histograms"]
    return {tag: {event.step: event.histogram_value for event in events.Histograms(tag)} for tag in tags}


class Spy(Callback):
    """The weight after step 6, and the gradient that the optimizer took in it."""

    def on_run_start(self, training):
        parameter, step = training.task.net[0].weight, training.optimizer.step

        def seen(values, *, found_inf=None):
            if training.step == 5:
                self.gradient = parameter.grad.clone()
            step(values, found_inf=found_inf)

        training.optimizer.step = seen

    def on_step_end(self, training, report):
        if report.step == 6:
            self.weight = training.task.net[0].weight.detach().clone()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorboard_shows_weights_and_the_gradients_that_were_taken(tmp_path, precision):
    spy = Spy()
    log = {"every_steps": 4, "trackers": ["tensorboard"], "train_pictures": 0, "eval_pictures": 0}
    config = toy_run(histograms={"every_steps": 3}, log=log, epochs=2, max_grad_norm=0.1, precision=precision)
    session(config, tmp_path, callbacks=[spy])
    found = histograms_in(tmp_path)
    names = {"net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias", "net.4.weight", "net.4.bias"}
    assert set(found) == {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    for kind, tensor in (("weights", spy.weight), ("gradients", spy.gradient)):
        shown = found[f"{kind}/net.0.weight"]
        assert set(shown) == {3, 6, 9, 12}
        assert shown[6].num == tensor.numel()
        assert (shown[6].min, shown[6].max) == pytest.approx((tensor.min().item(), tensor.max().item()))
        assert shown[6].sum == pytest.approx(tensor.sum().item(), rel=1e-4, abs=1e-6)
        assert sum(shown[6].bucket) == tensor.numel()


@pytest.mark.parametrize("accumulation, expected", [({}, {0, 12, 24}), ({"every": 4}, {0, 4, 8})])
def test_by_epochs_they_are_those_of_the_first_weights_and_of_the_last_step_of_epochs(tmp_path, accumulation, expected):
    # An epoch has 6 batches: 6 steps, or with four batches a step 2, of which the second has two batches.
    log = {"every_steps": 4, "trackers": ["tensorboard"], "train_pictures": 0, "eval_pictures": 0}
    histograms = {"every_steps": 0, "every_epochs": 2}
    session(toy_run(histograms=histograms, log=log, epochs=5, accumulation=accumulation), tmp_path)
    found = histograms_in(tmp_path)
    assert set(found["weights/net.0.weight"]) == expected
    assert set(found["gradients/net.0.weight"]) == expected - {0}


def test_by_steps_and_epochs_each_step_is_shown_once_and_none_of_an_epoch_that_is_cut(tmp_path):
    log = {"every_steps": 4, "trackers": ["tensorboard"], "train_pictures": 0, "eval_pictures": 0}
    histograms = {"every_steps": 4, "every_epochs": 1}
    session(toy_run(histograms=histograms, log=log, epochs=None, steps=13), tmp_path)
    assert set(histograms_in(tmp_path)["weights/net.0.weight"]) == {0, 4, 6, 8, 12}


def test_histograms_that_never_come_are_refused():
    with pytest.raises(ValueError, match="both 0: give one of them, or histograms=null"):
        toy_run(histograms={"every_steps": 0})


def test_they_change_no_bit_of_a_run(tmp_path):
    for name, histograms in (("plain", None), ("seen", {"every_steps": 2})):
        log = {"every_steps": 4, "trackers": ["tensorboard"], "train_pictures": 0, "eval_pictures": 0}
        session(toy_run(histograms=histograms, log=log, epochs=2), tmp_path / name)
    assert (tmp_path / "seen" / "metrics.jsonl").read_bytes() == (tmp_path / "plain" / "metrics.jsonl").read_bytes()


def test_without_tensorboard_they_would_be_shown_nowhere():
    from sightline.api import resolve

    with pytest.raises(ConfigError, match=r"histograms.every_steps=5 has no effect: they are shown by TensorBoard"):
        resolve("yolov7-tiny", ["histograms.every_steps=5", "log.trackers=[csv]"])
