"""Parts of the work get the time that they took, and all of it."""

import io
import json
import time

import pytest
import torch

from sightline.engine.callback import Callback
from sightline.engine.stopwatch import OFF, RunningStopwatch
from tests.engine.sessions import session
from tests.engine.toy import ToyLoader, toy_run
from tests.together import together

CPU = torch.device("cpu")


def test_time_belongs_to_the_last_part_that_was_named(monkeypatch):
    ticks = iter([0.0, 1, 3, 3.5, 10])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    stopwatch = RunningStopwatch()
    stopwatch.lap("early")  # not measured yet
    stopwatch.start(CPU)
    assert stopwatch.lap("forward") == "early"
    before = stopwatch.lap("callback")
    stopwatch.lap(before)
    assert stopwatch.stop().host == {"early": 1, "forward": 2 + 6.5, "callback": 0.5}
    assert stopwatch.stop().host == {}


def test_the_empty_twin_gives_back_what_it_was_given():
    batches = iter([1, 2])
    assert OFF.waiting_for(batches) is batches
    OFF.start(CPU)
    assert OFF.lap("forward") == "forward"
    assert OFF.stop().host == {}


class Slow(Callback):
    def on_step_end(self, training, report):
        time.sleep(0.02)


def profiled(folder, monkeypatch, callbacks=(), **changes):
    """A run whose data takes 10 ms a batch."""
    iterate = ToyLoader.iterate

    def slowly(self, **arguments):
        for fetched in iterate(self, **arguments):
            time.sleep(0.01)
            yield fetched

    monkeypatch.setattr(ToyLoader, "iterate", slowly)
    stream = io.StringIO()
    session(toy_run(**changes), folder, said=stream, callbacks=callbacks)
    path = folder / "profile.json"
    return (json.loads(path.read_text()) if path.exists() else None), stream.getvalue()


def test_waiting_for_data_and_slow_callbacks_are_named(tmp_path, monkeypatch):
    found, said = profiled(tmp_path / "a", monkeypatch, [Slow()], profile=8)
    assert (found["first_step"], found["steps"], found["unit"], found["clock"]) == (4, 8, "samples", "host")
    parts = found["parts"]
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert sum(part["ms_per_step"] for part in parts.values()) == pytest.approx(found["ms_per_step"])
    assert parts["data"]["ms_per_step"] >= 10
    assert found["callbacks"]["Slow"]["ms_per_step"] >= 20
    assert next(iter(found["callbacks"])) == "Slow"
    assert parts["callbacks"]["ms_per_step"] >= found["callbacks"]["Slow"]["ms_per_step"]
    # One epoch of 6 steps ends in steps 4 to 11: one evaluation of 3 batches, and checkpoints of steps 6 and 9.
    assert parts["evaluation"]["ms_per_step"] >= 3 * 10 / 8
    assert found["evaluations"] == 1
    assert "no evaluation" not in said
    assert all(part["share"] > 0 for part in parts.values())
    assert found["samples_per_second"] == pytest.approx((2 * 4 + 2 + 5 * 4) / (found["ms_per_step"] * 8 / 1000))
    assert found["memory"]["host_memory_mib"] > 50
    assert "profile of 8 steps (4 to 11)" in said
    assert "data wait" in said
    assert "    Slow " in said


def profiled_together(processes, folder):
    config = toy_run(profile=8)
    session(config, folder, problem=config.open(share=processes.share), processes=processes)


def test_samples_of_all_processes_are_counted(tmp_path):
    together(2, profiled_together, tmp_path / "a")
    found = json.loads((tmp_path / "a" / "profile.json").read_text())
    assert found["samples_per_second"] == pytest.approx((2 * 4 + 2 + 5 * 4) / (found["ms_per_step"] * 8 / 1000))


def test_a_run_that_is_shorter_tells_of_the_steps_that_it_had(tmp_path, monkeypatch):
    found, said = profiled(tmp_path / "a", monkeypatch, profile=20, epochs=1)
    assert (found["first_step"], found["steps"]) == (1, 6)
    assert found["parts"]["evaluation"]["share"] > 0  # the last one belongs to the steps
    assert said.count("profile of") == 1


def test_it_says_when_no_evaluation_was_measured(tmp_path, monkeypatch):
    found, said = profiled(tmp_path / "a", monkeypatch, profile=2, epochs=1)
    assert (found["first_step"], found["evaluations"]) == (4, 0)
    assert "no evaluation fell into these steps" in said


def test_a_run_without_a_profile_has_no_file(tmp_path, monkeypatch):
    found, said = profiled(tmp_path / "a", monkeypatch, epochs=1)
    assert found is None
    assert "profile" not in said


def test_epochs_are_timed_with_their_evaluation_and_a_mean_without_the_first(tmp_path, monkeypatch):
    _, said = profiled(tmp_path / "a", monkeypatch, epochs=3)
    rows = [json.loads(line) for line in (tmp_path / "a" / "timing.jsonl").read_text().splitlines()]
    seconds = [row["values"]["epoch_seconds"] for row in rows if row["kind"] == "epoch"]
    assert len(seconds) == 3
    assert all(one >= 9 * 0.01 for one in seconds)  # 6 batches to train on, 3 to evaluate
    mean = (seconds[1] + seconds[2]) / 2
    wanted = f"epoch time, evaluation included: {seconds[0]:.2f} s the first, {mean:.2f} s the mean of the 2 after it"
    assert wanted in said


def test_rows_of_timing_tell_the_memory(tmp_path, monkeypatch):
    profiled(tmp_path / "a", monkeypatch, epochs=1)
    rows = [json.loads(line) for line in (tmp_path / "a" / "timing.jsonl").read_text().splitlines()]
    assert all(row["values"]["host_memory_mib"] > 50 for row in rows if row["kind"] == "train")


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_clock(tmp_path, monkeypatch):
    found, said = profiled(tmp_path / "a", monkeypatch, profile=8, device="cuda")
    assert found["clock"] == "device"
    assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1)
    assert found["parts"]["data"]["ms_per_step"] >= 9  # the GPU waits for batches of 10 ms
    assert found["memory"]["device_memory_mib"] > 0
    assert "by the clock of the GPU" in said
