"""A process of several that runs out of memory: the run begins anew by itself, in smaller parts."""

import pytest

from tests.cli.test_many_processes import sightline, steps
from tests.cli.tool import RECIPE, TINY, write_city

CALLBACK = """
import torch
from sightline.engine.callback import Callback


class SmallMemory(Callback):
    in_every_process = True

    def on_run_start(self, training):
        forward, rank = training.task.forward, training.processes.share.rank

        def limited(batch):
            if rank == 1 and training.step >= 2 and len(batch) > 1:
                raise torch.OutOfMemoryError("no room in this test")
            return forward(batch)

        training.task.forward = limited
"""


@pytest.mark.slow
def test_two_processes_go_on_in_smaller_parts_after_one_ran_out_of_memory(tmp_path):
    write_city(tmp_path / "city")
    (tmp_path / "small.py").write_text(CALLBACK)
    changes = [*TINY, "devices=2", "epochs=2", "checkpoint.every_steps=1", "callbacks=small.py:SmallMemory"]
    code, out, err = sightline("train", RECIPE, "--data", "city", "--out", "run", *changes, cwd=tmp_path)
    assert code == 0, err
    assert "error in process 1: out of memory with 2 samples at once in process 1, at step 2" in err
    assert "the run goes on with samples_at_once=1\n" in out
    assert "samples_at_once: 1\n" in (tmp_path / "run" / "config.yaml").read_text()
    assert not (tmp_path / "run" / "out_of_memory.json").exists()
    assert steps(tmp_path / "run") == [1, 2, 3, 4]
