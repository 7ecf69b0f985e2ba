"""The search command: a real one whose process is killed while its trials live on, and what it refuses."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.tool import RECIPE, TINY, sightline, typed

CHANGES = [
    *(change for change in TINY if not change.startswith("epochs")),
    "epochs=50",
    "evaluate.every_epochs=50",
    "checkpoint.every_epochs=0",
]


@pytest.mark.timeout(900)
def test_trials_outlive_a_killed_search_only_to_save_and_the_same_command_goes_on(workplace, tmp_path):
    out = tmp_path / "out"
    given = [RECIPE, "--data", "city", *CHANGES, "lr=log(1e-3,1e-1)", "--metric", "AP50", "--trials", "1"]
    command = [sys.executable, "-m", "sightline.cli.main", "search", *given, "--out", str(out)]
    killed = subprocess.Popen(command, cwd=workplace, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        log = out / "trial_0000" / "metrics.jsonl"
        while not (log.exists() and log.stat().st_size):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    done = sightline("search", *given, "--out", out, "--jobs", 2, cwd=workplace)
    assert (done.code, done.err) == (0, "")
    assert "trials of an earlier session still save" in done.out
    assert re.search(r"^trial +AP50 +lr *$", done.out, re.MULTILINE)
    sessions = json.loads((out / "trial_0000" / "run.json").read_text())["sessions"]
    assert [session["outcome"] for session in sessions] == ["interrupted", "done"]
    assert sessions[1]["from_step"] > 0
    assert "SIGHTLINE_PARENT" not in sessions[0]["environment"]
    best = re.search(r"best: trial (\d)\. Train with its values: sightline train (\S+)", done.out)
    values = json.loads((out / "trials.jsonl").read_text().splitlines()[int(best[1])])["values"]
    config = sightline("train", best[2], "--print-config", cwd=tmp_path)  # from another folder than the data's
    assert f"\nlr: {values['lr']} " in config.out
    status = sightline("status", out, cwd=workplace)
    assert re.findall(r"trial_000\d +(\w+)", status.out) == ["done"]


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        (f"search {RECIPE} lr=log(1e-3,1e-1)", "Missing option '--out'"),
        ("search lr=log(1e-3,1e-1) --out out", "which recipe?"),
        ("search --out out", "out: holds no search"),
        (f"search {RECIPE} --out out", "no key has a range"),
        (f"search {RECIPE} lr=lgo(1e-3,1e-1) --out out", "Did you mean 'log'?"),
        (f"search {RECIPE} momentun=uniform(0.1,0.9) --out out", "Did you mean 'optimizer.momentum'?"),
        (f"search {RECIPE} lr=log(1e-3,1e-1) --jobs 0 --out out", "jobs=0: give 1 or more"),
        (f"search {RECIPE} lr=log(1e-3,1e-1) --space nowhere.yaml --out out", "space file nowhere.yaml"),
        (f"search {RECIPE} lr=log(1e-3,1e-1) --data nowhere --out out", "nowhere"),
        (f"search {RECIPE} lr=log(1e-3,1e-1) --out city", "city: is not empty and holds no search"),
        (f"search {RECIPE} lr=log(1e-3,1e-1) --out city/data.yaml", "data.yaml: cannot be made"),
        (f"search {RECIPE}s lr=log(1e-3,1e-1) --out out", f"Did you mean '{RECIPE}'?"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_begun(workplace, line, cure):
    refused = typed(line, cwd=workplace)
    assert refused.code == 2
    assert cure in refused.err
    assert not (workplace / "out").exists()
