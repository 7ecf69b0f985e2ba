"""Steps that are not finite: named, left out or undone, alike in all processes, and with the same bits after a kill."""

import io
import json
import os
import signal

import pytest
import torch

from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.engine.checkpoint.saving import live_tensors
from sightline.engine.culprit import non_finite_names
from sightline.engine.distributed.sharding import own_parts
from sightline.engine.finite import NonFiniteError
from sightline.engine.run_folder.nonfinite_log import NONFINITE_FILE
from tests.engine.sessions import StopAt, final_state, session
from tests.engine.toy import toy_run
from tests.faults.tiny import train as train_detector
from tests.together import together

ROLLBACK = {"on_nonfinite": "rollback", "rollback": {"every_steps": 4}}


class Spoil(Callback):
    """Makes the output of a layer infinite, or its gradient NaN, in chosen steps (counted as they are taken before)."""

    in_every_process = True

    def __init__(self, *steps, layer="net.0", gradient=False, rank=None):
        self.steps, self.layer, self.gradient, self.rank = set(steps), layer, gradient, rank

    def on_run_start(self, training):
        if self.rank in (None, training.processes.share.rank):
            module = training.task.get_submodule(self.layer)
            module.register_forward_hook(lambda module, inputs, output: self.spoil(training, output))

    def spoil(self, training, output):
        if training.step not in self.steps:
            return output
        if self.gradient and output.requires_grad:
            output.register_hook(lambda gradient: gradient * float("nan"))
        return output if self.gradient else output * torch.inf


class States(Callback):
    """Copies of everything after every step."""

    in_every_process = True

    def __init__(self):
        self.after = {}

    def on_step_end(self, training, report):
        self.after[report.step] = {
            f"{group}/{name}": own_parts([tensor])[0].clone()
            for group, members in live_tensors(training).items()
            for name, tensor in members.items()
        }


def events(folder):
    path = folder / NONFINITE_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def are_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": {"kind": "adamw"}}, {"rollback": {"every_steps": 4, "keep_on": "host"}}]
)
def test_a_rollback_brings_everything_back_and_goes_on_with_the_next_samples(tmp_path, changes):
    states, seen = States(), []

    class See(Callback):
        def on_step_end(self, training, report):
            seen.append(report.sample_ids)

    result = session(toy_run(**{**ROLLBACK, **changes}), tmp_path / "a", callbacks=[Spoil(10), states, See()])
    assert (result.outcome, result.step) == ("done", 24)
    assert are_equal(states.after[11], states.after[8])
    assert not are_equal(states.after[10], states.after[8])
    assert not are_equal(states.after[12], states.after[8])
    (event,) = events(tmp_path / "a")
    assert event == {
        "step": 10,
        "found": ["entropy", "size"],
        "first": "output of net.0 (Linear)",
        "samples": list(seen[10]),
        "action": "rollback to step 8",
    }
    session(toy_run(), tmp_path / "b", callbacks=[See()])
    assert seen[:24] == seen[24:], "no sample is seen again or left out for good"


def test_a_run_that_rolled_back_and_was_killed_ends_with_the_bits_of_the_unbroken_one(tmp_path):
    config = toy_run(**ROLLBACK, checkpoint={"every_steps": 5})
    bad = (2, 10, 11, 18)
    whole = session(config, tmp_path / "whole", callbacks=[Spoil(*bad)])
    assert [event["action"] for event in events(tmp_path / "whole")] == [
        "rollback to step 0", "rollback to step 7", "rollback to step 7", "rollback to step 16",
    ]  # fmt: skip
    for step in (6, 9, 12, 13, 17, 20):
        with pytest.raises(CallbackError, match="ZeroDivisionError: crash"):
            session(config, tmp_path / "broken", resume=step > 6, callbacks=[Spoil(*bad), StopAt(step)])
    result = session(config, tmp_path / "broken", resume=True, callbacks=[Spoil(*bad)])
    assert result.metrics == whole.metrics
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")
    assert events(tmp_path / "broken") == events(tmp_path / "whole")


