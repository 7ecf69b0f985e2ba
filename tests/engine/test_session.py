import io
import json
import os
import shlex

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters

from sightline.config.errors import RunError
from sightline.engine.building import build_training
from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.checkpoint.reader import load_tensors, newest_whole
from sightline.engine.console import Console
from sightline.engine.finite import NonFiniteError
from sightline.engine.going_on import how_to_resume
from sightline.engine.run_folder.run_log import RunLog
from sightline.engine.run_folder.status import read_status
from tests.engine.sessions import StopAt, final_state, session
from tests.engine.toy import ToyTask, toy_run
from tests.forked import forked


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulation": {"every": 4}},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"optimizer": {"kind": "adamw"}, "max_grad_norm": 0.5},
        {"optimizer": {"kind": "mx_sgd"}, "max_grad_norm": 0.5},
        {"optimizer": {"kind": "mx_radam"}, "precision": "fp16"},
        {"on_nonfinite": "skip", "ema": None},
        {"accumulation": {"nominal_batch_size": 12, "gradient": "sum"}, "steps": 7, "epochs": None},
    ],
    ids=["plain", "accumulated", "bf16", "fp16", "adamw", "mx_sgd", "mx_radam", "skip", "steps"],
)
def test_a_crashed_and_resumed_run_ends_with_the_bits_of_an_unbroken_one(tmp_path, changes):
    config = toy_run(**changes)
    whole = session(config, tmp_path / "whole")
    broken = tmp_path / "broken"
    for step in range(2, whole.step, 3):
        with pytest.raises(CallbackError, match="ZeroDivisionError: crash"):
            session(config, broken, resume=step > 2, callbacks=[StopAt(step)])
    result = session(config, broken, resume=True)
    assert result.step == whole.step
    assert result.metrics == whole.metrics
    assert final_state(broken) == final_state(tmp_path / "whole")


def test_compile_is_asked_of_the_parts_that_the_task_names(tmp_path, monkeypatch):
    compiled = []

    def note(module):
        compiled.append(module)

    monkeypatch.setattr(torch.nn.Module, "compile", note)
    config = toy_run(compile=True, epochs=1)
    problem = config.open()
    session(config, tmp_path / "a", problem=problem)
    assert compiled == [problem.task]


@pytest.mark.slow
def test_a_compiled_task_has_the_losses_of_the_plain_one(tmp_path):
    def losses(name: str, **changes) -> list[float]:
        config = toy_run(epochs=2, dropout=0.0, log={"every_steps": 1, "trackers": []}, **changes)
        # The compiler starts threads of autograd, after which no child of this process could train any more.
        pid = forked(lambda: session(config, tmp_path / name) and None)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [row["values"]["loss"] for row in rows if row["kind"] == "train"]

    assert losses("compiled", compile=True) == pytest.approx(losses("plain"), rel=1e-4)


class Undecided(ToyTask):
    """Looks at a number before it goes on, which no graph can hold."""

    def logits(self, batch):
        found = super().logits(batch)
        return found if found.sum().item() > 1e9 else found * 1.0


@pytest.mark.slow
def test_what_cannot_be_compiled_runs_as_it_is_written_and_that_is_told_once(tmp_path):
    config = toy_run(epochs=2, compile="try")

    def tried() -> None:
        problem = config.open()
        problem.task.__class__ = Undecided
        with RunLog(Console(io.StringIO(), is_terminal=False)) as log:
            (tmp_path / "tried").mkdir()
            log.open(tmp_path / "tried")
            session(config, tmp_path / "tried", problem=problem)

    # The compiler starts threads of autograd, after which no child of this process could train any more.
    assert os.waitstatus_to_exitcode(os.waitpid(forked(tried), 0)[1]) == 0
    session(config.but(compile=False), tmp_path / "plain")
    assert final_state(tmp_path / "tried") == final_state(tmp_path / "plain")
    told = [line for line in (tmp_path / "tried" / "log.txt").read_text().splitlines() if "compile=try" in line]
    assert "WARNING compile=try: Undecided runs as it is written: " in told[0]
    assert "data-dependent" in told[0] and len([line for line in told if "WARNING" in line]) == 1


