import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sightline.config.errors import RunError
from sightline.engine.run_folder.lock import Holder, RunLock, read_holder
from sightline.engine.run_folder.process_identity import ProcessIdentity
from sightline.engine.run_folder.status import Heartbeat, Status, read_status
from tests.forked import forked

HOLD = """
import sys, time
from pathlib import Path
from sightline.engine.run_folder.lock import RunLock
lock = RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_writer_is_told_who_the_first_is(tmp_path, holder):
    with pytest.raises(RunError) as caught:
        RunLock(tmp_path).acquire()
    text = str(caught.value)
    assert f"process {holder.pid} on {ProcessIdentity.here().host}" in text
    assert str(tmp_path) in text and "--out" in text
    assert read_holder(tmp_path).process.pid == holder.pid


def test_a_killed_writer_leaves_no_lock_behind(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert read_holder(tmp_path).process.pid == holder.pid
    with RunLock(tmp_path):
        assert read_holder(tmp_path).process.pid == os.getpid()
    assert read_holder(tmp_path) is None


def test_one_process_cannot_write_a_folder_twice(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunError, match=f"process {os.getpid()} "):
        RunLock(tmp_path).acquire()
    with RunLock(tmp_path):
        pass


def test_an_orphan_of_a_killed_writer_does_not_hold_its_lock(tmp_path):
    read_end, write_end = os.pipe()

    def writer():
        lock = RunLock(tmp_path).acquire()
        worker = os.fork()  # as a loader forks its workers
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        os.write(write_end, f"{worker}\n".encode())
        time.sleep(60)
        lock.release()

    pid = forked(writer)
    os.close(write_end)
    worker = int(os.read(read_end, 100))
    os.close(read_end)
    try:
        with pytest.raises(RunError):
            RunLock(tmp_path).acquire()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert psutil.pid_exists(worker)
        with RunLock(tmp_path):
            assert read_holder(tmp_path).process.pid == os.getpid()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_lock_of_an_earlier_boot_is_taken_over(tmp_path):
    process = ProcessIdentity.here().but(boot="an earlier one")
    (tmp_path / ".lock.json").write_text(Holder(process=process, since=0).model_dump_json())
    assert process.is_alive() is False
    with RunLock(tmp_path):
        assert read_holder(tmp_path).process == ProcessIdentity.here()


def test_a_living_writer_on_another_machine_is_believed_by_its_heartbeat(tmp_path):
    stranger = ProcessIdentity.here().but(boot="another machine", host="elsewhere")
    (tmp_path / ".lock.json").write_text(Holder(process=stranger, since=time.time()).model_dump_json())
    Heartbeat(tmp_path).beat(step=1)
    status = read_status(tmp_path).but(process=stranger)
    (tmp_path / "status.json").write_text(status.model_dump_json())
    with pytest.raises(RunError, match=r"on elsewhere.*60 seconds"):
        RunLock(tmp_path).acquire()
    (tmp_path / "status.json").write_text(status.but(updated=time.time() - 61).model_dump_json())
    with RunLock(tmp_path):
        assert read_holder(tmp_path).process == ProcessIdentity.here()


def test_a_broken_note_about_the_holder_does_not_matter(tmp_path):
    (tmp_path / ".lock.json").write_bytes(b"\xff{")
    with RunLock(tmp_path):
        assert read_holder(tmp_path).process == ProcessIdentity.here()


def test_a_folder_that_is_not_there_is_a_users_mistake(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        RunLock(tmp_path / "nowhere" / "at" / "all").acquire()


def test_a_recycled_process_number_is_another_process():
    here = ProcessIdentity.here()
    assert here.is_alive()
    assert here.but(started=here.started - 100).is_alive() is False
    assert here.but(host="elsewhere").is_alive() is None
    child = forked(lambda: time.sleep(60))
    there = here.but(pid=child, started=psutil.Process(child).create_time())
    assert there.is_alive()
    os.kill(child, signal.SIGKILL)
    while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert there.is_alive() is False  # dead, though its parent has not looked yet
    os.waitpid(child, 0)
    assert there.is_alive() is False


def test_a_status_needs_no_fields_that_are_not_known():
    assert Status(state="starting", updated=0, process=ProcessIdentity.here()).word() == "starting"
