import hashlib
import json
import math
import shutil
import subprocess
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sightline.config.errors import ConfigError, RunError
from sightline.engine.checkpoint import writer as checkpoint_writer
from sightline.engine.checkpoint.host_buffer import DTYPE_NAMES, HostBuffer
from sightline.engine.checkpoint.layout import (
    CheckpointState,
    folder_name,
    read_manifest,
    state_text,
    step_of,
)
from sightline.engine.checkpoint.reader import (
    find_checkpoints,
    load_tensors,
    named_checkpoint,
    newest_whole,
    open_checkpoint,
    read_checkpoint,
    set_aside,
)
from sightline.engine.checkpoint.retention import BestBy, CheckpointConfig, KeepAll, KeepBest, KeepLast
from sightline.engine.checkpoint.writer import CheckpointWriteError, CheckpointWriter


def a_state(value: float = 0.0, **state) -> CheckpointState:
    model = {"weight": torch.full((3, 4), float(value)), "count": torch.tensor(7)}
    return CheckpointState({"model": model, "ema": {"weight": torch.full((3, 4), value / 2)}}, state)


def take(run_dir, *steps, config=None, **options):
    with CheckpointWriter(run_dir, config or CheckpointConfig(keep=(KeepAll(),))) as writer:
        for step in steps:
            writer.save(a_state(step, step=step), step=step, epoch=0, **options)
    return [run_dir / "checkpoints" / folder_name(step) for step in steps]


def never(message):
    raise AssertionError(message)


# What goes in comes out.


def test_tensors_of_every_type_and_memory_order_come_back_bit_for_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for dtype in DTYPE_NAMES:
        noise = torch.randint(0, 256, (5, 8), dtype=torch.uint8, generator=generator)
        tensors[str(dtype)] = noise.bool() if dtype is torch.bool else noise.view(dtype)
    tensors |= {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "odd": torch.arange(3, dtype=torch.uint8),
        "channels last": torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
        "transposed": torch.randn(4, 6, generator=generator).t(),
        "strided": torch.randn(8, generator=generator)[::2],
        "expanded": torch.randn(1, 3, generator=generator).expand(4, 3),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
    }
    with CheckpointWriter(tmp_path) as writer:
        path = writer.save(CheckpointState({"model": tensors, "nothing": {}}), step=1, epoch=0)
    loaded = load_tensors(path)
    assert loaded["nothing"] == {}
    assert loaded["model"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        back = loaded["model"][name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape), name
        plain = tensor.detach().contiguous()
        assert torch.equal(back.reshape(-1).view(torch.uint8), plain.reshape(-1).view(torch.uint8)), name


def test_the_file_is_what_the_safetensors_library_reads_and_its_data_is_aligned(tmp_path):
    tensors = {"a": torch.arange(3, dtype=torch.uint8), "b": torch.randn(5), "c": torch.randn(2).double()}
    buffer = HostBuffer(tensors)
    buffer.copy_from(tensors)
    data = b"".join(bytes(chunk) for chunk in buffer.chunks())
    assert len(data) == buffer.file_bytes
    (tmp_path / "x.safetensors").write_bytes(data)
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(tensor, tensors[name])
        assert tensor.data_ptr() % tensor.element_size() == 0


def test_a_type_or_name_that_the_format_lacks_is_named():
    with pytest.raises(ValueError, match=r"rotor.*complex64"):
        HostBuffer({"rotor": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(ValueError, match="__metadata__"):
        HostBuffer({"__metadata__": torch.zeros(2)})


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b and str(a) == str(b)  # the text tells 0.0 from -0.0


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "$float"), plain_values, max_size=4))
def test_plain_values_come_back_exactly_infinities_and_nan_too(tmp_path_factory, state):
    run = tmp_path_factory.mktemp("run")
    with CheckpointWriter(run) as writer:
        path = writer.save(CheckpointState({}, state), step=0, epoch=0)
    assert same(read_checkpoint(path).state, state)
    shutil.rmtree(run)


def test_what_json_cannot_hold_is_refused_with_its_place():
    with pytest.raises(TypeError, match=r"state\.best\.value: a Tensor"):
        state_text({"best": {"value": torch.tensor(1.0)}})
    with pytest.raises(TypeError, match=r"state\.seen\[1\]: the key 3"):
        state_text({"seen": [0, {3: "x"}]})


