"""Batches in parts, because memory ran out or the run says so: the same losses, gradients and weights."""

import io

import pytest
import torch
from torch import nn

from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import CallbackError
from sightline.engine.checkpoint.reader import newest_whole
from sightline.engine.distributed.processes import ALONE
from sightline.engine.parts import StepTooLargeError, leave_note, take_note
from sightline.ops.process_shares import PartWeights, share_divisors, share_weights
from tests.engine.distributed.test_processes import assert_same_losses, assert_same_weights, detector, rows
from tests.engine.sessions import StopAt, final_state, session
from tests.engine.toy import toy_run
from tests.together import together

PLAIN = {"dropout": 0.0, "batch_size": 8, "log": {"every_steps": 1, "trackers": []}, "data_samples": 43}


class SmallMemory(Callback):
    """A device that has room for so many samples, from a step on; in the backward pass the gradients are half made."""

    in_every_process = True

    def __init__(self, room, *, from_step=0, in_backward=False, rank=None):
        self.room, self.from_step, self.in_backward, self.rank = room, from_step, in_backward, rank
        self.largest = []

    def on_run_start(self, training):
        if self.rank in (None, training.processes.share.rank):
            forward = training.task.forward
            training.task.forward = lambda batch: self.limited(training, forward, batch)

    def limited(self, training, forward, batch):
        is_too_much = len(batch) > self.room and training.step >= self.from_step
        if is_too_much and not self.in_backward:
            raise torch.OutOfMemoryError("no room in this test")
        losses = forward(batch)
        if is_too_much:
            losses["entropy"].register_hook(self.run_out)  # called when "size" may have reached its gradients
        else:
            self.largest.append(len(batch))
        return losses

    def run_out(self, gradient):
        raise torch.OutOfMemoryError("no room in this test")


def live(folder, changes=(), callbacks=(), *, processes=ALONE, **options):
    """Without batch norm, which sees parts."""
    config = toy_run(**{**PLAIN, **dict(changes)})
    problem = config.open(share=processes.share)
    problem.task.net[1] = nn.Identity()
    problem.task.double()
    return session(config, folder, problem=problem, processes=processes, callbacks=callbacks, **options)


@pytest.mark.parametrize(
    "changes, memory",
    [
        ({}, {"room": 3}),
        ({}, {"room": 4, "from_step": 5, "in_backward": True}),
        ({"accumulation": {"every": 3}}, {"room": 4, "from_step": 5, "in_backward": True}),
        ({"accumulation": {"nominal_batch_size": 16, "gradient": "sum"}, "lr": 1e-3}, {"room": 2, "from_step": 4}),
    ],
)
def test_halving_changes_neither_losses_nor_weights(tmp_path, changes, memory):
    live(tmp_path / "a", changes)
    small = SmallMemory(**memory)
    live(tmp_path / "b", changes, [small])
    assert max(small.largest[-3:]) == {3: 2, 2: 2, 4: 4}[memory["room"]]
    assert_same_losses(tmp_path / "b", tmp_path / "a", tolerance=1e-9)
    assert_same_weights(tmp_path / "b", tmp_path / "a", tolerance=1e-9)


def test_it_is_told_once_and_kept(tmp_path):
    said = io.StringIO()
    live(tmp_path / "a", callbacks=[SmallMemory(4, from_step=3)], said=said)
    told = [line for line in said.getvalue().splitlines() if "out of memory" in line]
    assert len(told) == 1
    assert "with 8 samples at once, at step 3: from now on batches are run in parts of at most 4" in told[0]
    assert newest_whole(tmp_path / "a", print).state["at_once"] == {"limit": 4, "wanted": None}


def test_a_killed_run_goes_on_in_the_same_parts_with_the_same_bits(tmp_path):
    config = toy_run(**{**PLAIN, "dropout": 0.3})  # with batch norm: in other parts its bits would be others
    small = {"room": 4, "from_step": 8}
    session(config, tmp_path / "whole", callbacks=[SmallMemory(**small)])
    for step in (5, 10, 14):
        with pytest.raises(CallbackError, match="crash"):
            callbacks = [SmallMemory(**small), StopAt(step)]
            session(config, tmp_path / "broken", resume=step > 5, callbacks=callbacks)
    # The memory is larger again: what was decided stays.
    session(config, tmp_path / "broken", resume=True, callbacks=[SmallMemory(99)])
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")


def test_one_sample_is_the_end(tmp_path):
    with pytest.raises(
        StepTooLargeError, match=r"with one sample at once, at step 6: no room in this test\n  Take a smaller"
    ):
        live(tmp_path / "a", callbacks=[SmallMemory(0, from_step=6)])
    assert newest_whole(tmp_path / "a", print).step == 6


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path):
    class Fail(Callback):
        def on_run_start(self, training):
            training.task.forward = lambda batch: torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        live(tmp_path / "a", callbacks=[Fail()])


