import io
import signal
from types import SimpleNamespace

import pytest

from sightline.config.errors import ConfigError, RunError
from sightline.engine.callback import EvaluationReport
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.callbacks.early_stop import EarlyStop, EarlyStoppingConfig
from sightline.engine.checkpoint.reader import newest_whole
from sightline.engine.checkpoint.retention import BestBy
from tests.engine.sessions import StopAt, final_state, session
from tests.engine.test_evaluation import counted, crash, eval_rows, eval_steps
from tests.engine.toy import toy_run

NEVER = {"patience": 2, "min_delta": 10.0}
"""No accuracy ever improves on the first one by so much: of the evaluations at 6, 12, 18 and 24, that at 18 ends it."""


def told(stop, values, *, name="AP", losses_only=False):
    """Tell figures one after the other; step numbers are 10, 20, ... ; gives after how many of them it is over."""
    for number, value in enumerate(values, start=1):
        figures = {name: value, "other": 1.0}
        stop.on_evaluation_end(_training(), EvaluationReport(10 * number, 0, figures, losses_only=losses_only))
        if stop.is_over:
            return number
    return None


def _training():
    """As much of a training as is looked at: it is not at its end."""
    return SimpleNamespace(step=0, plan=SimpleNamespace(length=SimpleNamespace(steps=100)))


@pytest.mark.parametrize(
    "config, by, values, ends",
    [
        ({"patience": 2}, {}, [0.1, 0.2, 0.2, 0.1], 4),  # an equal figure is no improvement
        ({"patience": 2}, {}, [0.1, 0.05, 0.2, 0.1, 0.19], 5),  # an improvement begins the count anew
        ({"patience": 1}, {}, [0.1, 0.2, 0.3], None),
        ({"patience": 2, "min_delta": 0.1}, {}, [0.1, 0.15, 0.2], 3),  # slowly: never 0.1 above the best
        ({"patience": 2, "min_delta": 0.1}, {}, [0.1, 0.15, 0.25, 0.3], None),  # small steps add up against the best
        ({"patience": 2}, {"direction": "min"}, [3.0, 2.0, 2.5, 2.1], 4),
        ({"patience": 2}, {}, [float("nan"), 0.1, float("nan"), 0.05], 4),  # what is undefined is no improvement
        ({"patience": 3}, {}, [float("nan")] * 3, 3),
    ],
)
def test_it_is_over_after_so_many_evaluations_without_improvement(config, by, values, ends):
    assert told(EarlyStop(EarlyStoppingConfig(**config), BestBy(**by)), values) == ends


def test_its_own_figure_wins_over_that_of_the_best_checkpoint():
    stop = EarlyStop(EarlyStoppingConfig(patience=1, by=BestBy(metric="other")), BestBy(metric="AP"))
    assert told(stop, [0.1, 0.2]) == 2
    assert stop.reason == "early stopping: other has not improved for the last evaluation; the best one is 1 at step 10"


def test_losses_measured_alone_count_only_where_a_loss_is_looked_at():
    assert told(EarlyStop(EarlyStoppingConfig(patience=1), BestBy()), [1.0, 2.0], name="loss", losses_only=True) is None
    by = BestBy(metric="loss")
    assert (
        told(EarlyStop(EarlyStoppingConfig(patience=1, by=by), BestBy()), [1.0, 2.0], name="loss", losses_only=True)
        == 2
    )


def test_a_figure_that_there_is_not_is_named_beside_those_that_there_are():
    with pytest.raises(ConfigError, match=r"early stopping: no metric 'APP'.*AP, other"):
        told(EarlyStop(EarlyStoppingConfig(by=BestBy(metric="APP")), BestBy()), [1.0])


def test_the_state_of_another_figure_is_forgotten():
    stop = EarlyStop(EarlyStoppingConfig(patience=3), BestBy(metric="AP"))
    told(stop, [0.5, 0.1])
    same, other = (EarlyStop(EarlyStoppingConfig(patience=3), BestBy(metric=name)) for name in ("AP", "other"))
    same.load_state(stop.state())
    other.load_state(stop.state())
    assert (same.best, same.waited, same.state()) == (0.5, 1, stop.state())
    assert (other.best, other.waited) == (None, 0)
    other.load_state({})  # a checkpoint of a run without early stopping


def test_a_validation_loss_has_to_be_measured_to_stop_by_it():
    with pytest.raises(ValueError, match=r"evaluate\.loss=true"):
        toy_run(early_stopping={"by": {"metric": "loss", "direction": "min"}})
    toy_run(early_stopping={"by": {"metric": "loss", "direction": "min"}}, evaluate={"loss": True})


def test_a_run_ends_early_with_its_figures_and_says_so(tmp_path):
    said = io.StringIO()
    result = session(toy_run(early_stopping=NEVER), tmp_path / "run", said=said)
    assert (result.outcome, result.step, result.epoch) == ("done", 18, 3)
    assert eval_steps(tmp_path / "run") == [6, 12, 18]
    assert result.metrics == eval_rows(tmp_path / "run")[-1]["values"]
    assert "early stopping: accuracy has not improved by more than 10 for 2 evaluations" in said.getvalue()
    assert "done: 18 steps" in said.getvalue()
    assert newest_whole(tmp_path / "run", print).step == 18


@pytest.mark.parametrize("step", [3, 6, 7, 13, 17, 18])
def test_its_count_survives_a_crash_at_any_step(tmp_path, step):
    config = toy_run(early_stopping=NEVER)
    session(config, tmp_path / "whole")
    with pytest.raises(CallbackError, match="crash"):
        session(config, tmp_path / "run", callbacks=[StopAt(step)])
    result = session(config, tmp_path / "run", resume=True)
    assert (result.outcome, result.step) == ("done", 18)
    assert final_state(tmp_path / "run") == final_state(tmp_path / "whole")


def test_an_evaluation_that_is_made_up_for_may_end_the_run(tmp_path):
    config = toy_run(early_stopping=NEVER)
    stopped = session(
        config, tmp_path / "run", problem=counted(config, 8, lambda: signal.raise_signal(signal.SIGTERM))
    )  # in the second of three batches of the third evaluation
    assert (stopped.outcome, stopped.step) == ("stopped", 18)
    result = session(config, tmp_path / "run", resume=True)
    assert (result.outcome, result.step) == ("done", 18)


def test_a_run_that_ended_early_is_finished_unless_it_is_told_to_be_more_patient(tmp_path):
    session(toy_run(early_stopping=NEVER), tmp_path / "run")
    with pytest.raises(RunError, match=r"finished \(18 steps, 3 epochs; early stopping: .*early_stopping=null"):
        session(toy_run(early_stopping=NEVER), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="finished"):
        session(toy_run(early_stopping=NEVER, epochs=8), tmp_path / "run", resume=True)
    patient = session(toy_run(early_stopping={**NEVER, "patience": 4}, epochs=8), tmp_path / "run", resume=True)
    assert (patient.outcome, patient.step) == ("done", 30)
    endless = session(toy_run(epochs=8), tmp_path / "run", resume=True)
    assert (endless.outcome, endless.step) == ("done", 48)


def test_a_crash_while_the_last_step_is_evaluated_leaves_nothing_behind(tmp_path):
    config = toy_run(early_stopping=NEVER, evaluate={"loss": True})
    session(config, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        session(config, tmp_path / "run", problem=counted(config, 14, crash))
    session(config, tmp_path / "run", resume=True)
    assert final_state(tmp_path / "run") == final_state(tmp_path / "whole")
