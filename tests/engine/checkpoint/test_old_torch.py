"""Files that the oldest supported PyTorch wrote are used by the one that is here; see ``old_torch.py``."""

import json
import re
import shutil
from contextlib import chdir

import pytest
import torch

import sightline
from sightline.engine.checkpoint.reader import load_tensor_file, load_tensors, newest_whole
from sightline.engine.checkpoint.release import read_release
from tests.cli.tool import without_report
from tests.conftest import ROOT, quiet
from tests.engine.checkpoint.old_torch import CHECKPOINT, OLDEST, RELEASE, ROWS, RUN, recorded_run


@pytest.fixture
def run(tmp_path):
    """A copy that may be written to."""
    return shutil.copytree(RUN, tmp_path / "run")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_files_are_those_of_the_oldest_supported_version_and_small():
    assert f'"torch>={OLDEST}"' in (ROOT / "pyproject.toml").read_text()
    (session,) = json.loads((RUN / "run.json").read_text())["sessions"]
    assert re.match(rf"{re.escape(OLDEST)}\.", session["versions"]["torch"])
    assert sum(path.stat().st_size for path in RUN.parent.rglob("*") if path.is_file()) < 20_000


def test_a_run_that_the_oldest_version_began_goes_on_as_it_did_there(run):
    began = rows_of(run / "metrics.jsonl")
    assert len(began) < len(rows_of(ROWS))
    with without_report():
        result = sightline.resume(run, ["stop_at_epoch=null"], console=quiet())
    assert (result.exit_code, result.step) == (0, 24)
    rows = rows_of(run / "metrics.jsonl")
    assert rows[: len(began)] == began
    for ours, theirs in zip(rows, rows_of(ROWS), strict=True):
        assert {name: ours[name] for name in ("step", "epoch", "kind")} == {
            name: theirs[name] for name in ("step", "epoch", "kind")
        }
        # Sums of float32 in another order: 12 more steps, each with an error of a few 1e-7.
        assert ours["values"] == pytest.approx(theirs["values"], rel=1e-5, abs=1e-6)


def test_weights_of_the_oldest_version_are_evaluated_and_started_from(run, tmp_path):
    figures = [row["values"] for row in rows_of(run / "metrics.jsonl") if row["kind"] == "eval"]
    assert dict(sightline.evaluate(run)) == dict(sightline.evaluate(RELEASE)) == figures[-1]
    with without_report(), chdir(tmp_path):
        again = sightline.train(recorded_run(), changes=[f"weights={RELEASE}"], out=tmp_path / "again", console=quiet())
    assert again.exit_code == 3  # it stops at its second epoch
    assert "averaged weights" in (again.run_dir / "start_weights.txt").read_text()


def test_a_released_file_of_the_oldest_version_holds_the_average_bit_for_bit():
    release = read_release(RELEASE)
    checkpoint = newest_whole(RUN, print)
    average = load_tensors(checkpoint, "ema")["ema"]
    assert (release.header.step, checkpoint.path.name) == (12, CHECKPOINT)
    assert release.header.source_sha256 == checkpoint.manifest.files["ema.safetensors"].sha256
    there = load_tensor_file(RELEASE)
    assert there.keys() == average.keys() and all(torch.equal(there[name], average[name]) for name in there)
