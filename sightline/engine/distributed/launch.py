"""How the processes of a run find each other: what a launcher left in the environment, or a launch of our own.

Known are torchrun and everything that sets the same variables (``RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT``),
SLURM's ``srun``, and Open MPI's ``mpirun`` with ``MASTER_ADDR`` set.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sightline.config.errors import ConfigError
from sightline.config.exit_codes import STOPPED
from sightline.engine.stop import SIGNALS

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

FIRST_PORT, PORTS = 15000, 20000
"""SLURM gives no port: one is made of the number of the job."""
PATIENCE_S = 45
"""How long processes that are told to end may take before they are killed."""


@dataclass(frozen=True)
class Launch:
    """The place of this process among all processes of a run."""

    rank: int
    count: int
    local_rank: int
    """Number on this machine: which of its devices to use."""
    local_count: int
    address: str
    port: int
    restarts: int = 0
    """How often the launcher has started the processes anew."""
    identity: str = ""
    """Names the launch; equal in all its processes and restarts."""


def find_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What a launcher says about this process; None where no launcher started it.

    Raises:
        ConfigError: If the variables are incomplete or contradict each other.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        defaults: tuple[str, ...] = ("", "", "0", "1")
        return _launch(environment, names, defaults, address=None, port=None)
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1") or 1) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
        hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        port = FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % PORTS
        return _launch(environment, names, ("", "", "0", "1"), address=first_host(hosts), port=port)
    if "OMPI_COMM_WORLD_RANK" in environment:
        prefix = "OMPI_COMM_WORLD_"
        names = (f"{prefix}RANK", f"{prefix}SIZE", f"{prefix}LOCAL_RANK", f"{prefix}LOCAL_SIZE")
        return _launch(environment, names, ("", "", "0", "1"), address=None, port=FIRST_PORT)
    return None


def _launch(
    environment: Mapping[str, str],
    names: tuple[str, ...],
    defaults: tuple[str, ...],
    *,
    address: str | None,
    port: int | None,
) -> Launch:
    values = []
    for name, default in zip(names, defaults, strict=True):
        text = environment.get(name, default)
        if not re.fullmatch(r"\d{1,7}", text):
            raise ConfigError(f"environment variable {name}={text!r}: expected a number; the launcher sets it.")
        values.append(int(text))
    rank, count, local_rank, local_count = values
    if not rank < count:
        raise ConfigError(f"environment: {names[0]}={rank}, but {names[1]}={count}. Ranks count from 0.")
    address = environment.get("MASTER_ADDR", address or "")
    port_text = environment.get("MASTER_PORT", "" if port is None else str(port))
    if not address or not re.fullmatch(r"\d{1,5}", port_text):
        raise ConfigError(
            f"environment: {names[0]} is set, but MASTER_ADDR={address!r} and MASTER_PORT={port_text!r} do not say "
            "where the processes meet. Start them with torchrun, or set both."
        )
    return Launch(
        rank=rank,
        count=count,
        local_rank=local_rank,
        local_count=local_count,
        address=address,
        port=int(port_text),
        restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")),
        identity=environment.get("TORCHELASTIC_RUN_ID") or environment.get("SLURM_JOB_ID", ""),
    )


def first_host(hosts: str) -> str:
    """The first machine of SLURM's compact list: ``node[03-07,9],login`` gives ``node03``.

    Reference:
        https://slurm.schedmd.com/scontrol.html, "show hostlist".
    """
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?", hosts)
    return "" if match is None else match[1] + (match[2] or "")


def launch_here(work: Callable[..., int], arguments: tuple[Any, ...], *, processes: int, threads: int) -> int:
    """Run ``work(*arguments)`` in several processes of this machine through torch's elastic launcher.

    Args:
        work: A function that can be imported. What it returns (0 done, 3 stopped) is the exit code; with another end
            it must leave by ``sys.exit``, so that the launcher ends the others.
        arguments: Plain values.
        processes: How many.
        threads: CPU threads of each, unless OMP_NUM_THREADS says otherwise.

    Returns:
        The exit code of the first process that failed by itself, 1 if all were killed; if none failed the largest one.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # the process itself says what is wrong
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"sightline-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=PATIENCE_S,
        signals_to_handle=",".join([*(number.name for number in _taken_signals()), "SIGQUIT"]),
    )
    others = set(multiprocessing.active_children())
    try:
        codes = elastic_launch(config, work)(*arguments)
        return int(max(codes.values()))
    except ChildFailedError as error:
        return _code_of(error.failures.values())
    except SignalException:
        return STOPPED  # its processes save and stop
    finally:
        _bury(set(multiprocessing.active_children()) - others)


def _code_of(failures: Iterable[ProcessFailure]) -> int:
    """That of the first process that failed by itself; 1 if all were killed."""
    by_themselves = [failure for failure in failures if failure.exitcode > 0]
    return min(by_themselves, key=lambda failure: failure.timestamp).exitcode if by_themselves else 1


def _taken_signals() -> list[signal.Signals]:
    """Those that stop a run; after ``nohup`` a closed terminal does not."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT]


def _bury(children: set[multiprocessing.process.BaseProcess]) -> None:
    """Wait for processes that still save, as after a second signal, and leave none behind."""
    for number in _taken_signals():
        signal.signal(number, signal.SIG_IGN)
    deadline = time.monotonic() + PATIENCE_S
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()
            child.join()
