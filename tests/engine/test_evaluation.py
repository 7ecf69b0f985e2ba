import json
import math
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from sightline.config.errors import ConfigError
from sightline.engine.callback import Callback
from sightline.engine.checkpoint.reader import find_checkpoints, load_tensors, newest_whole, read_checkpoint
from sightline.engine.deciding_figures import OF_ONE_BATCH
from sightline.engine.evaluation import (
    EvaluateConfig,
    Evaluator,
    ValidationLosses,
    evaluate,
    measure_losses,
    training_mode_without_traces,
)
from sightline.engine.precision import Precision
from sightline.engine.run_config import Problem
from tests.engine.sessions import final_state, session
from tests.engine.toy import ToyLoader, ToyMetric, ToyRun, ToyTask, toy_run
from tests.together import together

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)
EVERYTHING = {"every_steps": 4, "loss": True, "cycle": [["val", 1], ["train", 2]], "every_epochs": 0}
"""Of 24 steps in 4 epochs: losses alone at 0 and 12, figures and losses at 4, 8, 12 (both), 16, 20 and 24."""


def eval_rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "eval"]


def eval_steps(folder):
    return [row["step"] for row in eval_rows(folder)]


def weights(folder):
    """Tensors of the newest checkpoint, by group and name."""
    tensors = load_tensors(newest_whole(folder, print))
    return {(group, name): tensor for group, members in tensors.items() for name, tensor in members.items()}


# when


@pytest.mark.parametrize(
    "changes, steps",
    [
        ({}, [6, 12, 18, 24]),
        ({"every_epochs": 3}, [18, 24]),
        ({"every_epochs": 0}, [24]),
        ({"every_epochs": 0, "every_steps": 5}, [5, 10, 15, 20, 24]),
        ({"every_epochs": 2, "every_steps": 4}, [4, 8, 12, 16, 20, 24]),
        ({"every_steps": 5, "first_epoch": 3}, [15, 18, 20, 24]),
    ],
    ids=str,
)
def test_evaluations_come_after_epochs_and_steps_as_asked_and_once_at_the_end(tmp_path, changes, steps):
    session(toy_run(evaluate=changes), tmp_path / "run")
    assert eval_steps(tmp_path / "run") == steps
    assert all("accuracy" in row["values"] for row in eval_rows(tmp_path / "run"))


def test_a_run_measured_in_steps_is_evaluated_where_it_ends_in_the_middle_of_an_epoch(tmp_path):
    session(toy_run(epochs=None, steps=8, evaluate={"every_steps": 3, "every_epochs": 0}), tmp_path / "run")
    assert eval_steps(tmp_path / "run") == [3, 6, 8]


class Clock:
    """Each step takes a minute, an evaluation none."""

    def __init__(self):
        self.seconds = 0.0
        self.asked = []

    def __call__(self):
        return self.seconds

    def agree(self, answer):
        self.asked.append(answer)
        return answer


class Minute(Callback):
    def __init__(self, clock):
        self.clock = clock

    def on_step_end(self, training, report):
        self.clock.seconds += 60


class Heard(Callback):
    """Steps of the evaluations that began and that were told."""

    def __init__(self):
        self.began, self.told = [], []

    def on_evaluation_start(self, training):
        self.began.append(training.step)

    def on_evaluation_end(self, training, report):
        self.told.append(report.step)


def test_evaluations_come_by_the_clock_of_one_process_and_its_count_survives_a_resume(tmp_path):
    config = EvaluateConfig(every_epochs=0, every_minutes=7)
    clock, heard = Clock(), Heard()
    loader = ToyLoader(9, 4, seed=1, shuffle=False)
    evaluator = Evaluator(config, loader, [heard], clock=clock, agree=clock.agree)
    plain = toy_run(evaluate={"every_epochs": 0})
    session(plain, tmp_path / "run", callbacks=[Minute(clock), evaluator])
    assert heard.began == heard.told == [7, 14, 21, 24]
    assert clock.asked == [step in (7, 14, 21) for step in range(1, 24)]  # at the last step nobody asks the clock
    again = Evaluator(config, loader, [], clock=clock)
    again.load_state({"cut_short": None, "evaluated_step": 5, "seconds_since": 100.0})
    assert again.state()["seconds_since"] == 100.0
    clock.seconds += 60
    assert again.state()["seconds_since"] == 160.0


