"""The programs of docs/bare-engine.md and docs/python.md do what the pages say."""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import chdir

import pytest
import torch
from safetensors.torch import load_file

import sightline
from sightline import api
from sightline.config.errors import ConfigError, RunError
from sightline.engine.console import Console
from tests.cli.tool import sightline as command
from tests.cli.tool import without_report, write_city
from tests.conftest import ROOT

EXAMPLES = ROOT / "docs" / "examples"
PAGE = ROOT / "docs" / "bare-engine.md"
QUIET = ["log.level=WARNING", "log.trackers=[]"]


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture(scope="module")
def plain():
    """The weights of the plain loop, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        patch.setattr("sys.stdout", out := io.StringIO())
        from plain_loop import main

        return main().state_dict(), out.getvalue()


def weights_of(run, file="model"):
    """The network's weights in the newest checkpoint."""
    newest = sorted((run / "checkpoints").glob("step_*"))[-1]
    return {name.removeprefix("net."): tensor for name, tensor in load_file(newest / f"{file}.safetensors").items()}


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    different = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    assert not different


def test_the_page_shows_the_programs_as_they_are():
    for path in sorted(EXAMPLES.glob("*.py")):
        assert f"```python\n# {path.name}\n{path.read_text()}```\n" in PAGE.read_text(), path.name


