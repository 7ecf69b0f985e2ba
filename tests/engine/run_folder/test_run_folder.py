import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from sightline.config.errors import RunError
from sightline.engine.run_folder.folder import existing_run, is_run, new_run_folder
from sightline.engine.run_folder.run_record import end_session, git_commit, read_record, redacted, start_session


def test_numbers_go_up_and_skip_what_is_taken(tmp_path):
    for expected in ("1", "2", "3"):
        assert new_run_folder("tiny", root=tmp_path) == tmp_path / "tiny" / expected
    (tmp_path / "tiny" / "10").mkdir()
    (tmp_path / "tiny" / "my-run").mkdir()
    (tmp_path / "tiny" / "12").write_text("a file is taken too")
    assert new_run_folder("tiny", root=tmp_path).name == "13"
    assert new_run_folder("other", root=tmp_path).name == "1"


def test_many_at_once_get_different_folders(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder("tiny", root=tmp_path), range(40)))
    assert len(set(folders)) == 40
    assert all(folder.is_dir() for folder in folders)


def test_a_name_or_folder_of_ones_own(tmp_path):
    assert new_run_folder("tiny", root=tmp_path, name="first try") == tmp_path / "tiny" / "first try"
    out = tmp_path / "deep" / "down"
    assert new_run_folder("tiny", root=tmp_path, out=out) == out
    assert new_run_folder("tiny", root=tmp_path, out=out) == out  # still empty: nothing is overwritten


def test_a_run_is_never_overwritten(tmp_path):
    start_session(new_run_folder("tiny", out=tmp_path / "x"), command=["train"])
    with pytest.raises(RunError, match=r"holds a run already.*resume"):
        new_run_folder("tiny", out=tmp_path / "x")
    start_session(new_run_folder("tiny", out=tmp_path / "my run"), command=["train"])
    with pytest.raises(RunError, match=r"sightline resume '[^']*/my run', or give another folder"):
        new_run_folder("tiny", out=tmp_path / "my run")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis.txt").write_text("all my work")
    with pytest.raises(RunError, match="not empty"):
        new_run_folder("tiny", out=tmp_path / "docs")
    with pytest.raises(RunError, match="is a file"):
        new_run_folder("tiny", out=tmp_path / "docs" / "thesis.txt")
    with pytest.raises(RunError, match="cannot be made"):
        new_run_folder("tiny", out=tmp_path / "docs" / "thesis.txt" / "run")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../up", "a\\b", "x\0y", "x" * 300])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(RunError):
        new_run_folder("tiny", root=tmp_path, name=name)
    with pytest.raises(RunError):
        new_run_folder(name, root=tmp_path)
    assert not any(tmp_path.rglob("*run*"))


def test_runs_are_found_and_near_ones_named(tmp_path):
    for number in (1, 2, 10):
        folder = tmp_path / "tiny" / str(number)
        folder.mkdir(parents=True)
        start_session(folder, command=["train"])
    assert existing_run(tmp_path / "tiny" / "2") == tmp_path / "tiny" / "2"
    with pytest.raises(RunError, match=rf"holds 3 runs.*{tmp_path / 'tiny' / '10'}"):
        existing_run(tmp_path / "tiny")
    with pytest.raises(RunError, match=r"no such run. Did you mean '10'"):
        existing_run(tmp_path / "tiny" / "110")
    with pytest.raises(RunError, match="no run was started here"):
        existing_run(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        existing_run(tmp_path / "tiny" / "1" / "run.json")
    assert not is_run(tmp_path)


def test_the_record_tells_every_start_and_end(tmp_path):
    start_session(tmp_path, command=["sightline", "train", "tiny"], recipe="tiny", devices=["cpu"], environment={})
    assert not read_record(tmp_path).is_done
    end_session(tmp_path, "interrupted", 3)
    start_session(tmp_path, command=["sightline", "resume", "."], from_step=40, environment={})
    end_session(tmp_path, "done", 0)
    record = read_record(tmp_path)
    first, second = record.sessions
    assert (record.recipe, record.is_done) == ("tiny", True)
    assert (first.command, first.outcome, first.exit_code, first.from_step) == (
        ("sightline", "train", "tiny"), "interrupted", 3, 0
    )  # fmt: skip
    assert (second.outcome, second.from_step) == ("done", 40)
    assert first.started <= first.ended <= second.started <= second.ended
    assert first.versions.keys() >= {"python", "torch", "numpy"}
    assert first.machine["cpus"] == os.cpu_count()
    assert first.process.pid == os.getpid()


def test_a_broken_record_is_a_typed_error(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        read_record(tmp_path)
    for text in ("", "{", "[]", '{"version": 2, "sessions": []}', '{"sessions": []}', "[" * 100_000):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RunError, match=r"run\.json: no record of a run"):
            read_record(tmp_path)


def test_only_known_variables_are_recorded_and_no_secrets(tmp_path):
    environment = {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SIGHTLINE_DATA": "/data",
        "SIGHTLINE_API_KEY": "hush",
        "TORCH_HOME": "https://me:hush@host/x",
        "WANDB_API_KEY": "hush",
        "HOME": "/home/me",
        "AWS_SECRET_ACCESS_KEY": "hush",
    }
    record = start_session(tmp_path, command=["x", "--api-key", "hush"], environment=environment)
    assert record.sessions[0].environment == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "OMP_NUM_THREADS": "1",
        "SIGHTLINE_API_KEY": "***",
        "SIGHTLINE_DATA": "/data",
        "TORCH_HOME": "https://***@host/x",
    }
    assert "hush" not in (tmp_path / "run.json").read_text()


