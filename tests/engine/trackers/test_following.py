"""Runs with trackers: whatever these do, a run computes the same, in the same time, and says what is missing."""

import csv
import io
import json
import threading
import time
from pathlib import Path

import pytest

from sightline.config.errors import ConfigError
from sightline.engine import session
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.trackers import following
from sightline.engine.trackers.background import BackgroundTracker
from sightline.engine.trackers.following import Trackers, check_trackers, params_of
from tests.engine import sessions
from tests.engine.toy import toy_run
from tests.engine.trackers.fakes import Fakes
from tests.engine.trackers.test_background import Hanging, Kept, Raising

LOG = {"every_steps": 1, "train_pictures": 0, "eval_pictures": 0}


def with_trackers(*names: str, **changes):
    return toy_run(log={**LOG, "trackers": names}, **changes)


def run(config, folder, **options) -> str:
    """Returns what was said."""
    said = io.StringIO()
    sessions.session(config, folder, said=said, **options)
    return said.getvalue()


def use(monkeypatch, *trackers, patience_s: float = 0.3) -> None:
    """Let runs have these trackers."""
    made = Trackers([BackgroundTracker(f"fake{n}", one) for n, one in enumerate(trackers)], patience_s=patience_s)
    monkeypatch.setattr(session, "open_trackers", lambda *_, **__: made)


