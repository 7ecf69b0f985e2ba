"""A run of several processes is the run of one: the same samples, losses, weights and figures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sightline import api
from sightline.config.errors import ConfigError
from sightline.engine.building import build_training, settle
from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.engine.distributed.joining import _agreed
from sightline.engine.distributed.processes import ALONE, LostProcessError, Processes, is_lost
from sightline.engine.stop import StopRequest
from tests.engine.sessions import final_state, session
from tests.engine.toy import ToyTask, toy_run
from tests.faults.tiny import changes_with
from tests.together import together

TOY = {"dropout": 0.0, "log": {"every_steps": 1, "trackers": [], "train_pictures": 0, "eval_pictures": 0}}


class Seen(Callback):
    """Samples of every step, in every process; asks for a stop at a step, in the last process alone."""

    in_every_process = True

    def __init__(self):
        self.sample_ids = []

    def on_step_end(self, training, report):
        self.sample_ids.append(report.sample_ids)


def toy(processes, folder, changes, resume=False):
    config = toy_run(**{**TOY, **changes})
    problem = config.open(share=processes.share)
    problem.task.double()
    return live(processes, config, problem, folder, resume)


def detector(processes, folder, changes):
    """The tiny detector, in double precision like the toy: what rounding does in single precision grows by training."""
    torch.set_num_threads(1)
    config = settle(api.resolve("yolov7-tiny", changes_with("channels_last=false", *changes))[0])
    problem = config.open(share=processes.share)
    problem.task.double()
    return live(processes, config, problem, folder, False)


def live(processes, config, problem, folder, resume):
    seen = Seen()
    result = session(config, folder, problem=problem, resume=resume, callbacks=[seen], processes=processes)
    return result.outcome, result.step, result.metrics, seen.sample_ids


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def samples_by_step(results):
    """Sorted samples of all processes together, step by step."""
    return [sorted(sum(parts, ())) for parts in zip(*(seen for *_, seen in results), strict=True)]


def assert_same_losses(folder, alone, *, tolerance=1e-6):
    assert len(rows(folder)) == len(rows(alone))
    for found, wanted in zip(rows(folder), rows(alone), strict=True):
        assert (found["step"], found["epoch"], found["kind"]) == (wanted["step"], wanted["epoch"], wanted["kind"])
        assert found["values"] == pytest.approx(wanted["values"], rel=tolerance, abs=tolerance)


def weights(folder):
    return load_tensors(newest_whole(folder, print))


def assert_same_weights(folder, alone, *, tolerance=1e-6):
    for group, tensors in weights(alone).items():
        found = weights(folder)[group]
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                found[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, n=name, g=group: f"{g}: {n}: {m}"
            )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulation": {"every": 4}, "max_grad_norm": 0.5},
        {"optimizer": {"kind": "adamw"}, "batch_size": 5},  # the last batch has two samples: none for a third process
        {"sync_batch_norm": False, "data_samples": 24, "batch_size": 6},  # without common statistics losses differ
    ],
)
def test_processes_see_the_samples_and_take_the_steps_of_one(tmp_path, changes):
    alone = together(1, toy, tmp_path / "1", changes)
    for count in (2, 3):
        results = together(count, toy, tmp_path / str(count), changes)
        assert {result[:2] for result in results} == {alone[0][:2]}
        assert samples_by_step(results) == samples_by_step(alone)
        if changes.get("sync_batch_norm", True):
            assert_same_losses(tmp_path / str(count), tmp_path / "1")
            assert_same_weights(tmp_path / str(count), tmp_path / "1")
            assert all(result[2] == alone[0][2] for result in results), "every process knows the figures"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("assignment", "counts"), [("anchor", [3]), ("ota", [2, 3])])
def test_a_detector_with_boxes_spread_unevenly_trains_the_same_in_1_2_and_3_processes(tmp_path, assignment, counts):
    changes = [f"model.loss.assignment={assignment}", "epochs=7", "evaluate.every_epochs=7", "batch_size=4"]
    changes += ["lr=1e-4", "schedule.warmup.bias_lr=1e-4"]  # large steps would make noise of 1e-16 grow to 1e-6
    alone = together(1, detector, tmp_path / "1", changes)
    assert alone[0][1] == 21
    for count in counts:
        results = together(count, detector, tmp_path / str(count), changes)
        assert samples_by_step(results) == samples_by_step(alone)
        assert_same_losses(tmp_path / str(count), tmp_path / "1")
        found, wanted = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in (str(count), "1"))
        assert found == wanted


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    seen = []
    for count, epochs, resume in ((2, 1, False), (1, 2, True), (3, 4, True)):
        results = together(count, toy, tmp_path / "changing", {"epochs": epochs, "schedule": {}}, resume)
        seen += samples_by_step(results)
    whole = samples_by_step(together(1, toy, tmp_path / "whole", {"schedule": {}}))
    assert seen == whole, "every sample once an epoch, in the order of one process"
    assert_same_weights(tmp_path / "changing", tmp_path / "whole")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_resumed_run_of_two_processes_has_the_bits_of_an_unbroken_one(tmp_path, strategy):
    changes = {"schedule": {}, "strategy": strategy}
    together(2, toy, tmp_path / "unbroken", changes)
    together(2, toy, tmp_path / "broken", {**changes, "epochs": 2})
    together(2, toy, tmp_path / "broken", changes, True)
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "unbroken")


class StopInEvaluation(Callback):
    """Asks for a stop at the beginning of the first evaluation, in the last process alone."""

    in_every_process = True

    def __init__(self, stop):
        self.stop = stop

    def on_evaluation_start(self, training):
        if training.processes.share.rank == training.processes.share.count - 1:
            self.stop.ask("the test")


def stopped_in_evaluation(processes, folder, changes):
    config = toy_run(**{**TOY, **changes})
    problem, stop = config.open(share=processes.share), StopRequest()
    problem.task.double()
    callbacks = [StopInEvaluation(stop)]
    result = session(config, folder, problem=problem, callbacks=callbacks, processes=processes, stop=stop)
    return result.outcome, result.step


@pytest.mark.parametrize(("count", "strategy"), [(1, "ddp"), (2, "ddp"), (2, "fsdp")])
def test_a_stop_in_an_evaluation_leaves_the_step_that_was_evaluated(tmp_path, count, strategy):
    changes = {"strategy": strategy}
    together(count, toy, tmp_path / "unbroken", changes)
    ended = together(count, stopped_in_evaluation, tmp_path / "broken", changes)
    per_epoch = rows(tmp_path / "unbroken")[-1]["step"] // toy_run().epochs
    assert ended == [("stopped", per_epoch)] * count
    together(count, toy, tmp_path / "broken", changes, True)
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "unbroken")
    assert (tmp_path / "broken/metrics.jsonl").read_bytes() == (tmp_path / "unbroken/metrics.jsonl").read_bytes()


class Failing(Callback):
    """Fails at the first step, and keeps what it is told at the end."""

    in_every_process = True

    def on_step_end(self, training, report):
        raise RuntimeError("the test")

    def on_run_end(self, training, outcome):
        self.outcome = outcome


def failed(processes, folder):
    callback = Failing()
    with pytest.raises(CallbackError):
        session(toy_run(**TOY), folder, callbacks=[callback], processes=processes)
    return callback.outcome


def test_callbacks_of_every_process_are_told_of_a_failure(tmp_path):
    assert together(2, failed, tmp_path / "run") == ["failed", "failed"]


def test_of_different_configurations_the_keys_that_differ_are_named():
    class Follower(Processes):
        def tell(self, value):
            return toy_run(early_stopping={"patience": 3}).model_dump(mode="json")

    keys = "early_stopping, early_stopping.patience, early_stopping.min_delta, early_stopping.by"
    with pytest.raises(ConfigError, match=f"the first one: {keys} differ"):
        _agreed(toy_run(), Follower(), toy_run)


def test_a_share_without_samples_needs_common_batch_norm():
    config = toy_run(data_samples=21, sync_batch_norm=False)

    class Two:
        share = type("Share", (), {"rank": 0, "count": 2})
        is_first = True

    with pytest.raises(ConfigError, match="1 samples for 2 processes"):
        build_training(config, config.open(), Two())
    build_training(config, config.open(), ALONE)


def refusal(processes, folder, changes, figures):
    """What a process says of a figure that nobody gives."""
    config = toy_run(**{**TOY, "data_samples": 20, **changes})
    problem = replace(config.open(share=processes.share), figures=figures)
    folder.mkdir(exist_ok=True)
    with pytest.raises(ConfigError) as caught:
        session(config, folder, problem=problem, processes=processes)
    return str(caught.value)


@pytest.mark.parametrize(
    "changes, figures, words",
    [
        ({"evaluate": {"loss": True, "best": {"metric": "loss/entrpy"}}}, ("accuracy",), "'loss/entropy'"),
        ({"evaluate": {"best": {"metric": "accurcy"}}}, (), "'accuracy'"),
    ],
)
def test_all_processes_refuse_a_figure_that_a_batch_does_not_give(tmp_path, changes, figures, words):
    said = together(2, refusal, tmp_path / "run", changes, figures)
    assert said[0] == said[1] and f"Did you mean {words}?" in said[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


class Branches(ToyTask):
    """One branch is never taken, the other by sample 3 alone."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.never, self.sometimes = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)

    def logits(self, batch):
        logits, third = super().logits(batch), torch.tensor([i == 3 for i in batch.sample_ids], dtype=torch.bool)
        if not third.any():
            return logits
        return logits + third[:, None] * self.sometimes(batch.x.to(logits.dtype))


