"""What the launcher of several processes makes of their ends."""

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from sightline.engine.distributed.launch import _code_of


def failure(rank, exit_code, timestamp):
    one = ProcessFailure(rank, 4711 + rank, exit_code, "nowhere")
    one.timestamp = timestamp
    return one


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([(1, 30), (2, 20)], 2),
        ([(2, 30), (1, 20)], 1),
        ([(-9, 10), (2, 20), (1, 30)], 2),
        ([(-9, 10), (-15, 20)], 1),
    ],
)
def test_the_first_process_that_failed_by_itself_gives_the_exit_code(ends, code):
    assert _code_of([failure(rank, *end) for rank, end in enumerate(ends)]) == code