def test_a_run_may_begin_to_roll_back_when_it_is_resumed(tmp_path):
    with pytest.raises(NonFiniteError, match=r"on_nonfinite=rollback"):
        session(toy_run(), tmp_path / "a", callbacks=[Spoil(10)])
    assert [event["action"] for event in events(tmp_path / "a")] == ["stop"]
    assert session(toy_run(**ROLLBACK), tmp_path / "a", resume=True, callbacks=[Spoil(10)]).outcome == "done"
    assert [event["action"] for event in events(tmp_path / "a")] == ["rollback to step 9"]


def test_rollbacks_have_an_end(tmp_path):
    with pytest.raises(NonFiniteError, match=r"at step 13; .* has returned 3 times to the state of step 8 already"):
        session(toy_run(**ROLLBACK), tmp_path / "a", callbacks=[Spoil(*range(10, 24))])
    often = {**ROLLBACK, "rollback": {"every_steps": 1, "most": 2}}
    with pytest.raises(NonFiniteError, match=r"at step 8; .* to a good state 2 times already"):
        session(toy_run(**often), tmp_path / "b", callbacks=[Spoil(4, 6, 8)])


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_gradient_is_looked_at_even_where_nobody_asked_for_its_norm(tmp_path, policy):
    session(toy_run(on_nonfinite=policy), tmp_path / "a", callbacks=[Spoil(5, gradient=True, layer="net.4")])
    (event,) = events(tmp_path / "a")
    assert (event["found"], event["first"]) == (["gradient norm"], "gradient of net.0.weight")
    assert not non_finite_names(load_tensors(newest_whole(tmp_path / "a", print))["model"])


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path):
    # Under "stop" nobody measures the gradient: it spoils the weights, and the next loss would tell.
    with pytest.raises(NonFiniteError, match=r"weights became NaN or infinite before step 6: net.0.weight"):
        session(toy_run(), tmp_path / "a", callbacks=[Spoil(5, gradient=True)])
    newest = newest_whole(tmp_path / "a", print)
    assert newest.step == 3
    assert not non_finite_names(load_tensors(newest)["model"])


class SpoilWeight(Callback):
    """An update too large for a number."""

    def on_step_end(self, training, report):
        if report.step == 10:
            with torch.no_grad():
                training.task.net[0].weight[0, 0] = torch.inf


def test_weights_that_are_not_finite_are_rolled_back_too(tmp_path):
    result = session(toy_run(**ROLLBACK), tmp_path / "a", callbacks=[SpoilWeight()])
    assert result.outcome == "done"
    (event,) = events(tmp_path / "a")
    assert (event["step"], event["first"]) == (10, "weight net.0.weight")


def test_the_first_bad_micro_batch_of_a_step_is_the_one_that_is_looked_into(tmp_path):
    class SpoilOnce(Spoil):
        def spoil(self, training, output):
            return output * torch.nan if training.iteration == 7 else output  # the second of three of step 2

    config = toy_run(on_nonfinite="skip", accumulation={"every": 3})
    session(config, tmp_path / "a", callbacks=[SpoilOnce(layer="net.1")])
    (event,) = events(tmp_path / "a")
    assert (event["step"], event["first"]) == (2, "output of net.1 (BatchNorm1d)")
    assert len(event["samples"]) == 12


def test_the_first_event_is_told_in_full_and_rollbacks_shortly(tmp_path):
    said = io.StringIO()
    session(toy_run(**ROLLBACK, epochs=2), tmp_path / "a", said=said, callbacks=[Spoil(5, 7)])
    lines = [line for line in said.getvalue().splitlines() if "finite" in line]
    assert lines[0].startswith("entropy, size became NaN or infinite at step 5; samples ")
    assert lines[0].endswith(
        "first in output of net.0 (Linear): rollback to step 4. Every such step is listed in nonfinite.jsonl"
    )
    assert lines[1:] == ["not finite again at step 7: rollback to step 4"]


def test_means_of_losses_leave_bad_steps_out(tmp_path):
    session(toy_run(**ROLLBACK, log={"every_steps": 4, "trackers": []}), tmp_path / "a", callbacks=[Spoil(10)])
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert all(isinstance(value, float | int) for row in rows for value in row["values"].values())


