"""Trackers as a user meets them: a real detector, fake packages, fake tokens; the real packages where there are any."""

import contextlib
import csv
import importlib.util
import json
import os
import sqlite3
import time
from pathlib import Path

import pytest

from tests.cli.tool import RECIPE, TINY, sightline, without_report, write_city
from tests.engine.trackers.fakes import Fakes

SECRETS = {
    "WANDB_API_KEY": "wandbtoken0123456789abcdef",
    "MLFLOW_TRACKING_TOKEN": "mlflowtoken0123456789abcdef",
    "MLFLOW_TRACKING_PASSWORD": "mlflowpassword0123",
    "MLFLOW_TRACKING_URI": "http://me:uripassword0123@127.0.0.1:9",
}
HIDDEN = ("wandbtoken0123456789abcdef", "mlflowtoken0123456789abcdef", "mlflowpassword0123", "uripassword0123")


def train(folder, *changes, command="train"):
    """Two epochs of two steps."""
    small = [change for change in TINY if not change.startswith("log.trackers")]
    first = ("train", RECIPE, "--data", "city", "--out", "run", *small) if command == "train" else ("resume", "run")
    with without_report():
        return sightline(*first, *changes, cwd=folder)


@pytest.fixture
def folder(tmp_path):
    write_city(tmp_path / "city")
    return tmp_path


def bytes_of(folder):
    """Content of every file below a folder, by path."""
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return {str(path): path.read_bytes() for path in files}


def assert_no_secret(run, outcome):
    files = bytes_of(run)
    assert any(path.endswith("run.json") for path in files)
    for secret in HIDDEN:
        told = [path for path, content in files.items() if secret.encode() in content]
        assert not told, f"{secret} stands in {told}"
        assert secret not in outcome.out + outcome.err


@pytest.mark.parametrize("mood", ["", "raise open", "raise write", "raise close"])
def test_no_token_reaches_a_file_or_the_screen_even_when_a_tracker_says_it(folder, monkeypatch, mood):
    fakes = Fakes(folder, monkeypatch)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    fakes.misbehave(mood)
    outcome = train(folder, "log.trackers=[tensorboard,csv,mlflow,wandb]")
    assert outcome.code == 0, outcome.err
    assert_no_secret(folder / "run", outcome)
    said = [line for line in outcome.out.splitlines() if line.startswith(("mlflow:", "wandb:"))]
    assert bool(said) == bool(mood)
    if mood:
        assert all("refused: *** *** http://***@127.0.0.1:9" in line or "missing" in line for line in said), said
    with (folder / "run/metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["kind"] == "train"] == ["1", "2", "3", "4"]


def test_a_tracker_that_hangs_costs_a_run_its_patience_at_the_end(folder, monkeypatch):
    Fakes(folder, monkeypatch).misbehave("hang open")
    monkeypatch.setattr("sightline.engine.trackers.following.PATIENCE_SECONDS", 0.5)
    began = time.monotonic()
    outcome = train(folder, "log.trackers=[wandb]")
    assert outcome.code == 0, outcome.err
    assert time.monotonic() - began < 30
    assert "wandb: 6 of 6 rows are missing, not taken 0.5 s after the run's end" in outcome.out


def test_a_missing_package_is_told_before_anything_is_made(folder, monkeypatch):
    monkeypatch.setattr("sightline.engine.trackers.following._is_installed", lambda package: False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("mlflow", "wandb"):
        outcome = train(folder, f"log.trackers=[{name}]")
        assert outcome.code == 2
        assert f"pip install 'sightline[{name}]'" in outcome.err
        assert outcome.err.count("\n") <= 5
        assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("log.trackers=csv", "must be a list"),
        ("log.trackers=[tensorbord]", "Did you mean 'tensorboard'?"),
        ("log.trackers=[csv,csv]", "names a tracker twice"),
        ("log.mlflow.folder=x", "log.trackers does not name mlflow"),
        ("log.wandb.mode=online", "log.trackers does not name wandb"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(folder, change, told):
    outcome = train(folder, change)
    assert outcome.code == 2
    assert told in outcome.err
    assert not (folder / "run").exists()


def test_a_store_of_mlflow_in_the_data_is_refused_before_the_run(folder, monkeypatch):
    monkeypatch.setattr("sightline.engine.trackers.following._is_installed", lambda package: True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    small = [change for change in TINY if not change.startswith("log.trackers")]
    before = bytes_of(folder)
    for place in (["--out", "city/run"], []):  # beside the run; beside runs, which would lie in the data
        cwd, data = (folder, "city") if place else (folder / "city", ".")
        outcome = sightline("train", RECIPE, "--data", data, *place, *small, "log.trackers=[mlflow]", cwd=cwd)
        assert outcome.code == 2
        assert "lies in the data set" in outcome.err
        assert bytes_of(folder) == before


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def no_settings(monkeypatch):
    """The user's own settings of trackers, without those of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, SECRETS[name])
    monkeypatch.setattr("sightline.engine.trackers.following.PATIENCE_SECONDS", 60.0)


@needs("mlflow", "sqlalchemy", "alembic")
@pytest.mark.usefixtures("no_settings")
def test_a_real_mlflow_store_has_the_run_once_also_after_a_resume(folder):
    outcome = train(folder, "log.trackers=[mlflow]")
    assert outcome.code == 0, outcome.err
    assert train(folder, "epochs=3", command="resume").code == 0
    assert_no_secret(folder, outcome)
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store:
        assert store.execute("select name, status from runs").fetchall() == [("run", "FINISHED")]
        losses = store.execute("select step, value from metrics where key = 'train/loss' order by step").fetchall()
        parameters = dict(store.execute("select key, value from params").fetchall())
        tags = dict(store.execute("select key, value from tags").fetchall())
    assert losses == [(row["step"], row["values"]["loss"]) for row in rows if row["kind"] == "train"]
    assert parameters["epochs"] == "2"
    assert tags["resumed.epochs"] == "3"
    assert not list((folder / "city").rglob("ml*"))


@needs("wandb")
@pytest.mark.usefixtures("no_settings")
def test_a_real_wandb_run_stays_offline_and_keeps_its_id(folder):
    outcome = train(folder, "log.trackers=[wandb]")
    assert outcome.code == 0, outcome.err
    assert train(folder, "epochs=3", command="resume").code == 0
    assert_no_secret(folder / "run", outcome)
    name = json.loads((folder / "run/trackers.json").read_text())["id"]
    files = list((folder / "run/wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 2
    assert all(b"train/loss" in path.read_bytes() for path in files)