def branches(processes, folder, changes):
    config = toy_run(**{**TOY, **changes})
    problem = replace(config.open(share=processes.share), task=Branches(config.width, 0.0).double())
    return live(processes, config, problem, folder, False)


@pytest.mark.parametrize("changes", [{}, {"accumulation": {"every": 2}}, {"optimizer": {"kind": "adamw"}}])
def test_parameters_that_take_no_part_in_a_step_are_found_where_that_is_asked_for(tmp_path, changes):
    changes = {"find_unused_parameters": True, **changes}
    alone = together(1, branches, tmp_path / "1", changes)
    both = together(2, branches, tmp_path / "2", changes)
    assert samples_by_step(both) == samples_by_step(alone)
    assert_same_losses(tmp_path / "2", tmp_path / "1")
    assert_same_weights(tmp_path / "2", tmp_path / "1")


def refused_step(processes, folder, changes):
    with pytest.raises(ConfigError) as caught:
        branches(processes, folder, changes)
    return str(caught.value)


def test_without_that_the_first_such_step_is_refused_with_their_names(tmp_path):
    said = together(2, refused_step, tmp_path / "run", {"freeze": ["sometimes.*"]})
    assert (
        said[0]
        == said[1]
        == (
            "find_unused_parameters=false: 2 of 8 parameters take no part in a step: never.weight, never.bias. Several "
            "processes wait for the gradients of all that are trained. Let a loss depend on them, leave them out of "
            "training (freeze), or set find_unused_parameters=true, which looks for them in every step."
        )
    )
    assert rows(tmp_path / "run") == [], "no step was taken with the gradients of one process"
    together(2, branches, tmp_path / "frozen", {"freeze": ["sometimes.*", "never.*"]})