def test_the_users_own_number_wins_over_the_checkpoints_once_it_is_changed(tmp_path):
    live(tmp_path / "a", {"epochs": 2}, [SmallMemory(4)])
    again = SmallMemory(99)
    live(tmp_path / "a", {"epochs": 3}, [again], resume=True)
    assert max(again.largest) == 4
    again = SmallMemory(99)
    live(tmp_path / "a", {"epochs": 4, "samples_at_once": 6}, [again], resume=True)
    assert max(again.largest) == 4, "two parts of 4 of the 8"
    again = SmallMemory(99)
    live(tmp_path / "a", {"epochs": 5, "samples_at_once": 8}, [again], resume=True)
    assert max(again.largest) == 8


def in_parts(processes, folder, changes):
    return live(folder, changes, processes=processes).step


def test_several_processes_make_equally_many_parts(tmp_path):
    # 43 samples: the last batch has 3, so that a process has one, or nothing in a part.
    together(1, in_parts, tmp_path / "1", {"epochs": 2})
    together(3, in_parts, tmp_path / "n", {"epochs": 2, "samples_at_once": 1})
    assert_same_losses(tmp_path / "n", tmp_path / "1")
    assert_same_weights(tmp_path / "n", tmp_path / "1", tolerance=1e-9)


def alone_out_of_memory(processes, folder):
    try:
        session(toy_run(**{**PLAIN, "epochs": 1}), folder, processes=processes, callbacks=[SmallMemory(2, rank=1)])
    except StepTooLargeError as error:
        processes.close()  # as the end of the process would
        return str(error)
    except RuntimeError as error:
        return type(error).__name__


def test_a_process_of_several_leaves_a_note_for_the_next_start(tmp_path):
    first, second = together(2, alone_out_of_memory, tmp_path / "a")
    assert first == "LostProcessError", "the other one is told by its broken connection"
    assert "with 4 samples at once in process 1, at step 0" in second
    assert "samples_at_once=2" in second
    assert take_note(tmp_path / "a") == 2
    assert take_note(tmp_path / "a") is None


def test_a_note_is_read_with_care(tmp_path):
    leave_note(tmp_path, 4)
    assert take_note(tmp_path) == 4
    for text in ("", "[]", '{"samples_at_once": 0}', '{"samples_at_once": "4"}'):
        (tmp_path / "out_of_memory.json").write_text(text)
        assert take_note(tmp_path) is None


def test_means_over_things_are_weighted_by_the_things_of_all_parts():
    # Parts with 1 and 3 things: means 4 and 8, of all together (4 + 3 * 8) / 4 = 7.
    weights = PartWeights(2)
    for count in (1, 3):
        with weights.counting():
            assert share_weights(torch.tensor([count, 0])) is None
    weights.end_counting()
    found = []
    for count, mean in ((1, 4.0), (3, 8.0)):
        with weights.weighing():
            found.append(mean * share_weights(torch.tensor([count, 0])))
    assert (sum(found) / 2).tolist() == [7.0, 0.0]
    assert share_weights(torch.tensor([1])) is None


def test_sums_are_divided_by_the_things_of_all_parts_also_where_a_part_has_none():
    # Parts with 0 and 3 things: sums 6 and 3, over all things together (6 + 3) / 3 = 3.
    weights = PartWeights(2)
    for count in (0, 3):
        with weights.counting():
            share_divisors(torch.tensor([count, 0]))
    weights.end_counting()
    found = []
    for count, total in ((0, 6.0), (3, 3.0)):
        with weights.weighing():
            found.append(total / share_divisors(torch.tensor([count, 0])))
    assert (sum(found) / 2).tolist() == [3.0, 9.0]  # nothing is counted as one thing
    assert share_divisors(torch.tensor([0, 4])).tolist() == [1.0, 4.0]


@pytest.mark.parametrize("assignment", ["anchor", "ota"])
def test_a_detector_in_parts_has_the_losses_of_whole_batches(tmp_path, monkeypatch, assignment):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Batch norm sees parts, so its statistics stand still here; boxes are spread unevenly over the parts.
    changes = [f"model.loss.assignment={assignment}", "epochs=2", "evaluate.every_epochs=2", "batch_size=4"]
    changes += ["freeze=*.running_*", "lr=1e-4", "schedule.warmup.bias_lr=1e-4", "log.train_pictures=0"]
    together(1, detector, tmp_path / "whole", changes)
    together(1, detector, tmp_path / "parts", [*changes, "samples_at_once=1"])
    assert len(rows(tmp_path / "whole")) > 4
    assert_same_losses(tmp_path / "parts", tmp_path / "whole")
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")
