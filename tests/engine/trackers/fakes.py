"""Packages that stand in for MLflow and Weights & Biases: a tracker's process imports them in place of the real ones.

They write what they are told as lines of JSON into the file that FAKE_LOG names, and misbehave as FAKE_MOOD says:
``hang``, ``raise`` or ``die`` at the moment ``open``, ``write`` or ``close``, e.g. ``hang write``. One that hangs tells
so first, at a moment called ``hang``.
"""

import json
import sys
from pathlib import Path

COMMON = """
import json, os, sys, time

def note(moment, **what):
    print("noise on the output")
    mood, _, when = os.environ.get("FAKE_MOOD", "").partition(" ")
    if when == moment:
        if mood == "hang":
            keep("hang", of=moment)
            time.sleep(3600)
        if mood == "die":
            os._exit(7)
        if mood == "raise":
            names = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI")
            raise ConnectionError("refused: " + " ".join(os.environ.get(name, "") for name in names))
    keep(moment, **what)

def keep(moment, **what):
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(json.dumps({"moment": moment, **what}) + chr(10))
"""

WANDB = (
    COMMON
    + """
class Settings:
    model_fields = {"silent": None, "console": None}
    def __init__(self, **values):
        self.values = values

class Config:
    def update(self, values, allow_val_change):
        note("config", values=values)

class Run:
    config = Config()
    def define_metric(self, name, step_metric=None):
        pass
    def log(self, values):
        note("write", values=values)
    def finish(self, exit_code):
        note("close", exit_code=exit_code)

def init(**options):
    options["settings"] = options["settings"].values
    note("open", options=options, torch="torch" in sys.modules)
    return Run()
"""
)

MLFLOW_TRACKING = (
    COMMON
    + """
class Info:
    run_id = "r1"

class Data:
    params = {}

class FakeRun:
    info, data = Info(), Data()

class MlflowClient:
    def __init__(self, tracking_uri):
        note("open", telemetry=os.environ.get("MLFLOW_DISABLE_TELEMETRY"))
    def get_experiment_by_name(self, name):
        return None
    def create_experiment(self, name, artifact_location):
        note("experiment", name=name)
        return "1"
    def search_runs(self, experiments, text, max_results):
        return []
    def create_run(self, experiment, run_name, tags):
        return FakeRun()
    def log_batch(self, run, metrics=(), params=(), tags=()):
        note("write" if metrics else "params", metrics=list(metrics), params=dict(params))
    def set_terminated(self, run, status):
        note("close", status=status)
"""
)

ENTITIES = """
from collections import namedtuple
Metric = namedtuple("Metric", "key value timestamp step")
Param = namedtuple("Param", "key value")
RunTag = namedtuple("RunTag", "key value")
"""


class Fakes:
    """The packages in a folder that is searched first, and what they were told."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        packages = folder / "packages"
        for path, text in {
            "wandb/__init__.py": WANDB,
            "mlflow/__init__.py": "",
            "mlflow/tracking.py": MLFLOW_TRACKING,
            "mlflow/entities.py": ENTITIES,
        }.items():
            (packages / path).parent.mkdir(parents=True, exist_ok=True)
            (packages / path).write_text(text)
        self.log = folder / "told.jsonl"
        self._monkeypatch = monkeypatch
        monkeypatch.syspath_prepend(packages)
        monkeypatch.setenv("FAKE_LOG", str(self.log))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter22pass@127.0.0.1:9")
        for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
            monkeypatch.delenv(name, raising=False)
        assert not {"wandb", "mlflow"} & sys.modules.keys(), "a run never imports them into its own process"

    def misbehave(self, mood: str) -> None:
        """As FAKE_MOOD says."""
        self._monkeypatch.setenv("FAKE_MOOD", mood)

    def told(self, moment: str) -> list[dict]:
        """What came at a moment, in order."""
        lines = map(json.loads, self.log.read_text().splitlines()) if self.log.exists() else ()
        return [line for line in lines if line["moment"] == moment]