def test_the_engine_gives_the_bits_of_a_plain_loop(plain, capsys):
    from engine_loop import main

    net = main()
    assert_same_bits(net.state_dict(), plain[0])
    assert capsys.readouterr().out == plain[1]
    assert float(plain[1].split()[1]) > 0.9, "and it has learnt something"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of whole_run.py."""
    with pytest.MonkeyPatch.context() as patch, chdir(tmp_path_factory.mktemp("examples")):
        patch.syspath_prepend(EXAMPLES)
        from whole_run import main

        result = main(QUIET)
        assert result.exit_code == 0
        assert str(result.run_dir) == "runs/SpiralRun/1"
        yield result.run_dir.absolute()


def test_a_run_has_the_bits_of_a_plain_loop_and_an_average_beside_them(plain, whole):
    assert_same_bits(weights_of(whole), plain[0])
    assert weights_of(whole, "ema").keys() == plain[0].keys()
    assert not torch.equal(weights_of(whole, "ema")["0.weight"], plain[0]["0.weight"])


def test_evaluation_anew_gives_the_figures_of_the_run(whole):
    figures = [row["values"] for row in rows_of(whole) if row["kind"] == "eval"]
    assert len(figures) == 4 and figures[-1]["accuracy"] > 0.9
    assert dict(sightline.evaluate(whole, checkpoint="latest")) == figures[-1]


def test_what_is_for_images_says_so(whole, tmp_path):
    with pytest.raises(ConfigError, match="a run of SpiralRun does not predict on files"):
        sightline.load(whole)
    with pytest.raises(RunError, match="keeps no predictions"):
        sightline.evaluate(whole, save=tmp_path / "found.json")


def test_a_run_of_ones_own_is_checked_before_it_begins(tmp_path):
    from whole_run import SpiralRun

    with chdir(tmp_path):
        report = api.preflight(SpiralRun(epochs=1, device="cpu"), changes=["batch_size=32", "lr=0.2"])
        wrong = api.preflight(SpiralRun(epochs=1, device="cpu"), changes=["batch_size=32", "momentum=0.2"])
    assert report.can_start and not wrong.can_start
    assert any("unknown key 'momentum'" in finding.text for finding in wrong.findings)
    assert any("x (32, 2) float32, y (32) int64" in finding.text for finding in report.findings)


def test_the_page_of_a_run_of_ones_own_speaks_of_no_detector(whole):
    page = (whole / "report" / "index.html").read_text()
    assert "SpiralRun" in page and "accuracy" in page
    words = [word for word in ("boxes", "images", "AP50", "built-in", "class ") if word in page]
    assert not words
    assert "500 points to train on, 500 points to evaluate" in (whole / "log.txt").read_text()


def test_a_run_that_fell_goes_on_to_the_same_bits_from_the_program_that_defines_it(plain, tmp_path, monkeypatch):
    from engine_loop import SpiralTask
    from whole_run import main

    forward, calls = SpiralTask.forward, iter(range(1000))

    def falls(self, batch):
        if next(calls) == 150:
            raise ZeroDivisionError("a fall")
        return forward(self, batch)

    with chdir(tmp_path), without_report():
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(SpiralTask, "forward", falls)
            main(QUIET)
        result = main(["resume", "runs/SpiralRun/1"])
    assert (result.exit_code, result.step) == (0, 320)
    assert_same_bits(weights_of(tmp_path / "runs/SpiralRun/1"), plain[0])
    steps = [row["step"] for row in rows_of(tmp_path / "runs/SpiralRun/1")]
    assert steps == sorted(steps)
    log = (tmp_path / "runs/SpiralRun/1/log.txt").read_text()
    assert "ZeroDivisionError: a fall" in log and "failed, exit code 1" in log
    assert log.index("session 1 of runs/SpiralRun/1 begins") < log.index("session 2 of runs/SpiralRun/1 begins")
    assert "from step 144" in log and "done, exit code 0" in log


def test_changes_reach_keys_of_the_engine_and_mistakes_in_them_are_told(tmp_path):
    from whole_run import main

    with chdir(tmp_path), without_report():
        result = main([*QUIET, "epochs=1", "ema=null", "batch_size=100"])
        assert result.step == 5
        with pytest.raises(ConfigError, match="batch_size"):
            main(["batchsize=3"])


def test_the_command_line_says_where_such_a_run_goes_on(whole):
    code = "import sys; from sightline.cli.main import main; main()"
    for arguments in (["resume", whole], ["eval", whole]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "sightline.resume(" in done.stderr and "SpiralRun" in done.stderr
        assert done.stderr.count("\n") <= 5
    assert command("status", whole, cwd=whole).out.splitlines()[0].endswith(": done")
    assert command("report", whole, cwd=whole).code == 0


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_torchrun_trains_with_all_processes(tmp_path, strategy):
    from whole_run import main

    program = tmp_path / "warns.py"
    program.write_text(
        "import glob, sys, os, warnings, whole_run\n"
        "if os.environ['RANK'] == '1':\n"
        "    forward = whole_run.SpiralTask.forward\n"
        "    def warns(self, batch):\n"
        "        warnings.warn('a word of the second process')\n"
        "        return forward(self, batch)\n"
        "    whole_run.SpiralTask.forward = warns\n"
        "code = whole_run.main(sys.argv[1:]).exit_code\n"
        "alive = [open(path).read().strip() for path in glob.glob('/proc/self/task/*/comm')]\n"
        "left = [name for name in alive if 'gloo' in name]\n"
        "sys.exit(f'{left} live on: the end of the interpreter may abort or hang on them' if left else code)\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(program), *QUIET, "epochs=1", f"strategy={strategy}"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "SpiralRun" / "1"
    assert [path.name for path in run.parent.iterdir()] == ["1"]
    assert json.loads((run / "run.json").read_text())["sessions"][0]["processes"] == 2
    with chdir(tmp_path), without_report():
        alone = main([*QUIET, "epochs=1"]).run_dir.absolute()
    for name, tensor in weights_of(alone).items():
        torch.testing.assert_close(weights_of(run)[name], tensor, rtol=0, atol=1e-6)
    assert rows_of(run)[-1] == rows_of(alone)[-1], "the figures of the evaluation"
    assert "first of 2 processes" in (run / "log.txt").read_text()
    (word,) = (run / "log_1.txt").read_text().splitlines()
    assert "WARNING UserWarning: a word of the second process" in word


def test_a_console_of_ones_own_is_quiet_when_the_level_says_so(tmp_path):
    from whole_run import SpiralRun

    said = io.StringIO()
    config = SpiralRun(steps=2, device="cpu", log={"level": "WARNING", "trackers": []})
    with without_report():
        sightline.train(config, out=tmp_path / "run", console=Console(said, is_terminal=False))
    assert said.getvalue() == ""


def test_the_page_for_python_trains_evaluates_and_predicts(tmp_path, capsys):
    text = (ROOT / "docs" / "python.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    large, small = "epochs=20, image_size=320", "epochs=1, image_size=64, batch_size=4, workers=0, device='cpu'"
    assert large in program and "optimizer.momentum=0.95" in program
    program = program.replace(large, f"{small}, model=yolov7_tiny_small().model.but(width=0.125)")
    program = program.replace('["optimizer', '["augment.close_mosaic=0", "log.trackers=[]", "optimizer')
    program = program.replace("photos/1.jpg", "photos/1.png")
    city = write_city(tmp_path / "my_data")
    (tmp_path / "photos").symlink_to(city / "images" / "val")
    names = {}
    with chdir(tmp_path), without_report():
        exec(compile(program, "python.md", "exec"), names)
    assert names["result"].run_dir.parts[:2] == ("runs", "yolov7-tiny-small")
    record = api.resolve(None, from_run=tmp_path / names["result"].run_dir)[0]
    assert (record.optimizer.momentum, record.epochs, record.data.path) == (0.95, 1, city)
    assert "AP50" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "found" / "predictions.json").read_text())) == 3


def test_every_command_has_its_function_on_the_page():
    text = (ROOT / "docs" / "python.md").read_text()
    for name in ("train", "resume", "evaluate", "predict", "load"):
        assert f"`sightline.{name}(" in text
    others = {"check", "preflight", "compare", "report", "status", "plot_lr", "evaluate_all", "score_coco", "world"}
    assert all(f"`{name}`" in text and callable(getattr(api, name)) for name in others)
