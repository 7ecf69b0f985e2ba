"""The loop's figure compares like with like: every side reports the same losses of the same training."""

import csv
import json

import pytest
import torch

from benchmarks import loop, loop_model, loop_peers

STEPS = 2 * loop.LOG_EVERY


def losses_by_hand(folder):
    return [float(loss) for _, loss in csv.reader((folder / "log.csv").open())]


@pytest.mark.parametrize("row", ["by_hand", "by_hand_fused", "by_hand_kernels"])
def test_ours_and_the_loops_by_hand_take_the_same_steps(tmp_path, row):
    (tmp_path / "ours").mkdir()
    loop.ours(STEPS, tmp_path / "ours")
    loop.ROWS[row](STEPS, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "ours" / "metrics.jsonl").read_text().splitlines()]
    assert [row["values"]["loss"] for row in rows] == pytest.approx(losses_by_hand(tmp_path), rel=1e-5)


def test_a_step_is_counted_once():
    loop.run_once(loop.bare, STEPS)
    assert len(loop.STAMPS) == STEPS


def test_a_step_of_ours_takes_fewer_function_calls_than_the_same_duties_by_hand():
    ours, by_hand = loop.calls_a_step(loop.ours), loop.calls_a_step(loop.by_hand)
    assert ours <= by_hand, f"{ours:.0f} calls a step, by hand {by_hand:.0f}"


def weights_by_step(row, folder, monkeypatch):
    """Sum of the first layer's weights at the start of every step."""
    sums = []

    class Watched(loop_model.Net):
        def forward(self, x):
            sums.append(self.layers[0].weight.detach().sum().item())
            return super().forward(x)

    for module in (loop, loop_peers):
        monkeypatch.setattr(module, "Net", Watched)
    row(STEPS, folder)
    assert len(sums) == STEPS
    return sums


@pytest.mark.parametrize("name", [name for name in loop_peers.PEERS if name != "ultralytics_duties"])
def test_a_peer_takes_the_same_steps_as_its_counterpart_by_hand(tmp_path, monkeypatch, name):
    peer = loop_peers.PEERS[name]
    if peer.version is None:
        pytest.skip(f"{peer.distribution} is not installed: make bench-peers")
    by_hand = loop.by_hand if name.endswith("_duties") else loop.bare
    (tmp_path / "hand").mkdir()
    expected = weights_by_step(by_hand, tmp_path / "hand", monkeypatch)
    (tmp_path / name).mkdir()
    assert weights_by_step(peer.train, tmp_path / name, monkeypatch) == pytest.approx(expected, rel=1e-6)


def test_the_loop_of_ultralytics_takes_one_step_for_every_batch(tmp_path, monkeypatch):
    if loop_peers.PEERS["ultralytics_duties"].version is None:
        pytest.skip("ultralytics is not installed: make bench-peers")
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    assert loop.why_not("ultralytics_duties", STEPS) is None


def fails(steps, folder):
    print("noise of another project")
    raise AttributeError("module 'torch' has no attribute 'old'\nand more")


def test_a_peer_that_does_not_run_is_left_out_with_version_and_reason(monkeypatch, capsys):
    broken = {"broken": loop_peers.Peer("numpy", fails), "absent": loop_peers.Peer("no-such-distribution", fails)}
    monkeypatch.setattr(loop, "PEERS", broken)
    loop.main(["--rounds", "1", "--steps", "60", "--rows", "bare,broken,absent"])
    said = capsys.readouterr()
    line = json.loads(said.out)
    assert set(line["rows"]) == {"by_hand", "ours", "ours_everything", "bare"}
    version = broken["broken"].version
    reason = f"numpy {version} with torch {torch.__version__}: AttributeError: module 'torch' has no attribute 'old'"
    assert line["left_out"]["broken"] == reason
    assert f"loop: without broken: {reason}\n" in said.err
    assert "no-such-distribution is not installed" in line["left_out"]["absent"]


def test_a_peer_that_skips_steps_is_left_out(monkeypatch):
    monkeypatch.setattr(loop, "PEERS", {"short": loop_peers.Peer("numpy", lambda steps, folder: None)})
    assert "0 forward passes in 60 steps" in loop.why_not("short", 60)


@pytest.mark.parametrize(
    "arguments, said", [(["--rows", "fabrik"], "no row fabrik; there are: by_hand"), (["--steps", "40"], "at least 52")]
)
def test_a_wrong_option_is_refused_before_any_run(capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        loop.main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