@pytest.mark.slow
def test_what_can_be_compiled_is_also_where_it_is_only_tried(tmp_path):
    def compiled() -> None:
        config = toy_run(compile="try", dropout=0.0)
        problem = config.open()
        training, batch = build_training(config, problem), next(problem.train_loader.iterate(epochs=1)).batch
        before = counters["stats"]["unique_graphs"]
        tried = training.module(batch)
        assert counters["stats"]["unique_graphs"] == before + 1
        training.task._compiled_call_impl = None
        torch.testing.assert_close(training.module(batch), tried)

    assert os.waitstatus_to_exitcode(os.waitpid(forked(compiled), 0)[1]) == 0


def test_a_compiler_that_fails_costs_no_step_and_an_error_of_the_model_is_its_own(tmp_path, monkeypatch, caplog):
    def hopeless(call, **options):
        def compiled(*inputs):
            raise BackendCompilerFailed(compiled, RuntimeError("no C++ compiler found"), None)

        return compiled

    config = toy_run(compile="try")
    monkeypatch.setattr(torch, "compile", hopeless)
    assert session(config, tmp_path / "tried").outcome == "done"
    assert [record.getMessage() for record in caplog.records if "compile=try" in record.getMessage()] == [
        "compile=try: ToyTask runs as it is written: backend='compiled' raised: RuntimeError: no C++ compiler found"
    ]
    session(config.but(compile=False), tmp_path / "plain")
    assert final_state(tmp_path / "tried") == final_state(tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", lambda call, **options: call)
    monkeypatch.setattr(ToyTask, "forward", lambda self, batch: {}["lost"])
    with pytest.raises(KeyError, match="lost"):
        session(config, tmp_path / "wrong")


def test_a_run_of_so_many_samples_is_one_of_so_many_steps_also_after_a_stop(tmp_path):
    # 22 samples an epoch in 6 batches: 44 after 12 steps, 48 after 13, 52 after 14.
    config = toy_run(epochs=None, samples=50)
    assert session(config, tmp_path / "samples").step == 14
    assert read_status(tmp_path / "samples").total_steps == 14
    session(toy_run(epochs=None, steps=14), tmp_path / "steps")
    assert session(config.but(stop_at_epoch=1), tmp_path / "stopped").outcome == "stopped"
    assert session(config, tmp_path / "stopped", resume=True).outcome == "done"
    assert final_state(tmp_path / "samples") == final_state(tmp_path / "steps") == final_state(tmp_path / "stopped")
    assert session(config.but(samples=53), tmp_path / "stopped", resume=True).step == 15


def test_every_sample_is_seen_once_an_epoch(tmp_path):
    seen = []

    class See(Callback):
        def on_step_end(self, training, report):
            seen.extend(report.sample_ids)

    session(toy_run(epochs=1), tmp_path / "a", callbacks=[See()])
    assert sorted(seen) == list(range(22))


def test_rows_tell_step_epoch_losses_and_rates(tmp_path):
    session(toy_run(), tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    train_rows = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train_rows] == [4, 8, 12, 16, 20, 24]
    assert {"loss", "loss/entropy", "loss/size", "lr/all"} <= set(train_rows[0]["values"])
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 12, 18, 24]


def test_a_finished_run_is_not_resumed_but_may_go_on_longer(tmp_path):
    session(toy_run(), tmp_path / "a")
    with pytest.raises(RunError, match=r"finished.*epochs=8"):
        session(toy_run(), tmp_path / "a", resume=True)
    assert session(toy_run(epochs=5), tmp_path / "a", resume=True).epoch == 5


