import json
import math
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.config.errors import RunError
from sightline.engine.run_folder.metrics_log import (
    MetricRow,
    MetricsLog,
    cut_back_to_length,
    cut_back_to_step,
    read_rows,
)
from tests.forked import forked


def write(path, *steps):
    with MetricsLog(path) as log:
        for step in steps:
            log.append(step=step, epoch=step // 10, kind="train", values={"loss": 1 / (step + 1)})
        return log.length


def test_rows_come_back_as_they_went_in(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = {"loss": 0.1, "AP": math.nan, "norm": math.inf, "low": -math.inf, "count": 3}
    with MetricsLog(path) as log:
        log.append(step=5, epoch=1, kind="evaluate", values=values)
        assert log.length == path.stat().st_size  # in the file at once, not in a buffer
    (row,) = read_rows(path)
    assert (row.step, row.epoch, row.kind) == (5, 1, "evaluate")
    assert math.isnan(row.values.pop("AP"))
    assert row.values == {"loss": 0.1, "norm": math.inf, "low": -math.inf, "count": 3}

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(path.read_text(), parse_constant=refuse)  # plain JSON: no NaN, no Infinity


@given(st.lists(st.floats(), max_size=5))
def test_every_float_survives(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append(step=0, epoch=0, kind="x", values={str(i): number for i, number in enumerate(numbers)})
    (row,) = read_rows(path)
    assert [repr(number) for number in row.values.values()] == [repr(number) for number in numbers]


def test_a_run_that_is_cut_back_and_goes_on_has_the_bytes_of_an_unbroken_one(tmp_path):
    write(tmp_path / "unbroken", *range(20))
    length = write(tmp_path / "broken", *range(7))
    write(tmp_path / "broken", *range(7, 12))
    assert cut_back_to_length(tmp_path / "broken", length) > 0
    write(tmp_path / "broken", *range(7, 20))
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "unbroken").read_bytes()


def test_cutting_back_at_any_byte_after_a_kill_gives_the_same_file(tmp_path):
    length = write(tmp_path / "log", 1, 2)
    whole = (tmp_path / "log").read_bytes()
    write(tmp_path / "log", 3)
    longer = (tmp_path / "log").read_bytes()
    for end in range(length, len(longer) + 1):
        (tmp_path / "log").write_bytes(longer[:end])
        assert cut_back_to_length(tmp_path / "log", length) == end - length
        assert (tmp_path / "log").read_bytes() == whole


def test_a_half_line_at_the_end_is_no_row_and_goes_at_the_next_opening(tmp_path):
    path = tmp_path / "log"
    write(path, 1, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 3, "ep' + b"x" * 100_000)
    assert [row.step for row in read_rows(path)] == [1, 2]
    with MetricsLog(path) as log:
        assert log.length == len(whole)
    assert path.read_bytes() == whole
    path.write_bytes(b'{"step": 1')
    with MetricsLog(path) as log:
        assert log.length == 0


def test_rows_after_a_step_can_be_dropped(tmp_path):
    path = tmp_path / "timing.jsonl"
    assert cut_back_to_step(path, 5) == 0
    write(path, 1, 5, 5, 6, 9)
    with path.open("ab") as file:
        file.write(b'{"half')
    assert cut_back_to_step(path, 5) > 0
    assert [row.step for row in read_rows(path)] == [1, 5, 5]
    assert cut_back_to_step(path, 5) == 0


def test_a_log_that_is_not_the_runs_own_is_refused(tmp_path):
    path = tmp_path / "log"
    assert cut_back_to_length(path, 0) == 0
    with pytest.raises(RunError, match="has 0 bytes"):
        cut_back_to_length(path, 10)
    length = write(path, 1, 2)
    with pytest.raises(RunError, match=f"has {length} bytes"):
        cut_back_to_length(path, length + 1)
    with pytest.raises(RunError, match="no line ends at byte"):
        cut_back_to_length(path, length - 1)
    assert path.stat().st_size == length


WRONG_FIELDS = [
    {"step": "1"},
    {"step": True},
    {"epoch": 1.5},
    {"kind": 3},
    {"values": [1]},
    {"values": {"a": "x"}},
]
NO_ROWS = [
    *(b"{}", b"[]", b"null", b"nonsense", b"\xff", b"[" * 100_000),
    *(json.dumps({"step": 1, "epoch": 0, "kind": "x", "values": {}} | wrong).encode() for wrong in WRONG_FIELDS),
]


@pytest.mark.parametrize("line", NO_ROWS)
def test_a_line_that_is_no_row_is_named_with_its_number(tmp_path, line):
    path = tmp_path / "log"
    write(path, 1)
    with path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(RunError, match=r"log:2: no metric row"):
        list(read_rows(path))


def test_a_disk_that_refuses_a_row_gets_no_part_of_it(tmp_path):
    class HalfWritten:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    path = tmp_path / "log"
    log = MetricsLog(path)
    log.append(step=1, epoch=0, kind="x", values={})
    before, real = path.read_bytes(), log._file._file
    log._file._file = HalfWritten(real)
    with pytest.raises(OSError, match="No space"):
        log.append(step=2, epoch=0, kind="x", values={})
    assert path.read_bytes() == before
    log._file._file = real
    log.append(step=2, epoch=0, kind="x", values={})
    assert [row.step for row in read_rows(path)] == [1, 2]
    log.close()


def test_a_kill_loses_no_row_that_was_appended(tmp_path):
    path = tmp_path / "log"
    read_end, write_end = os.pipe()

    def append_for_ever():
        log = MetricsLog(path)
        for step in range(10**9):
            log.append(step=step, epoch=0, kind="train", values={"loss": 0.5})
            os.write(write_end, step.to_bytes(8, "little"))

    pid = forked(append_for_ever)
    os.close(write_end)
    said = b""
    while len(said) < 8 * 100:
        said += os.read(read_end, 8) or pytest.fail("the child ended by itself")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    said += b"".join(iter(lambda: os.read(read_end, 1 << 16), b""))
    os.close(read_end)
    rows = list(read_rows(path))
    assert len(rows) >= len(said) // 8 >= 100
    assert rows == [MetricRow(step, 0, "train", {"loss": 0.5}) for step in range(len(rows))]
