"""A real run whose newest checkpoint was damaged goes on from the one before, says so, and ends with the same bits."""

import io
import shutil

import pytest

from sightline import api
from sightline.config.errors import RunError
from sightline.engine.checkpoint.layout import folder_name
from sightline.engine.checkpoint.reader import find_checkpoints
from sightline.engine.console import Console
from tests.cli.tool import without_report
from tests.faults.tiny import assert_same_bits, train


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(run, "epochs=4") == 0
    return run


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def resume(run):
    said = io.StringIO()
    with without_report():
        result = api.resume(run, console=Console(said, is_terminal=False))
    return result, said.getvalue()


@pytest.mark.parametrize(
    "damage, file",
    [
        (cut_in_half, "model.safetensors"),
        (flip_a_bit, "model.safetensors"),
        (flip_a_bit, "ema.safetensors"),
        (remove, "ema.safetensors"),
        (flip_a_bit, "optimizer.safetensors"),
        (cut_in_half, "optimizer.safetensors"),
        (flip_a_bit, "state.json"),
        (cut_in_half, "state.json"),
        (empty, "state.json"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_and_the_run_ends_with_the_same_bits(
    tmp_path, unbroken, damage, file
):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    newest, before, *_ = find_checkpoints(run)
    damage(newest / file)
    wreck = {path.name: path.read_bytes() for path in newest.iterdir()}
    result, said = resume(run)
    assert (result.exit_code, result.step) == (0, 12)
    assert f"{newest.name} is damaged and passed over" in said
    assert file in said
    assert f"at step {int(before.name.removeprefix('step_'))}" in said
    assert_same_bits(run, unbroken)
    aside = run / "checkpoints" / f"set_aside_{newest.name}"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == wreck


def test_several_damaged_checkpoints_are_passed_over(tmp_path, unbroken):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    *newer, oldest = find_checkpoints(run)
    for path in newer:
        flip_a_bit(path / "model.safetensors")
    result, said = resume(run)
    assert result.step == 12
    assert said.count("is damaged and passed over") == len(newer) >= 2
    assert f"at step {int(oldest.name.removeprefix('step_'))}" in said
    assert_same_bits(run, unbroken)


def test_damaged_pointers_mislead_no_one(tmp_path, unbroken):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    shutil.rmtree(run / "checkpoints" / folder_name(12))
    (run / "checkpoints" / "latest").write_bytes(b"\0" * 14)
    (run / "checkpoints" / "best").write_text("../../elsewhere\n")
    assert resume(run)[0].step == 12
    assert_same_bits(run, unbroken)


def test_without_a_whole_checkpoint_nothing_is_begun_anew(tmp_path, unbroken):
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    for path in find_checkpoints(run):
        flip_a_bit(path / "optimizer.safetensors")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="all 3 checkpoints are damaged"):
        resume(run)
    assert (run / "metrics.jsonl").read_bytes() == before