def end_of_step(processes, folder, changes):
    """How a process ends where parameters may be missing in one of them."""
    try:
        branches(processes, folder, changes)
    except (ConfigError, LostProcessError) as error:
        processes.close()
        processes.wait = lambda: None  # there is nobody to wait for
        return type(error).__name__


def test_a_parameter_that_one_process_alone_leaves_out_ends_all(tmp_path):
    ends = together(2, end_of_step, tmp_path / "run", {"freeze": ["never.*"], "data_samples": 4, "batch_size": 4})
    assert sorted(ends) == ["ConfigError", "LostProcessError"], "sample 3 is in the share of one process"


class InTurns(ToyTask):
    """A branch that every second batch takes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.every_second, self.calls = torch.nn.Linear(4, 2), 0

    def logits(self, batch):
        self.calls += self.training
        logits = super().logits(batch)
        return logits + self.every_second(batch.x) if self.calls % 2 else logits


def refused_window(processes, folder):
    config = toy_run(**TOY, data_samples=8, accumulation={"every": 2}, epochs=1)
    problem = replace(config.open(share=processes.share), task=InTurns(config.width, 0.0))
    with pytest.raises(ConfigError, match=r"2 of 8 parameters .*: every_second\.weight, every_second\.bias\. "):
        live(processes, config, problem, folder, False)


def test_a_parameter_that_only_an_earlier_micro_batch_of_the_last_window_used_is_refused_too(tmp_path):
    together(2, refused_window, tmp_path / "run")
    assert rows(tmp_path / "run") == []


def talk(processes):
    rank = processes.share.rank
    told = processes.tell({"from": rank, "nan": float("nan"), "text": "ü"})
    gathered = processes.gather(bytes([rank]) * (3 * rank))
    asked = [processes.any_asks(step == 2 and rank == 1) for step in range(5)]
    return told["from"], gathered, asked, processes.any_asks_now(rank == 0)


def test_small_things_travel():
    results = together(3, talk)
    assert [told for told, *_ in results] == [0, 0, 0]
    assert [gathered for _, gathered, *_ in results] == [[b"", b"\1" * 3, b"\2" * 6], [], []]
    assert {tuple(asked) for _, _, asked, _ in results} == {(False, False, False, True, False)}, "one round later"
    assert all(now for *_, now in results)


@pytest.mark.parametrize("changes", [{}, {"max_grad_norm": 0.5, "optimizer": {"kind": "adamw"}}])
def test_one_batch_of_8_and_two_accumulated_ones_of_4_take_equal_steps(tmp_path, changes):
    common = {
        **changes,
        "schedule": {"interval": "step", "kind": "cosine"},
        "freeze": ["*.running_*"],
        "data_samples": 20,
    }
    together(1, toy, tmp_path / "whole", {**common, "batch_size": 8})
    for batch_size, every in ((4, 2), (2, 4)):
        cut = {**common, "batch_size": batch_size, "accumulation": {"every": every}}
        together(1, toy, tmp_path / str(every), cut)
        assert_same_weights(tmp_path / str(every), tmp_path / "whole")
    together(2, toy, tmp_path / "two", {**common, "batch_size": 4, "accumulation": {"every": 2}})
    assert_same_weights(tmp_path / "two", tmp_path / "whole")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("assignment", ["anchor", "ota"])
def test_a_detector_accumulates_by_boxes_where_it_is_to_be_exact(tmp_path, assignment):
    fixed = ["freeze=*.running_*", "schedule.warmup.epochs=0", "schedule.warmup.iterations=0", "epochs=3", "ema.ramp=0"]
    fixed += ["schedule.warmup.bias_lr=null", "schedule.warmup.momentum=null", "schedule.warmup.max_fraction=null"]
    fixed += [f"model.loss.assignment={assignment}", "evaluate.every_epochs=3", "accumulation.nominal_batch_size=null"]
    fixed += ["accumulation.gradient=mean", "optimizer.decay_follows_batch=false", "lr=1e-3"]
    together(1, detector, tmp_path / "whole", [*fixed, "batch_size=8"])
    cut = [*fixed, "batch_size=4", "accumulation.every=2"]
    together(1, detector, tmp_path / "cut", [*cut, "accumulation.exact=true"])
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")
    together(1, detector, tmp_path / "parts", [*cut, "accumulation.exact=true", "samples_at_once=3"])
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")
    together(1, detector, tmp_path / "rough", cut)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "rough", tmp_path / "whole")


def test_errors_of_an_exchange_are_known_from_others():
    assert is_lost(LostProcessError("gone"))
    assert is_lost(torch.distributed.DistBackendError("remote process exited"))
    assert is_lost(RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [x]:1"))
    assert is_lost(RuntimeError("NCCL communicator was aborted on rank 1"))
    assert not is_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost(ConnectionResetError("Connection reset by peer"))