def test_what_does_not_hang_on_the_clock_leaves_no_trace_of_it_in_checkpoints(tmp_path):
    session(toy_run(epochs=1), tmp_path / "run")
    assert newest_whole(tmp_path / "run", print).state["callbacks"]["Evaluator"] == {
        "cut_short": None,
        "evaluated_step": 6,
    }


def test_a_cycle_of_training_and_validation_shows_in_the_log_in_its_order(tmp_path):
    evaluate = {"every_epochs": 0, "cycle": [["train", 2], ["val", 1]]}
    session(toy_run(epochs=5, evaluate=evaluate), tmp_path / "run")
    rows = eval_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [12, 24, 30]  # the end has its evaluation, but no losses: its turn is half
    assert [list(row["values"]) for row in rows[:2]] == [["loss", "loss/entropy", "loss/size"]] * 2
    assert list(rows[2]["values"]) == ["accuracy"]


def test_a_cycle_that_begins_with_validation_measures_the_fresh_weights(tmp_path):
    session(toy_run(epochs=2, evaluate={"cycle": [["val", 1], ["train", 1]], "every_epochs": 2}), tmp_path / "run")
    rows = eval_rows(tmp_path / "run")
    assert [(row["step"], row["epoch"]) for row in rows] == [(0, 0), (6, 0), (12, 1)]
    assert ["accuracy" in row["values"] for row in rows] == [False, False, True]
    assert ["loss" in row["values"] for row in rows] == [True, True, False]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"cycle": [["train", 2]]}, "no val entry"),
        ({"cycle": [["val", 1]]}, "no train entry"),
        ({"cycle": [["train", 1], ["val", 2]]}, r"give \[val, 1\]"),
        ({"best": {"metric": "loss", "direction": "min"}}, "evaluate.loss=true"),
    ],
)
def test_policies_that_contradict_themselves_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        EvaluateConfig(**changes)


# losses of validation data


def mean_losses_by_hand(task):
    """Sample by sample, in evaluation mode."""
    task.eval()
    batch = ToyLoader(9, 9, seed=1, shuffle=False).batch(0, 0)
    with torch.no_grad():
        logits = task.net(batch.x)
    entropy = F.cross_entropy(logits, batch.y).item()
    size = 1e-3 * logits.square().mean().item()
    return {"loss": entropy + size, "loss/entropy": entropy, "loss/size": size}


def test_validation_losses_are_means_over_samples_though_the_last_batch_is_short():
    torch.manual_seed(0)
    task = ToyTask()
    loader = ToyLoader(9, 4, seed=1, shuffle=False)  # batches of 4, 4 and 1
    expected = mean_losses_by_hand(task)
    task.train()
    assert measure_losses(task, loader, device=CPU, precision=FP32).compute() == pytest.approx(expected, rel=1e-6)
    beside = ValidationLosses()
    metric = evaluate(task, loader, device=CPU, precision=FP32, losses=beside)
    assert beside.compute() == pytest.approx(expected, rel=1e-6)
    assert metric.details() == {"seen": 9}


def losses_of_share(processes):
    torch.manual_seed(0)
    loader = ToyLoader(9, 4, seed=1, shuffle=False, share=processes.share)  # the last batch has one sample
    return measure_losses(ToyTask(), loader, device=CPU, precision=FP32, processes=processes).compute()


def test_all_processes_come_to_the_validation_losses_of_one():
    (alone,) = together(1, losses_of_share)
    for found in together(3, losses_of_share):
        assert found == pytest.approx(alone, rel=1e-6)


def test_a_validation_loss_that_is_not_finite_is_told_and_raises_nothing():
    class Broken(ToyTask):
        def forward(self, batch):
            return {"one": batch.x.sum() * math.inf, "other": batch.x.sum() * 0}

    found = measure_losses(Broken(), ToyLoader(9, 4), device=CPU, precision=FP32).compute()
    assert not math.isfinite(found["loss/one"]) and not math.isfinite(found["loss"])
    assert found["loss/other"] == 0


