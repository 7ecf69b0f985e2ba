"""Several processes that train together, forked from the test: cheap, and without a launcher."""

import multiprocessing
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from sightline.engine.distributed.launch import Launch
from sightline.engine.distributed.processes import ALONE, JoinedProcesses

PATIENCE_S = 300.0


def together(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``work(processes, *arguments)`` in ``count`` processes; what each gave back, in the order of their ranks.

    One process is this one. An exception in another is raised here with its traceback.
    """
    if count == 1:
        return [work(ALONE, *arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes, children = [], []
    for rank in range(count):
        ours, theirs = context.Pipe()
        place = Launch(rank, count, rank, count, "127.0.0.1", port)
        child = context.Process(target=_life, args=(place, theirs, work, arguments), daemon=True)
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    try:
        results = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(PATIENCE_S):
                raise AssertionError(f"process {rank} of {count} gave no answer")
            is_good, value = pickle.loads(pipe.recv_bytes())  # by value: the sender may be gone
            if not is_good:
                raise AssertionError(f"process {rank} of {count} failed:\n{value}")
            results.append(value)
        return results
    finally:
        for child in children:
            child.join(5)
            child.kill()


def _life(place: Launch, pipe: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        processes = JoinedProcesses(place, patience_s=PATIENCE_S, may_shard=True)
        pipe.send_bytes(pickle.dumps((True, work(processes, *arguments))))
        processes.wait()
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
    sys.stdout.flush()