def toy(processes, folder, strategy="ddp"):
    config = toy_run(**ROLLBACK, strategy=strategy, dropout=0.0, log={"every_steps": 1, "trackers": []})
    problem = config.open(share=processes.share)
    problem.task.double()
    # In two processes one alone sees the bad batch, and its neighbour must do as it does.
    spoil = Spoil(10, 13, layer="net.4", rank=processes.share.count - 1)
    states = States()
    session(config, folder, problem=problem, processes=processes, callbacks=[spoil, states])
    return states.after


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_processes_roll_back_together_as_one_would(tmp_path, strategy):
    together(1, toy, tmp_path / "1")
    results = together(2, toy, tmp_path / "2", strategy)
    for step, state in results[0].items():
        assert strategy == "fsdp" or all(are_equal(other[step], state) for other in results[1:]), step
    assert are_equal(results[0][11], results[0][8])
    alone, found = events(tmp_path / "1"), events(tmp_path / "2")
    assert [sorted(event.pop("samples")) for event in found] == [sorted(event.pop("samples")) for event in alone]
    assert found == alone
    for (a, wanted), b in zip(
        load_tensors(newest_whole(tmp_path / "1", print)).items(),
        load_tensors(newest_whole(tmp_path / "2", print)).values(),
        strict=True,
    ):
        for name in wanted:
            torch.testing.assert_close(b[name], wanted[name], rtol=1e-6, atol=1e-6, msg=f"{a} {name}")


def interrupted(processes, folder, stop_at, resume, strategy):
    config = toy_run(**ROLLBACK, strategy=strategy, dropout=0.0)

    class Stop(Callback):
        in_every_process = True

        def on_step_end(self, training, report):
            if report.step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

    callbacks = [Spoil(10, 13, layer="net.4", rank=processes.share.count - 1), Stop()]
    return session(config, folder, resume=resume, processes=processes, callbacks=callbacks).outcome


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_that_are_stopped_between_rollbacks_end_with_the_bits_of_unbroken_ones(tmp_path, strategy):
    assert together(2, interrupted, tmp_path / "whole", None, False, strategy) == ["done"] * 2
    assert together(2, interrupted, tmp_path / "broken", 9, False, strategy) == ["stopped"] * 2
    assert together(2, interrupted, tmp_path / "broken", 13, True, strategy) == ["stopped"] * 2
    assert together(2, interrupted, tmp_path / "broken", None, True, strategy) == ["done"] * 2
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_that_have_gone_without_begin_to_keep_a_good_state_together(tmp_path, strategy):
    run = tmp_path / "run"

    def go_on(processes, epochs, resume, changes):
        config = toy_run(**{**changes, "strategy": strategy, "epochs": epochs, "schedule": {}, "dropout": 0.0})
        spoil = [Spoil(16, layer="net.4", rank=1)] if resume else []
        return session(config, run, resume=resume, processes=processes, callbacks=spoil).outcome

    assert together(2, go_on, 2, False, {}) == ["done"] * 2
    assert together(2, go_on, 4, True, ROLLBACK) == ["done"] * 2
    assert [event["action"] for event in events(run)] == ["rollback to step 16"]


def test_a_detector_names_the_layer_and_the_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    changes = ["epochs=3", "on_nonfinite=rollback", "rollback.every_steps=2", "log.eval_pictures=0"]
    changes += [f'callbacks=[{{file: "{__file__}", name: SpoilDetector}}]']
    assert train_detector(tmp_path / "a", *changes) == 0
    (event,) = events(tmp_path / "a")
    assert (event["step"], event["action"]) == (4, "rollback to step 4")
    assert event["first"] == "output of detector.network.layers.3.conv (Conv2d)"
    assert 1 <= len(event["samples"]) <= 4


class SpoilDetector(Spoil):
    def __init__(self):
        super().__init__(4, layer="detector.network.layers.3.conv")


def test_settings_of_rollbacks_need_rollbacks():
    assert "rollback" in toy_run().without_effect()
    assert "rollback" not in toy_run(**ROLLBACK).without_effect()


def test_a_senseless_period_is_refused():
    with pytest.raises(ValueError, match="every_steps"):
        toy_run(on_nonfinite="rollback", rollback={"every_steps": 0})