def test_losses_beside_figures_come_after_them_and_may_decide_the_best_checkpoint(tmp_path):
    best = {"metric": "loss", "direction": "max"}  # the losses fall, so the first checkpoint has the greatest
    session(toy_run(evaluate={"loss": True, "best": best}), tmp_path / "run")
    rows = eval_rows(tmp_path / "run")
    assert [list(row["values"]) for row in rows] == [["accuracy", "loss", "loss/entropy", "loss/size"]] * 4
    losses = [row["values"]["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert (tmp_path / "run" / "checkpoints" / "best").read_text() == "step_00000006\n"


def test_the_best_loss_is_the_smallest_unless_the_run_says_otherwise(tmp_path):
    session(toy_run(evaluate={"loss": True, "best": {"metric": "loss"}}), tmp_path / "run")  # the losses fall
    assert (tmp_path / "run" / "checkpoints" / "best").read_text() == "step_00000024\n"


def test_a_run_may_name_figures_that_are_better_small():
    class Errors(ToyRun):
        smaller_is_better = ("error",)

    rules = [{"rule": "best", "by": {"metric": "error", **said}} for said in ({}, {"direction": "max"})]
    config = Errors(**toy_run(evaluate={"best": {"metric": "error"}}, checkpoint={"keep": rules}).model_dump())
    assert config.best.direction == "min"
    assert [rule.by.direction for rule in config.kept_checkpoints.keep] == ["min", "max"]
    assert config.evaluate.best.direction is None  # written as it was given, so that another metric has its own


def test_losses_alone_neither_decide_the_best_checkpoint_nor_replace_the_last_figures(tmp_path):
    config = toy_run(
        evaluate={"every_epochs": 2, "cycle": [["train", 1], ["val", 1]]}, checkpoint={"keep": [{"rule": "all"}]}
    )
    result = session(config, tmp_path / "run")
    assert set(result.metrics) == {"accuracy"} | {"loss", "loss/entropy", "loss/size"}  # both fall on the last step
    metrics = {one.step: one.manifest.metrics for one in map(read_checkpoint, find_checkpoints(tmp_path / "run"))}
    assert metrics[6] == metrics[18] == {}
    assert "accuracy" in metrics[12] and "accuracy" in metrics[24]
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["figures"] == metrics[24]


# nothing but figures comes out of it


class InTrainingModeOnly(ToyTask):
    """As torchvision's detectors; it counts its calls in a buffer and draws random numbers."""

    losses_need_training_mode = True

    def __init__(self):
        super().__init__(dropout=0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.net[1].requires_grad_(False)

    def forward(self, batch):
        assert self.training
        self.calls += 1
        return {"draw": torch.rand(()), **super().forward(batch)}


def test_a_task_that_gives_losses_in_training_mode_alone_is_measured_without_traces():
    torch.manual_seed(0)
    task = InTrainingModeOnly()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    loader = ToyLoader(9, 4, seed=1, shuffle=False)
    found = measure_losses(task, loader, device=CPU, precision=FP32).compute()
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
    expected = mean_losses_by_hand(task)
    assert found["loss/entropy"] == pytest.approx(expected["loss/entropy"], rel=1e-6)
    torch.manual_seed(5)  # what it draws is a function of the samples
    assert measure_losses(task, loader, device=CPU, precision=FP32).compute() == found


def test_only_layers_without_statistics_and_dropout_are_in_training_mode_for_the_losses():
    task = ToyTask().eval()
    with training_mode_without_traces(task):
        assert [part.training for part in task.net] == [True, False, True, False, True]
        assert task.training
    assert not any(part.training for part in task.modules())


@pytest.mark.parametrize("frozen", [(), (1,)])
def test_every_part_is_in_evaluation_mode_while_it_predicts_and_in_its_own_mode_after(frozen):
    modes = []

    class Watched(ToyTask):
        def predict(self, batch):
            modes.append([part.training for part in self.modules()])
            return super().predict(batch)

        def forward(self, batch):
            modes.append([part.training for part in self.modules()])
            return super().forward(batch)

    task = Watched()
    task.train()
    for index in frozen:
        task.net[index].eval()
    before = [part.training for part in task.modules()]
    evaluate(task, ToyLoader(9, 4), device=CPU, precision=FP32, losses=ValidationLosses())
    assert len(modes) == 6 and not any(mode for one in modes for mode in one)
    assert [part.training for part in task.modules()] == before


def test_modes_come_back_after_an_error_too():
    class Failing(ToyTask):
        def predict(self, batch):
            raise ZeroDivisionError

    task = Failing().train()
    with pytest.raises(ZeroDivisionError):
        evaluate(task, ToyLoader(9, 4), device=CPU, precision=FP32)
    assert all(part.training for part in task.modules())


@pytest.mark.parametrize("which", ["ema", "live"])
def test_evaluations_at_any_moment_change_no_bit_of_the_training(tmp_path, which):
    session(toy_run(evaluate={"every_epochs": 0}), tmp_path / "without")
    session(toy_run(evaluate={**EVERYTHING, "weights": which, "every_steps": 1}), tmp_path / "with")
    without, with_them = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert without.keys() == with_them.keys()
    assert all(torch.equal(tensor, with_them[name]) for name, tensor in without.items())
    rows = [
        [line for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
        for name in ("without", "with")
    ]
    assert rows[0] == rows[1]
    assert len(eval_rows(tmp_path / "with")) == 25


def test_a_figure_is_of_one_evaluation_and_knows_nothing_of_the_one_before(tmp_path):
    seen = []

    class Seen(Callback):
        def on_evaluation_end(self, training, report):
            seen.append(report.details["seen"])

    session(toy_run(), tmp_path / "run", callbacks=[Seen()])
    assert seen == [9, 9, 9, 9]


# stops and kills inside of an evaluation


class Counting(ToyTask):
    """Does something at its evaluation batch number ``call``."""

    def at(self, call, act):
        self.left, self.act = call, act

    def forward(self, batch):
        if not self.training:
            self._count()
        return super().forward(batch)

    def predict(self, batch):
        self._count()
        return super().predict(batch)

    def _count(self):
        self.left -= 1
        if self.left == 0:
            self.act()


def counted(config, call, act):
    torch.manual_seed(config.seed)
    task = Counting(config.width, config.dropout)
    task.at(call, act)
    problem = config.open()
    return Problem(task, problem.train_loader, problem.eval_loader)


def crash():
    raise ZeroDivisionError


@pytest.mark.parametrize("checkpoint", [{"every_steps": 3}, {"every_steps": 4}])
def test_a_crash_in_any_batch_of_any_evaluation_costs_no_bit(tmp_path, checkpoint):
    config = toy_run(evaluate=EVERYTHING, checkpoint=checkpoint)
    session(config, tmp_path / "whole")
    assert eval_steps(tmp_path / "whole") == [0, 4, 8, 12, 16, 20, 24]
    # The losses of 3 batches at step 0; then 6 predictions and losses at each of 6 moments.
    for call in (1, 3, 4, 12, 18, 23, 33, 39):
        folder = tmp_path / str(call)
        with pytest.raises(ZeroDivisionError):
            session(config, folder, problem=counted(config, call, crash))
        session(config, folder, resume=True)
        assert final_state(folder) == final_state(tmp_path / "whole"), call
        shutil.rmtree(folder)


@pytest.mark.parametrize("call", [1, 3, 4, 13, 25, 39])
def test_a_stop_in_any_batch_of_any_evaluation_makes_it_anew_before_the_next_step(tmp_path, call):
    config = toy_run(evaluate=EVERYTHING, checkpoint={"every_steps": 4})
    session(config, tmp_path / "whole")
    stopped = session(
        config, tmp_path / "run", problem=counted(config, call, lambda: signal.raise_signal(signal.SIGTERM))
    )
    assert stopped.outcome == "stopped"
    assert stopped.step not in eval_steps(tmp_path / "run")
    assert newest_whole(tmp_path / "run", print).step == stopped.step
    heard = Heard()
    assert session(config, tmp_path / "run", resume=True, callbacks=[heard]).outcome == "done"
    assert heard.told[0] == stopped.step
    assert final_state(tmp_path / "run") == final_state(tmp_path / "whole")
    states = [newest_whole(tmp_path / name, print).state["callbacks"]["Evaluator"] for name in ("run", "whole")]
    assert states[0] == states[1]


def test_the_best_checkpoint_survives_a_resume_with_the_same_bytes(tmp_path):
    config = toy_run(evaluate={"loss": True, "best": {"metric": "loss", "direction": "max"}})
    session(config, tmp_path / "whole")
    problem = counted(config, 20, crash)
    with pytest.raises(ZeroDivisionError):
        session(config, tmp_path / "run", problem=problem)
    best = tmp_path / "run" / "checkpoints" / (tmp_path / "run" / "checkpoints" / "best").read_text().strip()
    before = {path.name: path.read_bytes() for path in best.iterdir()}
    session(config, tmp_path / "run", resume=True)
    assert {path.name: path.read_bytes() for path in best.iterdir()} == before
    bests = [(tmp_path / name / "checkpoints" / "best").read_text() for name in ("run", "whole")]
    assert bests[0] == bests[1] == "step_00000006\n"


NO_FIGURE = {"metric": "accurcy"}


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"evaluate": {"best": NO_FIGURE}}, "evaluate.best"),
        ({"early_stopping": {"by": NO_FIGURE}}, "early_stopping.by"),
        ({"checkpoint": {"keep": [{"rule": "last"}, {"rule": "best", "by": NO_FIGURE}]}}, "checkpoint.keep[1].by"),
        ({"checkpoint": {"keep": [{"rule": "improvements", "by": NO_FIGURE}]}}, "checkpoint.keep[0].by"),
    ],
)
def test_a_figure_that_no_evaluation_has_is_refused_before_the_run(tmp_path, changes, key):
    with pytest.raises(ConfigError) as caught:
        session(toy_run(**changes), tmp_path / "run")
    assert str(caught.value) == (
        f"{key}.metric=accurcy: the evaluation has no such figure. Did you mean 'accuracy'? There are: accuracy."
    )
    assert list((tmp_path / "run").iterdir()) == []


