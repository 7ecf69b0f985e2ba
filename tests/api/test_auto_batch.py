"""``batch_size=auto`` from the command to the run folder."""

import pytest
import torch

from sightline import api
from sightline.api import auto_batch
from sightline.api.auto_batch import find_batch_size, settle_batch_size
from sightline.config.errors import ConfigError
from sightline.engine.auto_batch import Measured
from sightline.engine.building import build_training, settle
from sightline.engine.finding import DataReview
from tests.cli.tool import RECIPE, TINY, sightline, without_report, write_city
from tests.engine.toy import toy_run

CPU = torch.device("cpu")


@pytest.fixture
def city(tmp_path):
    write_city(tmp_path / "city")
    with without_report():
        yield tmp_path


def test_it_is_printed_recorded_and_repeated(city):
    changes = [*(one for one in TINY if not one.startswith("batch_size")), "auto_batch.most=6"]
    done = sightline("train", RECIPE, "--data", "city", "batch_size=auto", *changes, "--out", "a", cwd=city)
    assert done.code == 0, done.err
    assert done.out.startswith("batch_size=auto: 6. A step takes ")
    assert "larger ones than auto_batch.most=6 are not tried" in done.out
    assert "batches of 6" in done.out
    assert "\nbatch_size: 6\n" in (city / "a" / "config.yaml").read_text()
    by_hand = [one for one in changes if not one.startswith("auto_batch")]
    assert sightline("train", RECIPE, "--data", "city", "batch_size=6", *by_hand, "--out", "b", cwd=city).code == 0
    assert (city / "a" / "metrics.jsonl").read_bytes() == (city / "b" / "metrics.jsonl").read_bytes()


def test_a_preflight_finds_it_too(city):
    changes = [*(one for one in TINY if not one.startswith(("batch_size", "epochs"))), "auto_batch.most=4", "epochs=1"]
    report = api.preflight(RECIPE, data=city / "city", changes=[*changes, "batch_size=auto"], out=city / "run")
    (finding,) = [one for one in report.findings if one.topic == "batch size"]
    assert finding.weight == "ok" and finding.text.startswith("batch_size=auto: 4. ")


def test_where_a_number_is_needed_auto_is_refused(city):
    done = sightline("plot-lr", RECIPE, "--data", "city", "batch_size=auto", cwd=city)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "give a number here" in done.err


def test_its_rules_do_nothing_beside_a_number(city):
    done = sightline("train", RECIPE, "--data", "city", "batch_size=4", "auto_batch.share=0.5", cwd=city)
    assert done.code == 2 and "the batch has its size" in done.err


def test_a_run_that_goes_on_has_its_size(city):
    assert sightline("train", RECIPE, "--data", "city", *TINY, "limit_batches=1", "--out", "a", cwd=city).code == 0
    done = sightline("resume", "a", "batch_size=auto", cwd=city)
    assert done.code == 2 and "has a batch size" in done.err


def toy(**changes):
    return settle(toy_run(batch_size="auto", **changes))


@pytest.mark.parametrize("processes, expected", [(1, 16), (3, 48)])
def test_every_process_gets_the_batch_that_fits(monkeypatch, processes, expected):
    # The measuring stands aside: a sample takes 1000 bytes, and there are 24,000.
    monkeypatch.setattr("sightline.engine.memory.free_host_bytes", lambda: 24_000 * processes)
    monkeypatch.setattr(
        auto_batch._Trials,
        "measure",
        lambda self, n: Measured(n, 1000 * n, 0.0) if n <= len(self.batch) else None,
    )
    config, how = find_batch_size(toy(data_samples=100), CPU, processes=processes, on_this_machine=processes)
    assert config.batch_size == expected
    assert "A step takes 0 MB (measured); 0 MB are free, of which it may take 70%" in how
    assert ("16 for each of 3 processes" in how) == (processes == 3)
    build_training(config, config.open())


def test_real_steps_of_a_toy_are_tried_up_to_all_samples():
    config, how = find_batch_size(toy(data_samples=12), CPU)
    assert config.batch_size == 12
    assert how.endswith("there are no more samples")


def test_running_out_of_memory_ends_the_search(monkeypatch):
    config = toy(data_samples=100)
    problem = config.but(batch_size=64).open()
    forward = problem.task.forward

    def limited(batch):
        if len(batch) > 9:
            raise torch.OutOfMemoryError("no room in this test")
        return forward(batch)

    problem.task.forward = limited
    config, _ = find_batch_size(config, CPU, review=DataReview(lambda variant: problem))
    assert config.batch_size == 8


def test_data_that_cannot_be_opened_is_told(city):
    with pytest.raises(ConfigError, match="batch_size=auto"):
        find_batch_size(toy(), CPU, review=DataReview(None))


def test_only_the_first_process_searches_and_a_run_that_goes_on_knows(monkeypatch, tmp_path):
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    config = toy()
    assert settle_batch_size(config, lambda: None) == (config, [])
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "config.yaml").write_text("recipe: toy\nbatch_size: 12\n")
    settled, said = settle_batch_size(config, lambda: str(tmp_path))
    assert (settled.batch_size, said) == (12, [])