def test_the_documented_shell_command_checks_the_state_file(tmp_path):
    (path,) = take(tmp_path, 5)
    text = (path / "state.json").read_text()
    claimed = json.loads(text)["sha256"]
    rest = subprocess.run(["tail", "-n", "+2", "state.json"], cwd=path, capture_output=True, check=True).stdout
    assert hashlib.sha256(rest).hexdigest() == claimed
    entry = json.loads(text)["files"]["model.safetensors"]
    data = (path / "model.safetensors").read_bytes()
    assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_folder_names_tell_their_step():
    assert folder_name(900) == "step_00000900"
    assert step_of("step_00000900") == 900
    assert step_of(folder_name(1234567890)) == 1234567890
    for name in ("step_900", "step_0000000900", "step_0000090x", "latest", ".writing-1-step_00000900", "step_-0000900"):
        assert step_of(name) is None, name


# The writer.


def test_the_snapshot_is_of_the_moment_of_the_call(tmp_path):
    weight = torch.zeros(1000, 1000)
    with CheckpointWriter(tmp_path) as writer:
        path = writer.save(CheckpointState({"model": {"weight": weight}}), step=1, epoch=0)
        weight.fill_(1)
    assert not load_tensors(path)["model"]["weight"].any()


def test_the_buffers_are_reused_and_remade_when_shapes_change(tmp_path):
    config = CheckpointConfig(keep=(KeepAll(),))
    with CheckpointWriter(tmp_path, config) as writer:
        writer.reserve(a_state().tensors)
        first = writer._buffers["model"]
        one = writer.save(a_state(1), step=1, epoch=0)
        two = writer.save(a_state(2), step=2, epoch=0)
        assert writer._buffers["model"] is first
        three = writer.save(CheckpointState({"model": {"weight": torch.full((5,), 3.0)}}), step=3, epoch=0)
    assert [float(load_tensors(path)["model"]["weight"].mean()) for path in (one, two, three)] == [1, 2, 3]
    assert list(load_tensors(three)) == ["model"]


def test_saving_again_at_the_same_step_replaces_it(tmp_path):
    with CheckpointWriter(tmp_path) as writer:
        writer.save(a_state(1, note="before"), step=4, epoch=0)
        path = writer.save(a_state(2, note="after"), step=4, epoch=1, ends_epoch=True, metrics={"AP": 0.5})
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best", "latest", "step_00000004"]
    assert read_checkpoint(path).state == {"note": "after"}
    assert read_checkpoint(path).manifest.metrics == {"AP": 0.5}


def test_pointers_name_the_newest_and_the_best(tmp_path):
    with CheckpointWriter(tmp_path, CheckpointConfig(keep=(KeepLast(count=1),))) as writer:
        for step, figure in enumerate([0.1, 0.4, 0.4, 0.2], start=1):
            writer.save(a_state(step), step=step, epoch=step, metrics={"AP": figure, "loss": 1 - figure})
    folder = tmp_path / "checkpoints"
    assert (folder / "latest").read_text() == "step_00000004\n"
    assert (folder / "best").read_text() == "step_00000002\n"  # of equal ones the earliest
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step_00000004", "step_00000002"]
    assert read_manifest(folder / "step_00000002").improved == ("max AP, earliest first",)


def test_a_new_writer_knows_what_earlier_ones_saved(tmp_path):
    config = CheckpointConfig(keep=(KeepLast(count=1),))
    for step, figure in [(1, 0.3), (2, 0.9), (3, 0.5)]:
        with CheckpointWriter(tmp_path, config) as writer:
            writer.save(a_state(), step=step, epoch=step, metrics={"AP": figure})
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step_00000003", "step_00000002"]
    assert named_checkpoint(tmp_path, "best", never).step == 2


def test_a_checkpoint_that_a_person_deleted_does_not_stop_the_run(tmp_path):
    with CheckpointWriter(tmp_path, CheckpointConfig(keep=(KeepLast(count=2),))) as writer:
        writer.save(a_state(), step=1, epoch=1, metrics={"AP": 0.9})
        writer.flush()
        shutil.rmtree(tmp_path / "checkpoints" / "step_00000001")
        writer.save(a_state(), step=2, epoch=2, metrics={"AP": 0.5})
    assert named_checkpoint(tmp_path, "best", never).step == 2


