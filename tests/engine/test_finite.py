import pytest
import torch

from sightline.engine.finite import FiniteGuard, NonFiniteError

CPU = torch.device("cpu")
NAN, ONE = torch.tensor(float("nan")), torch.tensor(1.0)


def look(guard, *losses, step=0, norm=None):
    for loss in losses:
        guard.meet({"box": loss})
    return guard.look(norm, step=step, sample_ids=(3, 5))


def test_a_good_step_needs_no_flag():
    assert look(FiniteGuard("stop", device=CPU), ONE, norm=ONE) is None


@pytest.mark.parametrize("loss, norm, guilty", [(NAN, ONE, "box"), (ONE, torch.tensor(float("inf")), "gradient norm")])
def test_what_is_not_finite_is_named_with_step_and_samples(loss, norm, guilty):
    with pytest.raises(NonFiniteError, match=rf"^{guilty} became NaN or infinite at step 7; samples 3, 5\."):
        look(FiniteGuard("stop", device=CPU), ONE, loss, step=7, norm=norm)


def test_skipping_counts_and_puts_running_statistics_back():
    running = torch.zeros(2)
    guard = FiniteGuard("skip", device=CPU, buffers=[running])
    running += 1
    assert look(guard, ONE) is None
    running.fill_(float("nan"))
    assert look(guard, NAN) == 1
    assert running.tolist() == [1, 1]
    assert guard.state() == {"skipped": 1, "in_a_row": 1}
    assert look(guard, ONE) is None
    assert guard.state() == {"skipped": 1, "in_a_row": 0}


def test_too_many_bad_steps_in_a_row_end_the_run_even_under_skip():
    guard = FiniteGuard("skip", device=CPU, limit=3)
    look(guard, NAN)
    look(guard, NAN)
    with pytest.raises(NonFiniteError, match="3 bad steps in a row"):
        look(guard, NAN)


def as_on_an_accelerator(policy, **kwargs):
    """A guard that may not ask the device at every step; the tensors are on the CPU all the same."""
    guard = FiniteGuard(policy, device=torch.device("cuda"), **kwargs)
    assert not guard._is_cpu
    return guard


def test_on_an_accelerator_the_flag_is_a_tensor_and_the_host_looks_later():
    guard = as_on_an_accelerator("stop", period=3)
    assert look(guard, ONE, step=0) == 0
    assert look(guard, NAN, step=1) == 1  # nothing is raised yet: the device skips the step by itself
    with pytest.raises(NonFiniteError, match="at step 1"):
        look(guard, ONE, step=2)


def test_before_a_checkpoint_the_host_looks_at_once():
    guard = as_on_an_accelerator("stop", period=100)
    look(guard, NAN, step=4)
    with pytest.raises(NonFiniteError, match="at step 4"):
        guard.check()
    guard.check()  # told once


def test_state_comes_back():
    guard = FiniteGuard("skip", device=CPU)
    look(guard, NAN)
    again = FiniteGuard("skip", device=CPU)
    again.load_state(guard.state())
    assert again.state() == guard.state()
