"""Several processes as users start them: ``devices=2``, torchrun with restarts, two machines."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sightline.engine.distributed.launch import find_launch, first_host
from tests.cli.tool import RECIPE, TINY
from tests.faults.tiny import assert_same_bits

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD_SIZE"))}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1"}
PATIENCE_S = 240
ROOT = Path(__file__).parents[2]
ENVIRONMENT["PYTHONPATH"] = str(ROOT)


def begin(*command, cwd, before=(), **environment):
    return subprocess.Popen(
        [*before, sys.executable, *map(str, command)],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            child.kill()
        process.kill()
    return process.returncode, out, err


def sightline(*arguments, cwd):
    return end(begin("-m", "sightline.cli.main", *arguments, cwd=cwd))


def torchrun(*arguments, cwd, before=(), **options):
    flags = ["--" + name.replace("_", "-") + ("" if value is True else f"={value}") for name, value in options.items()]
    return begin("-m", "torch.distributed.run", *flags, "-m", "sightline.cli.main", *arguments, cwd=cwd, before=before)


def rows(run: Path):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def steps(run: Path):
    return [row["step"] for row in rows(run) if row["kind"] == "train"]


@pytest.mark.timeout(600)
def test_devices_2_trains_in_two_processes_and_one_writes(workplace, tmp_path):
    run = tmp_path / "run"
    train = ("train", RECIPE, "--data", workplace / "city", *TINY, "devices=2", "--out", run)
    code, out, err = sightline(*train, cwd=tmp_path)
    assert code == 0, err
    assert steps(run) == [1, 2, 3, 4] and len(re.findall("evaluated:", out)) == 2
    assert json.loads((run / "run.json").read_text())["sessions"][-1]["processes"] == 2
    assert out.rstrip().endswith(f"report: {run / 'report' / 'index.html'}")
    code, out, err = sightline("resume", run, "epochs=3", "devices=1", cwd=tmp_path)
    assert code == 0, err
    assert steps(run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.val_split=nothing"], "no split 'nothing'"),
        (["device=cuda"], "finds no GPU"),
        (["image_size=72"], "no multiple of the model's stride"),
        (["watch.layers=nothing"], "no layer is called 'nothing'"),
        (["strategy=fsdp", "fsdp.layers=nothing"], "no layer is called 'nothing'"),
    ],
)
@pytest.mark.timeout(600)
def test_a_mistake_is_told_once_and_leaves_nothing(workplace, tmp_path, changes, words):
    arguments = [
        *(change for change in TINY if change.split("=")[0] not in {c.split("=")[0] for c in changes}),
        *changes,
    ]
    code, _, err = sightline("train", RECIPE, "--data", workplace / "city", *arguments, "devices=2", cwd=tmp_path)
    assert code == 2, err
    shown = [line for line in err.splitlines() if not line.startswith("W1")]  # of torch's launcher: it ends the others
    assert words in err and len(shown) <= 5 and "Traceback" not in err
    assert [line for line in shown if line.startswith(("error", str(tmp_path)))] == shown[:1], err
    assert not list(tmp_path.iterdir())


def workers_of(process):
    """The processes that train, once all of them do."""
    return [child for child in psutil.Process(process.pid).children() if "sightline.cli.main" in child.cmdline()]


@pytest.mark.timeout(900)
def test_torchrun_starts_a_killed_run_again_and_it_ends_with_the_bits_of_an_unbroken_one(workplace, tmp_path):
    changes = [*(change for change in TINY if not change.startswith("epochs")), "epochs=12", "checkpoint.every_steps=2"]
    train = ("train", RECIPE, "--data", workplace / "city", *changes)
    code, _, err = end(
        torchrun(*train, "--out", tmp_path / "unbroken", cwd=tmp_path, standalone=True, nproc_per_node=2)
    )
    assert code == 0, err
    run = tmp_path / "broken"
    options = {"standalone": True, "nproc_per_node": 2, "max_restarts": 2, "monitor_interval": 0.2}
    process = torchrun(*train, "--out", run, cwd=tmp_path, **options)
    deadline = time.monotonic() + PATIENCE_S
    while not (run / "metrics.jsonl").exists() or len(steps(run)) < 6:
        assert process.poll() is None and time.monotonic() < deadline, end(process)
        time.sleep(0.02)
    workers_of(process)[-1].kill()
    code, out, err = end(process)
    assert code == 0, err
    assert "resuming" in out and len(json.loads((run / "run.json").read_text())["sessions"]) == 2
    assert_same_bits(run, tmp_path / "unbroken")


@pytest.fixture
def namespaces():
    """Two network namespaces joined by a cable: as near to two machines as one comes. What to begin a command with
    in each, and its address."""
    names = [f"sightline-{os.getpid()}-{number}" for number in (1, 2)]
    cables = [f"sl{os.getpid()}{letter}" for letter in "ab"]
    addresses = ["10.213.7.1", "10.213.7.2"]

    def ip(*arguments):
        return subprocess.run(["ip", *arguments], check=True, capture_output=True)

    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1], "netns", names[1])
        for name, cable, address in zip(names, cables, addresses, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            for link in (cable, "lo"):
                ip("-n", name, "link", "set", link, "up")
        yield [
            (("ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={cable}"), address)
            for name, cable, address in zip(names, cables, addresses, strict=True)
        ]
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {getattr(error, 'stderr', error)!r}")
    finally:
        for name in made:
            ip("netns", "delete", name)


def train_on_two_machines(workplace, tmp_path, port, address, *, before=((), ()), own=("127.0.0.1", "127.0.0.1")):
    """The run folder: neither machine sees the other's disk."""
    machines = [tmp_path / "first", tmp_path / "second"]
    started = []
    for machine, prefix, here in zip(machines, before, own, strict=True):
        machine.mkdir()
        started.append(
            torchrun(
                *("train", RECIPE, "--data", workplace / "city", *TINY, "--name", "shared"),
                cwd=machine,
                before=prefix,
                nnodes=2,
                nproc_per_node=1,
                rdzv_backend="c10d",
                rdzv_endpoint=f"{address}:{port}",
                rdzv_id="both",
                rdzv_conf=f"is_host={machine == machines[0]}",
                local_addr=here,
            )
        )
    ends = [end(process) for process in started]
    assert [code for code, *_ in ends] == [0, 0], ends
    (run,) = (machine / "runs" / RECIPE / "shared" for machine in machines if (machine / "runs").exists())
    assert steps(run) == [1, 2, 3, 4]
    assert json.loads((run / "run.json").read_text())["sessions"][-1]["processes"] == 2


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def started_by_hand(*arguments, cwds):
    """With nothing but the usual environment, as any launcher sets it."""
    port, count = str(free_port()), str(len(cwds))
    common = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        end(process)
        for process in [
            begin("-m", "sightline.cli.main", *arguments, cwd=cwd, RANK=str(rank), **common)
            for rank, cwd in enumerate(cwds)
        ]
    ]