def test_a_metric_that_does_not_exist_is_named_with_the_nearest(tmp_path):
    with CheckpointWriter(tmp_path, best=BestBy(metric="AP_50")) as writer:
        with pytest.raises(ConfigError, match=r"'AP_50'.*Did you mean 'AP50'"):
            writer.save(a_state(), step=1, epoch=1, metrics={"AP": 0.1, "AP50": 0.2})
        writer.save(a_state(), step=2, epoch=1)  # without an evaluation there is nothing to name


def test_the_best_of_two_figures_can_be_kept(tmp_path):
    by_loss = BestBy(metric="loss", direction="min", ties="latest")
    config = CheckpointConfig(keep=(KeepLast(count=1), KeepBest(by=by_loss)))
    with CheckpointWriter(tmp_path, config, best=BestBy(metric="AP")) as writer:
        for step, (ap, loss) in enumerate([(0.1, 3.0), (0.9, 2.0), (0.3, 1.0), (0.2, 1.0), (0.1, 5.0)], start=1):
            writer.save(a_state(), step=step, epoch=step, metrics={"AP": ap, "loss": loss})
    assert [step_of(path.name) for path in find_checkpoints(tmp_path)] == [5, 4, 2]


def test_nan_is_never_the_best(tmp_path):
    with CheckpointWriter(tmp_path) as writer:
        writer.save(a_state(), step=1, epoch=1, metrics={"AP": float("nan")})
        writer.flush()
        assert not (tmp_path / "checkpoints" / "best").exists()
        writer.save(a_state(), step=2, epoch=2, metrics={"AP": 0.0})
        writer.save(a_state(), step=3, epoch=3, metrics={"AP": float("nan")})
    assert named_checkpoint(tmp_path, "best", never).step == 2


def test_save_waits_for_the_one_before_and_gives_up_after_its_patience(tmp_path, monkeypatch):
    gate = threading.Event()
    real = checkpoint_writer._write_buffer
    monkeypatch.setattr(checkpoint_writer, "_write_buffer", lambda *args: (gate.wait(), real(*args))[1])
    writer = CheckpointWriter(tmp_path, patience_s=0.05)
    writer.save(a_state(1), step=1, epoch=0)
    try:
        with pytest.raises(CheckpointWriteError, match="still being written"):
            writer.save(a_state(2), step=2, epoch=0)
    finally:
        gate.set()  # the thread would keep the test's process from ending
    writer.patience_s = 60
    writer.save(a_state(2), step=2, epoch=0)
    writer.close()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step_00000002", "step_00000001"]
    with pytest.raises(RuntimeError, match="after close"):
        writer.save(a_state(3), step=3, epoch=0)


def test_an_exception_of_the_trainer_is_not_hidden_by_the_disk(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "_write_buffer", broken)
    with pytest.raises(ZeroDivisionError) as caught, CheckpointWriter(tmp_path) as writer:
        writer.save(a_state(), step=1, epoch=0)
        raise ZeroDivisionError
    assert "No space left" in caught.value.__notes__[0]


def test_files_that_the_state_speaks_of_are_flushed_before_the_checkpoint_appears(tmp_path, monkeypatch):
    order = []
    real_sync, real_rename = checkpoint_writer.fsync_path, type(tmp_path).rename
    monkeypatch.setattr(checkpoint_writer, "fsync_path", lambda path: (order.append(path.name), real_sync(path)))
    monkeypatch.setattr(
        type(tmp_path), "rename", lambda self, target: (order.append("rename"), real_rename(self, target))[1]
    )
    log = tmp_path / "metrics.jsonl"
    log.write_text("row\n")
    with CheckpointWriter(tmp_path) as writer:
        writer.save(a_state(), step=1, epoch=0, sync_first=[log])
    assert order[0] == "metrics.jsonl"
    assert order[2:] == ["rename", "checkpoints"]


@pytest.mark.gpu
def test_a_snapshot_from_a_gpu_is_of_the_moment_of_the_call(tmp_path):
    weight = torch.zeros(4096, 4096, device="cuda")
    mixed = {"weight": weight, "step": torch.tensor(3), "last": torch.ones(2, 3, 4, 4, device="cuda")}
    mixed["last"] = mixed["last"].to(memory_format=torch.channels_last)
    with CheckpointWriter(tmp_path) as writer:
        for step in range(1, 4):
            path = writer.save(CheckpointState({"model": mixed}), step=step, epoch=0)
            weight.add_(1)
    assert writer.folder == path.parent
    assert float(load_tensors(path)["model"]["weight"].max()) == 2 == float(load_tensors(path)["model"]["weight"].min())
    assert torch.equal(load_tensors(path)["model"]["last"], torch.ones(2, 3, 4, 4))


