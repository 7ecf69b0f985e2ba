"""Searches of real trainings: broken at random moments, in parallel, with trials that fail."""

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from sightline import api
from sightline.api.training import PARENT
from sightline.cli.main import main
from sightline.config.errors import ConfigError, RunError
from sightline.engine.run_folder.lock import RunLock
from tests.cli.tool import RECIPE, without_report
from tests.faults.lives import Life
from tests.faults.tiny import assert_same_bits, changes_with
from tests.forked import forked

SPACE = {"lr": "log(1e-4, 1e-1)", "optimizer.weight_decay": "choice(0, 1e-4)"}
CHANGES = changes_with(
    "steps=3", "evaluate.loss=true", "evaluate.best.direction=min", "log.trackers=[]", "data.world.scenes=6",
    "schedule.warmup.epochs=0", "checkpoint.every_steps=1", "log.train_pictures=0", "log.eval_pictures=0",
)  # fmt: skip
"""A training of three steps and one evaluation; a checkpoint after every step."""


class ForkedTrial:
    """A trial in a forked child, as ``trials.spawn`` gives it, so that it begins in milliseconds."""

    def __init__(self, arguments, errors, lock):
        self.code = None
        self.pid = forked(partial(self._be, arguments, errors, os.getpid()))

    def _be(self, arguments, errors, parent):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(errors.fileno(), 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        sys.argv = ["sightline", *arguments]
        os.environ[PARENT] = str(parent)
        with contextlib.redirect_stdout(io.StringIO()), without_report():
            try:
                main()
            except SystemExit as end:
                return end.code
            finally:
                sys.stderr.flush()
        return 0

    def poll(self):
        if self.code is None:
            pid, ended = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(ended)
        return self.code

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        while self.poll() is None:
            time.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("sightline.api.trials.spawn", ForkedTrial)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def search(out, *changes, said=None, **arguments):
    given = {"space": SPACE, "trials": 5, "generation": 2, "metric": "loss", **arguments}
    return api.search(RECIPE, [*CHANGES, *changes], out=out, say=(said if said is not None else []).append, **given)


def go_on(out, said=None):
    return api.search(out=out, say=(said if said is not None else []).append)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A search of five trials; do not write here."""
    folder = tmp_path_factory.mktemp("search") / "unbroken"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sightline.api.trials.spawn", ForkedTrial)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        assert search(folder).exit_code == 0
    return folder


def assert_equal_searches(folder, unbroken):
    """Values, figures, and every bit of every trial."""
    assert (folder / "trials.jsonl").read_bytes() == (unbroken / "trials.jsonl").read_bytes()
    best = [yaml.safe_load((one / "best.yaml").read_text()) for one in (folder, unbroken)]
    assert best[0] == best[1]
    runs = sorted(path.name for path in unbroken.iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == runs
    for name in runs:
        assert_same_bits(folder / name, unbroken / name, name)


def test_trials_are_runs_and_the_best_is_a_change_file(unbroken, tmp_path):
    rows = [json.loads(line) for line in (unbroken / "trials.jsonl").read_text().splitlines()]
    assert [row["trial"] for row in rows] == list(range(5))
    for row in rows:
        run = unbroken / f"trial_{row['trial']:04d}"
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        best = min((line for line in lines if line["kind"] == "eval"), key=lambda line: line["values"]["loss"])
        assert (row["figure"], row["step"], row["figures"]) == (best["values"]["loss"], best["step"], best["values"])
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert row["values"] == {"lr": config["lr"], "optimizer.weight_decay": config["optimizer"]["weight_decay"]}
    best = min(rows, key=lambda row: row["figure"])
    again = tmp_path / "again"
    with without_report():
        api.train(unbroken / "best.yaml", out=again)
    assert_same_bits(again, unbroken / f"trial_{best['trial']:04d}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
def test_a_search_killed_at_random_moments_equals_an_unbroken_one(unbroken, tmp_path, seed):
    moments, folder = random.Random(seed), tmp_path / "search"
    for life in range(8):
        one = Life(lambda: search(folder, jobs=1 + seed).exit_code, tmp_path / "log")
        try:
            end = time.monotonic() + moments.uniform(0.1, 1.5)
            one.wait_for(lambda: time.monotonic() > end)  # noqa: B023
            one.kill(with_children=bool(life % 2))
        finally:
            one.kill()
    assert search(folder).exit_code == 0
    assert_equal_searches(folder, unbroken)


def test_two_jobs_are_one_job(unbroken, tmp_path):
    said = []
    assert search(tmp_path / "two", jobs=2, said=said).exit_code == 0
    assert [line.split(":")[0] for line in said] == [f"trial {trial} of 5" for trial in range(5)]
    assert_equal_searches(tmp_path / "two", unbroken)


def test_a_search_goes_on_with_more_trials(unbroken, tmp_path):
    folder, said = tmp_path / "more", []
    assert search(folder, trials=3).exit_code == 0
    assert search(folder, trials=5, said=said).exit_code == 0
    assert [line.split(":")[0] for line in said] == ["trial 3 of 5", "trial 4 of 5"]
    assert_equal_searches(folder, unbroken)
    before = (folder / "trials.jsonl").read_bytes()
    assert go_on(folder, said := []).exit_code == 0
    assert (said, (folder / "trials.jsonl").read_bytes()) == ([], before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_search_saves_its_trials_and_goes_on_with_them(unbroken, tmp_path, number):
    folder = tmp_path / "search"
    life = Life(lambda: search(folder, jobs=2).exit_code, tmp_path / "log")
    try:
        assert life.wait_for((folder / "trial_0002" / "metrics.jsonl").exists)
        life.send(number)
        assert life.exit_code() == 3, life.said()
        assert life.children_left() == []
    finally:
        life.bury()
    judged = len((folder / "trials.jsonl").read_text().splitlines())
    assert judged >= 2
    assert json.loads((folder / "trial_0002" / "run.json").read_text())["sessions"][-1]["exit_code"] in (0, 3)
    assert go_on(folder).exit_code == 0
    assert_equal_searches(folder, unbroken)


def test_a_trial_that_is_killed_alone_is_gone_on_with(unbroken, tmp_path, monkeypatch):
    begun = []

    class KilledOnce(ForkedTrial):
        def __init__(self, arguments, errors, lock):
            super().__init__(arguments, errors, lock)
            begun.append(arguments[0])
            self.run = Path(arguments[-1])
            self.is_doomed = len(begun) == 2

        def poll(self):
            if self.is_doomed and (self.run / "checkpoints" / "latest").exists():
                self.is_doomed = False
                with contextlib.suppress(ProcessLookupError):
                    self.kill()
            return super().poll()

    monkeypatch.setattr("sightline.api.trials.spawn", KilledOnce)
    assert search(tmp_path / "search").exit_code == 0
    assert begun[:3] == ["train", "train", "resume"]
    assert_equal_searches(tmp_path / "search", unbroken)


def test_a_trial_that_is_killed_again_and_again_ends_the_search(unbroken, tmp_path, monkeypatch):
    class Doomed(ForkedTrial):
        def _be(self, *arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    folder = tmp_path / "out"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("sightline.api.trials.spawn", Doomed)
        with pytest.raises(api.SearchError, match="it was killed by SIGKILL before it had got any further"):
            search(folder)
    assert search(folder).exit_code == 0
    assert_equal_searches(folder, unbroken)


def test_a_trial_that_diverges_is_noted_and_the_search_goes_on(tmp_path):
    said = []
    result = search(tmp_path / "out", space={"lr": "choice(1e-3, 1e30)"}, trials=3, generation=2, said=said)
    assert result.exit_code == 0
    failed = [one for one in result.trials if one.failure]
    assert failed
    assert all(one.values == {"lr": 1e30} and "NonFiniteError" in one.failure for one in failed)
    assert result.best is not None
    assert result.best.values == {"lr": 1e-3}
    assert [row[-1] for row in result.table().rows] == [""] * (3 - len(failed)) + ["failed"] * len(failed)
    assert sum("failed" in line for line in said) == len(failed)
    assert result.failures()[0].startswith(f"trial {failed[0].trial} failed: NonFiniteError")


def test_when_all_trials_fail_the_search_has_failed(tmp_path):
    with pytest.raises(api.SearchError, match=r"(?s)trial 0 failed: NonFiniteError.*all 2 trials failed"):
        search(tmp_path / "out", space={"lr": "uniform(1e30, 2e30)"}, trials=2)


def test_a_failure_of_the_disk_ends_the_search_and_is_no_result(unbroken, tmp_path, monkeypatch):
    class FullDisk(ForkedTrial):
        def _be(self, *arguments):
            def refuse(*arguments, **named):
                raise OSError(28, "No space left on device", "trial/metrics.jsonl")

            monkeypatch.setattr("sightline.engine.run_folder.metrics_log.MetricsLog.append", refuse)
            return super()._be(*arguments)

    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("sightline.api.trials.spawn", FullDisk)
        with pytest.raises(api.SearchError, match=r"(?s)trial 0 failed, and not by its values: .*No space left"):
            search(folder)
    assert not (folder / "trials.jsonl").exists()
    assert go_on(folder).exit_code == 0
    assert_equal_searches(folder, unbroken)


def test_a_figure_that_there_is_none_of_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ConfigError, match=r"evaluate\.best\.metric=AP51: the evaluation has no such figure"):
        search(tmp_path / "out", metric="AP51")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "arguments", "cure"),
    [
        ([], {"space": {"optimizer.momentun": "uniform(0, 0.9)"}}, "unknown key.*Did you mean 'optimizer.momentum'"),
        ([], {"space": {"optimizer.momentum": "uniform(0.5, 1.5)"}}, r"must be less than 1, got 1\.5"),
        ([], {"space": {"steps": "uniform(2, 5)"}}, "steps: must be a valid integer"),
        (["epochs=1"], {"space": {"steps": "int(2, 5)"}}, "give one of epochs, steps and samples"),
        (["lr=0.1"], {}, "lr has a range, .* and a value, 0.1"),
        (["max_time=10m"], {}, "max_time has no place in a trial"),
        (["batch_size=auto"], {}, "batch_size=auto depends"),
        (["lr=lgo(1,2)"], {}, "Did you mean 'log'"),
        ([], {"space": None}, "no key has a range"),
        ([], {"jobs": 3}, "only 2 would work"),
        ([], {"trials": 0}, "trials=0: give 1 or more"),
        ([], {"method": "grid"}, "give evolve or random"),
    ],
)
def test_mistakes_are_told_before_the_first_trial(tmp_path, changes, arguments, cure):
    ours = {change.split("=")[0] for change in (*changes, "steps=")}
    given = [one for one in CHANGES if one.split("=")[0] not in ours]
    with pytest.raises(ConfigError, match=cure):
        api.search(
            RECIPE,
            [*given, *changes],
            out=tmp_path / "out",
            **{"space": SPACE, "generation": 2, "trials": 5, **arguments},
        )
    assert not (tmp_path / "out").exists()


def test_values_that_do_not_fit_each_other_are_told_before_the_first_trial(tmp_path):
    file = tmp_path / "plain.yaml"
    file.write_text(f"recipe: {RECIPE}\noptimizer.momentum: 0.9\noptimizer.nesterov: false\n")
    space = {"optimizer.momentum": "choice(0.5, 0)", "optimizer.nesterov": "choice(true, false)"}
    with pytest.raises(ConfigError, match=r"trial \d \(optimizer\.momentum=0 .*=True\) could not run: .* above 0"):
        api.search(file, out=tmp_path / "out", space=space)
    assert not (tmp_path / "out").exists()


def test_a_space_file_is_named_with_the_line(tmp_path):
    (tmp_path / "space.yaml").write_text("lr: log(1e-3, 1e-1)\noptimizer:\n  momentum: uniform(0.9)\n")
    with pytest.raises(ConfigError, match=r"space\.yaml:3: optimizer\.momentum=uniform\(0\.9\): uniform takes two"):
        search(tmp_path / "out", space=tmp_path / "space.yaml")
    (tmp_path / "space.yaml").write_text("lr: 0.1\n")
    with pytest.raises(ConfigError, match=r"space\.yaml:1: lr=0\.1 is no range"):
        search(tmp_path / "out", space=tmp_path / "space.yaml")
    (tmp_path / "space.yaml").write_text("- lr\n")
    with pytest.raises(ConfigError, match=r"expected keys and their ranges"):
        search(tmp_path / "out", space=tmp_path / "space.yaml")


def test_a_folder_holds_one_search(unbroken, tmp_path):
    for changes, arguments, key in (
        (["batch_size=4"], {}, "batch_size=2, not 4"),
        ([], {"space": {**SPACE, "lr": "log(1e-4, 1)"}}, "lr="),
        ([], {"metric": "AP"}, "by="),
        ([], {"seed": 1}, "seed=0, not 1"),
    ):
        given = [*changes, *(one for one in CHANGES if one.split("=")[0] not in "".join(changes))]
        with pytest.raises(ConfigError, match=key):
            api.search(RECIPE, given, out=unbroken, **{"space": SPACE, "generation": 2, "metric": "loss", **arguments})
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is not empty and holds no search"):
        search(tmp_path)
    with pytest.raises(RunError, match="holds no search"):
        go_on(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="which recipe"):
        api.search(out=unbroken, metric="AP")


def test_two_searches_never_write_one_folder(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunError, match=f"is being written by process {os.getpid()}"):
        search(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


def test_a_trial_that_only_its_data_refuses_ends_the_search(tmp_path):
    # 100 is no multiple of the network's stride, 32, which is known once it is built.
    with pytest.raises(ConfigError, match=r"trial \d \(image_size=100\) is refused: "):
        api.search(
            RECIPE, [one for one in CHANGES if not one.startswith("image_size")], out=tmp_path / "out",
            space={"image_size": "choice(64, 100)"}, trials=2, generation=2, metric="loss", say=lambda text: None,
        )  # fmt: skip


def test_a_file_of_results_that_was_edited_is_refused(unbroken, tmp_path):
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / "search.json").write_bytes((unbroken / "search.json").read_bytes())
    lines = (unbroken / "trials.jsonl").read_text().splitlines(keepends=True)
    (folder / "trials.jsonl").write_text("".join([lines[1], lines[0]]))
    with pytest.raises(RunError, match=r"trials\.jsonl:1: this is not what trial 0 of the search tries"):
        go_on(folder)
    (folder / "trials.jsonl").write_text(lines[0] + "{}\n")
    with pytest.raises(RunError, match=r"trials\.jsonl:2: no result of a trial"):
        go_on(folder)