def test_what_makes_a_run_longer_can_be_typed_as_it_stands(tmp_path):
    folder = tmp_path / "one epoch"
    session(toy_run(epochs=1), folder)
    with pytest.raises(RunError) as caught:
        session(toy_run(epochs=1), folder, resume=True)
    text = str(caught.value)
    assert "this run is finished (6 steps, 1 epoch)." in text
    assert f"To train longer: sightline.resume({str(folder)!r}, ['epochs=2'])" in text
    assert shlex.split(how_to_resume(folder, "", "epochs=2")) == ["sightline", "resume", str(folder), "epochs=2"]


def test_a_run_that_is_being_written_is_not_started_again(tmp_path):
    class StartAgain(Callback):
        def on_step_end(self, training, report):
            session(toy_run(), tmp_path / "a")

    with pytest.raises(CallbackError, match=r"RunError: .* is being written by process"):
        session(toy_run(), tmp_path / "a", callbacks=[StartAgain()])


class Poison(Callback):
    """Makes a loss NaN once, when so many steps have been taken."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_run_start(self, training):
        task, poisoned = training.task, self.step
        forward = task.forward

        def spoiled(batch):
            losses = forward(batch)
            return {**losses, "entropy": losses["entropy"] * float("nan")} if training.step == poisoned else losses

        task.forward = spoiled


def test_a_nan_stops_the_run_and_names_step_loss_and_samples(tmp_path):
    with pytest.raises(NonFiniteError, match=r"entropy became NaN or infinite at step 5; samples \d+, \d+") as error:
        session(toy_run(), tmp_path / "a", callbacks=[Poison(5)])
    assert "on_nonfinite=skip" in str(error.value)
    assert newest_whole(tmp_path / "a", print).step == 3  # what was good stays


def test_a_nan_is_left_out_on_request_and_counted(tmp_path):
    result = session(toy_run(on_nonfinite="skip"), tmp_path / "a", callbacks=[Poison(5)])
    assert result.outcome == "done"
    state = newest_whole(tmp_path / "a", print)
    assert state.state["guard"]["skipped"] == 1
    assert all(t.isfinite().all() for group in load_tensors(state).values() for t in group.values())


def test_weights_of_a_run_start_another_one_as_far_as_they_fit(tmp_path):
    session(toy_run(), tmp_path / "a")
    said = io.StringIO()
    session(toy_run(weights=tmp_path / "a", epochs=1), tmp_path / "b", said=said)
    assert "9 of 9 tensors loaded" in said.getvalue()
    session(toy_run(weights=tmp_path / "a", epochs=1, width=5), tmp_path / "c", said=said)
    assert "2 of 9 tensors loaded" in said.getvalue()  # the last bias and the norm's counter


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    session(toy_run(epochs=2), tmp_path / "a")
    with pytest.raises(RunError, match="weights do not fit"):
        session(toy_run(width=6), tmp_path / "a", resume=True)


def test_the_task_is_back_in_training_mode_after_an_evaluation(tmp_path):
    modes = []

    class Mode(Callback):
        def on_step_end(self, training, report):
            modes.append(training.task.training)

    session(toy_run(), tmp_path / "a", callbacks=[Mode()])
    assert all(modes)
    assert len(modes) == 24


def test_our_loop_and_the_plain_one_end_with_equal_weights(tmp_path):
    """The same mathematics by hand with torch.optim: bit for bit."""
    config = toy_run(ema=None, dropout=0.0, schedule={"kind": "constant"}, steps=12, epochs=None)
    problem = config.open()
    by_hand: ToyTask = config.open().task
    optimizer = torch.optim.SGD(
        by_hand.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=True
    )
    for fetched in problem.train_loader.iterate(epochs=2):
        sum(by_hand(fetched.batch).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    session(config, tmp_path / "a", problem=problem)
    for name, value in by_hand.state_dict().items():
        assert torch.equal(problem.task.state_dict()[name], value), name