# The reader.


def test_the_newest_whole_one_is_found(tmp_path):
    take(tmp_path, 1, 20, 3)
    found = newest_whole(tmp_path, never)
    assert (found.step, found.state) == (20, {"step": 20})
    assert open_checkpoint(tmp_path).step == 20
    assert open_checkpoint(tmp_path / "checkpoints" / "latest").step == 20
    assert open_checkpoint(tmp_path / "checkpoints" / "step_00000003").step == 3
    assert named_checkpoint(tmp_path, "latest", never).step == 20
    assert named_checkpoint(tmp_path, "3", never).step == 3
    assert named_checkpoint(tmp_path, "step_00000001", never).step == 1


def test_a_wish_for_what_is_not_there_names_what_is(tmp_path):
    with pytest.raises(RunError, match="holds no checkpoint"):
        newest_whole(tmp_path, never)
    (path, _) = take(tmp_path, 1, 2)
    with pytest.raises(RunError, match=r"'7'.*latest, best or one of these steps: 1, 2"):
        named_checkpoint(tmp_path, "7", never)
    with pytest.raises(RunError, match="'best'"):
        named_checkpoint(tmp_path, "best", never)
    with pytest.raises(RunError, match=r"no 'optimizer'; it holds model, ema"):
        load_tensors(path, "optimizer")
    with pytest.raises(RunError, match="no such checkpoint"):
        open_checkpoint(tmp_path / "nowhere")
    assert list(load_tensors(path, "ema")) == ["ema"]


def test_a_damaged_one_that_was_asked_for_is_an_error(tmp_path):
    path, newest = take(tmp_path, 1, 2)
    (newest / "ema.safetensors").unlink()
    for ask in (newest, tmp_path, tmp_path / "checkpoints" / "latest"):
        with pytest.raises(RunError, match=r"ema\.safetensors"):
            open_checkpoint(ask)
    said = []
    assert open_checkpoint(tmp_path, said.append).path == path
    assert len(said) == 1 and "step_00000002" in said[0] and "ema.safetensors" in said[0]


def test_all_damaged_is_an_error_and_never_a_fresh_start(tmp_path):
    said = []
    for path in take(tmp_path, 1, 2):
        (path / "state.json").write_text("{}")
    with pytest.raises(RunError, match="all 2 checkpoints are damaged"):
        newest_whole(tmp_path, said.append)
    assert len(said) == 2


def test_a_checkpoint_that_was_being_replaced_is_still_found(tmp_path):
    (path,) = take(tmp_path, 7)
    path.rename(path.with_name(".displaced-step_00000007"))
    assert newest_whole(tmp_path, never).step == 7
    with CheckpointWriter(tmp_path):
        assert [p.name for p in find_checkpoints(tmp_path)] == ["step_00000007"]


def test_later_checkpoints_are_set_aside_and_not_mixed_in(tmp_path):
    take(tmp_path, 1, 2, 3)
    moved = set_aside(tmp_path, after_step=1)
    assert [path.name for path in moved] == ["set_aside_step_00000003", "set_aside_step_00000002"]
    take(tmp_path, 2)
    assert set_aside(tmp_path, after_step=1)[0].name == "set_aside_step_00000002_2"
    with CheckpointWriter(tmp_path):
        assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000001\n"
    assert all(path.is_dir() for path in moved)


def test_leftovers_of_a_killed_process_are_cleaned_by_the_next_writer(tmp_path):
    (path,) = take(tmp_path, 1)
    folder = path.parent
    (folder / ".writing-99-step_00000002").mkdir()
    (folder / ".writing-99-step_00000002" / "model.safetensors").write_bytes(b"half")
    (folder / ".removing-step_00000000").mkdir()
    (folder / ".writing-99-latest").write_text("half")
    (tmp_path / ".writing-99-status.json").write_text("half")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / ".writing-99-captions.json").write_text("half")
    (tmp_path / "pictures" / "eval_000.jpg").write_text("whole")
    with CheckpointWriter(tmp_path):
        assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["eval_000.jpg"]
        assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000001"]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "pictures"]