@pytest.mark.timeout(600)
def test_a_run_goes_on_though_the_second_machine_has_never_seen_its_folder(workplace, tmp_path):
    machines = [tmp_path / "first", tmp_path / "second"]
    for machine in machines:
        machine.mkdir()
    train = ("train", RECIPE, "--data", workplace / "city", *TINY, "--out", "run")
    assert [code for code, *_ in started_by_hand(*train, cwds=machines)] == [0, 0]
    ends = started_by_hand("resume", "run", "epochs=3", cwds=machines)
    assert [code for code, *_ in ends] == [0, 0], ends
    assert steps(machines[0] / "run") == [1, 2, 3, 4, 5, 6]
    assert not list(machines[1].iterdir())


@pytest.mark.timeout(600)
def test_processes_with_different_commands_do_not_start(workplace, tmp_path):
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        begin(
            *("-m", "sightline.cli.main", "train", RECIPE, "--data", workplace / "city", *TINY, f"lr=0.0{1 + rank}"),
            cwd=tmp_path,
            RANK=str(rank),
            **common,
        )
        for rank in (0, 1)
    ]
    ends = [end(process) for process in started]
    assert ends[1][0] == 2 and "another configuration than the first one: lr differ" in ends[1][2]
    assert ends[0][0] != 0
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(600)
def test_two_rendezvous_hosts_on_loopback_train_one_model(workplace, tmp_path):
    train_on_two_machines(workplace, tmp_path, free_port(), "127.0.0.1")


@pytest.mark.timeout(600)
def test_two_network_namespaces_train_one_model(workplace, tmp_path, namespaces):
    before, own = zip(*namespaces, strict=True)
    train_on_two_machines(workplace, tmp_path, 29511, own[0], before=before, own=own)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a",
          "MASTER_PORT": "7"}, (3, 4, 1, 2, "a", 7)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "42",
          "SLURM_STEP_NODELIST": "gpu[03-06,9],x1"}, (5, 8, 1, 1, "gpu03", 15042)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "42"}, None),  # a batch script without srun
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
          "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_ADDR": "b"}, (1, 2, 1, 2, "b", 15000)),
    ],
)  # fmt: skip
def test_what_launchers_say(environment, wanted):
    found = find_launch(environment)
    if wanted is None:
        assert found is None
    else:
        place = (found.rank, found.count, found.local_rank, found.local_count, found.address, found.port)
        assert place == wanted


@pytest.mark.parametrize(
    ("hosts", "first"), [("node7", "node7"), ("n[01-03]", "n01"), ("a,b", "a"), ("x-1-[5,9]", "x-1-5"), ("", "")]
)
def test_the_first_host_of_a_compact_list(hosts, first):
    assert first_host(hosts) == first