@pytest.mark.parametrize(
    "word, clean",
    [
        (["log.wandb.api_key=hush"], ["log.wandb.api_key=***"]),
        (["--token", "hush", "lr=1"], ["--token", "***", "lr=1"]),
        (["--token=hush"], ["--token=***"]),
        (["--password", "--quiet"], ["--password", "--quiet"]),
        (["--data", "s3://user:hush@bucket/x"], ["--data", "s3://***@bucket/x"]),
        (["x", "hf_hushhushhushhush"], ["x", "***"]),
        (["name=ghp_hushhushhushhush1"], ["name=***"]),
        (["train", "yolov7-tiny", "lr=0.01", "data/author/x"], ["train", "yolov7-tiny", "lr=0.01", "data/author/x"]),
    ],
)
def test_command_lines_lose_their_secrets(word, clean):
    assert redacted(word) == clean


A, B, C = "a" * 40, "b" * 40, "c" * 40


def test_the_commit_is_read_from_gits_files(tmp_path):
    assert git_commit(tmp_path) is None
    git = tmp_path / ".git"
    git.mkdir()
    assert git_commit(tmp_path) is None
    (git / "HEAD").write_text(f"{A}\n")
    assert git_commit(tmp_path) == A
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{B} refs/heads/main\n^{C}\n")
    assert git_commit(tmp_path) == B
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "refs" / "heads" / "main").write_text(f"{C}\n")
    (tmp_path / "deep" / "down").mkdir(parents=True)
    assert git_commit(tmp_path / "deep" / "down") == C
    # A worktree: its own HEAD, the branches of the main checkout.
    worktree = git / "worktrees" / "other"
    worktree.mkdir(parents=True)
    (worktree / "HEAD").write_text("ref: refs/heads/main\n")
    (worktree / "commondir").write_text("../..\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".git").write_text(f"gitdir: {worktree}\n")
    assert git_commit(tmp_path / "other") == C


@pytest.mark.parametrize("head", ["ref: ../../etc/passwd", "ref: /etc/passwd", "nonsense", "", "ref: refs/heads/gone"])
def test_an_odd_head_is_no_commit(tmp_path, head):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(head)
    assert git_commit(tmp_path) is None


def test_nothing_is_started_or_asked_over_the_network_and_torch_stays_out(tmp_path):
    code = """
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(("subprocess", "os.system", "os.exec",
                 "os.posix_spawn", "os.fork", "socket.connect", "pickle")) else None)
from pathlib import Path
from sightline.engine.run_folder.lock import RunLock
from sightline.engine.run_folder.metrics_log import MetricsLog
from sightline.engine.run_folder.folder import new_run_folder
from sightline.engine.run_folder.run_record import end_session, start_session
from sightline.engine.run_folder.status import Heartbeat, read_status
folder = new_run_folder("tiny", root=Path(sys.argv[1]))
with RunLock(folder), MetricsLog(folder / "metrics.jsonl"):
    start_session(folder)
    Heartbeat(folder).beat("running", step=1)
    assert read_status(folder).is_alive()
    end_session(folder, "done", 0)
assert not seen, seen
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def test_a_run_killed_before_its_record_was_written_is_in_nobodys_way(tmp_path):
    killed = "import os, sys; from pathlib import Path; from sightline.engine.run_folder.lock import RunLock; "
    killed += "lock = RunLock(Path(sys.argv[1])).acquire(); Path(sys.argv[1], 'config.yaml').touch(); os._exit(9)"
    out = tmp_path / "run"
    out.mkdir()
    subprocess.run([sys.executable, "-c", killed, str(out)], check=False)
    assert {".lock", ".lock.json", "config.yaml"} <= {path.name for path in out.iterdir()}
    assert new_run_folder("tiny", out=out) == out
    (out / "thesis.txt").write_text("all my work")
    with pytest.raises(RunError, match="not empty"):
        new_run_folder("tiny", out=out)


def test_a_configuration_alone_is_somebodys_own(tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: mine\n")
    with pytest.raises(RunError, match="not empty"):
        new_run_folder("tiny", out=tmp_path)