@pytest.fixture
def untold(monkeypatch):
    """A task that does not say which figures its metric gives."""
    opened = ToyRun.open
    monkeypatch.setattr(ToyRun, "open", lambda self, **options: replace(opened(self, **options), figures=()))


@pytest.mark.usefixtures("untold")
def test_where_nobody_tells_the_figures_a_batch_does_before_the_run(tmp_path):
    with pytest.raises(ConfigError) as caught:
        session(toy_run(evaluate={"best": NO_FIGURE}), tmp_path / "run")
    assert str(caught.value) == (
        "evaluate.best.metric=accurcy: the evaluation has no such figure. Did you mean 'accuracy'? There are: "
        f"accuracy.{OF_ONE_BATCH}"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    session(toy_run(epochs=1, evaluate={"best": {"metric": "accuracy"}}), tmp_path / "run")


@pytest.mark.usefixtures("untold")
def test_where_a_batch_is_too_little_for_the_metric_the_first_evaluation_refuses(tmp_path, monkeypatch):
    def compute(metric):
        if metric.seen < 9:
            raise ValueError("too few samples")
        return {"accuracy": metric.right / metric.seen}

    monkeypatch.setattr(ToyMetric, "compute", compute)
    with pytest.raises(ConfigError, match=r"no metric 'accurcy'.*accuracy"):
        session(toy_run(epochs=1, evaluate={"best": NO_FIGURE}), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").exists()


NO_LOSS = {"metric": "loss/entrpy", "direction": "min"}


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"evaluate": {"loss": True, "best": NO_LOSS}}, "evaluate.best"),
        ({"evaluate": {"loss": True}, "early_stopping": {"by": NO_LOSS}}, "early_stopping.by"),
    ],
)
def test_a_loss_that_the_task_never_gives_is_refused_before_the_run(tmp_path, changes, key):
    with pytest.raises(ConfigError) as caught:
        session(toy_run(**changes), tmp_path / "run")
    assert str(caught.value) == (
        f"{key}.metric=loss/entrpy: the evaluation has no such figure. Did you mean 'loss/entropy'? "
        "There are: loss, loss/entropy, loss/size."
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_change_to_a_loss_that_there_is_not_leaves_a_run_as_it_was(tmp_path):
    config = toy_run(evaluate={"loss": True})
    session(config.but(stop_at_epoch=2), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="loss/entropy"):
        session(config.but(evaluate={"loss": True, "best": NO_LOSS}), tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("needs_training_mode", [False, True])
def test_the_batch_that_tells_the_losses_changes_no_bit_of_the_run(tmp_path, monkeypatch, needs_training_mode):
    monkeypatch.setattr(ToyTask, "losses_need_training_mode", needs_training_mode)
    for name, metric in (("asked", "loss/entropy"), ("not_asked", "loss")):
        session(toy_run(evaluate={"loss": True, "best": {"metric": metric}}, checkpoint={}), tmp_path / name)
    assert final_state(tmp_path / "asked") == final_state(tmp_path / "not_asked")