def test_a_run_with_bad_trackers_has_the_bits_of_a_run_without_and_says_what_is_missing(tmp_path, monkeypatch):
    run(with_trackers(), tmp_path / "without")
    kept = Kept()
    bad = [Hanging("open"), Hanging("write"), Hanging("close"), Raising("write", ValueError("no")), kept]
    use(monkeypatch, *bad)
    said = run(with_trackers(), tmp_path / "with")
    for name in ("metrics.jsonl", "checkpoints/step_00000024/model.safetensors"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert kept.steps == sorted([*range(1, 25), 6, 12, 18, 24])
    assert kept.outcome == "done"
    lines = [line for line in said.splitlines() if line.startswith("fake")]
    assert "fake0: 28 of 28 rows are missing, not taken 0.3 s after the run's end" in lines
    assert "fake3: ValueError: no. The run goes on" in lines
    assert "fake3: 28 of 28 rows are missing" in lines
    assert sum(line.startswith("fake3") for line in lines) == 2, "told once, counted once"
    assert not any(line.startswith("fake4") for line in lines)
    for tracker in bad[:3]:
        tracker.free.set()


def test_steps_do_not_wait_for_a_tracker_and_the_end_waits_in_bounds(tmp_path, monkeypatch):
    hanging = Hanging("write")
    use(monkeypatch, hanging, patience_s=0.5)
    began = time.monotonic()
    run(with_trackers(epochs=30, checkpoint={"every_epochs": 0, "every_steps": 0}), tmp_path / "a")
    assert time.monotonic() - began < 20, "180 steps of a millisecond, each with a row, and half a second"
    hanging.free.set()


def test_a_failed_run_tells_its_trackers(tmp_path, monkeypatch):
    kept = Kept()
    use(monkeypatch, kept)
    with pytest.raises(CallbackError, match="crash"):
        run(with_trackers(), tmp_path / "a", callbacks=[sessions.StopAt(3)])
    assert kept.outcome == "failed"
    assert kept.steps == [1, 2, 3]


def test_the_thread_that_steps_is_never_that_of_a_tracker(tmp_path, monkeypatch):
    threads = set()

    class Where(Kept):
        def write(self, rows):
            threads.add(threading.current_thread().name)

    use(monkeypatch, Where())
    run(with_trackers(epochs=1), tmp_path / "a")
    assert threads == {"tracker fake0"}


def test_the_table_of_a_run_that_was_broken_and_resumed_is_that_of_an_unbroken_one(tmp_path):
    run(with_trackers("csv"), tmp_path / "unbroken")
    with pytest.raises(CallbackError, match="crash"):
        run(with_trackers("csv"), tmp_path / "broken", callbacks=[sessions.StopAt(11)])
    run(with_trackers("csv"), tmp_path / "broken", resume=True)
    wanted = (tmp_path / "unbroken/metrics.csv").read_bytes()
    assert (tmp_path / "broken/metrics.csv").read_bytes() == wanted
    rows = list(csv.DictReader(io.StringIO(wanted.decode())))
    logged = [json.loads(line) for line in (tmp_path / "unbroken/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len(logged) == 28
    for cells, row in zip(rows, logged, strict=True):
        assert {name: float(cell) for name, cell in cells.items() if cell and name != "kind"} == {
            "step": row["step"],
            "epoch": row["epoch"],
            **row["values"],
        }


def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path):
    from tests.faults.tiny import shown_steps

    with pytest.raises(CallbackError, match="crash"):
        run(with_trackers("tensorboard"), tmp_path / "a", callbacks=[sessions.StopAt(11)])
    run(with_trackers("tensorboard"), tmp_path / "a", resume=True)
    assert shown_steps(tmp_path / "a") == list(range(1, 25))


def test_a_resumed_run_is_the_same_run_for_its_trackers(tmp_path, monkeypatch):
    fakes = Fakes(tmp_path, monkeypatch)
    with pytest.raises(CallbackError, match="crash"):
        run(with_trackers("wandb"), tmp_path / "a", callbacks=[sessions.StopAt(11)])
    run(with_trackers("wandb"), tmp_path / "a", resume=True)
    first, second = (one["options"] for one in fakes.told("open"))
    assert first["id"] == second["id"] == json.loads((tmp_path / "a/trackers.json").read_text())["id"]
    steps = [one["values"]["step"] for one in fakes.told("write") if "train/loss" in one["values"]]
    assert steps == [*range(1, 12), *range(10, 25)], "steps after the checkpoint are taken anew"
    assert [one["exit_code"] for one in fakes.told("close")] == [1, 0]


def test_a_missing_package_is_told_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "_is_installed", lambda package: False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("mlflow", "wandb"):
        with pytest.raises(ConfigError, match=rf"pip install 'sightline\[{name}\]'"):
            check_trackers(with_trackers(name).log, tmp_path)
    check_trackers(with_trackers("tensorboard", "csv").log, tmp_path)


def test_a_folder_named_like_a_package_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandbx").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not following._is_installed("wandbx")
    (tmp_path / "wandbx/__init__.py").touch()
    assert following._is_installed("wandbx")


def test_the_store_of_mlflow_never_lies_in_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "_is_installed", lambda package: True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = tmp_path / "data"
    data.mkdir()
    (data / "data.yaml").touch()
    for place in (data, data / "deep"):
        log = toy_run(log={"trackers": ["mlflow"], "mlflow": {"folder": place}}).log
        for given in (data, data / "data.yaml"):
            with pytest.raises(ConfigError, match=r"lies in the data set.*log\.mlflow\.folder=DIR"):
                check_trackers(log, tmp_path / "run", data=given)
    check_trackers(toy_run(log={"trackers": ["mlflow"], "mlflow": {"folder": tmp_path}}).log, data / "run", data=data)
    with pytest.raises(ConfigError, match="is a file"):
        check_trackers(toy_run(log={"trackers": ["mlflow"], "mlflow": {"folder": data / "data.yaml"}}).log, tmp_path)


def test_the_folder_that_mlflow_will_use_is_the_one_that_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "_is_installed", lambda package: True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data, log = tmp_path / "data", with_trackers("mlflow").log
    data.mkdir()
    monkeypatch.chdir(data)
    check_trackers(log, tmp_path / "run", data=data)  # the store lies beside the run, not in the current folder
    with pytest.raises(ConfigError, match="lies in the data set"):
        check_trackers(log, Path("runs/r/1"), data=data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="lies in the data set"):
        check_trackers(log, Path("data/run"), data=data)


def test_a_tracker_is_named_once_and_its_keys_need_it():
    with pytest.raises(ValueError, match="names a tracker twice"):
        with_trackers("csv", "csv")
    assert set(with_trackers("csv").log.without_effect()) == {"mlflow", "wandb"}
    assert set(with_trackers("mlflow", "wandb").log.without_effect()) == set()


def test_parameters_are_the_leaves_of_the_configuration_without_secrets(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "tokenvalue99")
    params = params_of(toy_run(recipe="tokenvalue99", lr=0.125))
    assert params["lr"] == 0.125
    assert params["optimizer.kind"] == "sgd"
    assert params["epochs"] == 4
    assert params["steps"] is None
    assert params["recipe"] == "***"
    assert json.loads(params["checkpoint.keep"])[0]["rule"] == "last"
