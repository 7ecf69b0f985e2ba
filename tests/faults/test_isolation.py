"""Nothing is downloaded, installed, sent, started, unpickled, or written outside of the run and the user's cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.tool import RECIPE
from tests.faults.tiny import changes_with

ROOT = Path(__file__).parents[2]


def listing(folder):
    """Everything of every file of a folder that a change would change."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        about = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (about.st_mode, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, content)
    return found


def watched(commands, folder, cwd):
    """Run commands in a process without network, in an empty home. Returns what it did."""
    for name in ("home", "cache", "temporary"):
        (folder / name).mkdir()
    (folder / "commands.json").write_text(json.dumps(commands))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder / "temporary"),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.watched", folder / "commands.json", folder / "events.json"],
        check=False,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "events.json").read_text()), done


@pytest.mark.timeout(900)
def test_a_whole_life_of_a_model_needs_no_network_and_touches_nothing_of_others(tmp_path):
    """World, check, train, train longer, evaluate, predict, report: with sockets blocked and the data untouched."""
    own, out, data = tmp_path / "own", tmp_path / "out", tmp_path / "data"
    for folder in (own, out):
        folder.mkdir()
    first, _ = watched([["world", str(data), "--scenes", "12"]], own, out)
    assert first["codes"] == [0]
    assert not first["refused"]
    before = listing(data)
    own = tmp_path / "own2"
    own.mkdir()
    changes = [c for c in changes_with("epochs=1", "workers=2", "data.cache=disk") if not c.startswith("data.world")]
    commands = [
        ["check", str(data)],
        ["train", RECIPE, "--data", str(data), "--out", "run", *changes],
        ["resume", "run", "epochs=2"],
        ["eval", "run", "--save", "detections.json"],
        ["predict", "run", str(data / "images" / "val"), "--out", "found"],
        ["report", "run"],
        ["status", "run"],
        ["train", "--from", "run", "--out", "again", "epochs=1"],
        ["compare", "run", "again", "--out", "curves.png"],
        ["list"],
    ]
    seen, done = watched(commands, own, out)
    assert seen["codes"] == [0] * len(commands), done.stdout + done.stderr
    assert seen["refused"] == []
    assert listing(data) == before
    allowed = (str(out), str(own / "cache"), str(own / "temporary"), "/dev/")
    outside = [path for path in seen["changed"] if not path.startswith(allowed)]
    assert outside == []
    in_home = {str(path.relative_to(own / "home")) for path in (own / "home").rglob("*")}
    assert in_home <= {".config", ".config/matplotlib"}  # the empty folder that matplotlib makes when it is imported
    assert list((own / "temporary").iterdir()) == []
