"""What the figure of the start-up rests on: nothing is loaded that the first step does not need."""

import os
import subprocess
import sys

from benchmarks import startup

NEEDLESS = {"torch._dynamo", "torch._inductor", "sympy", "torchvision", "matplotlib", "jinja2", "tensorboard"}


def test_the_first_step_of_a_training_comes_without_compiler_plots_or_the_package_of_torchvision(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(startup.ROOT)}
    subprocess.run([sys.executable, "-c", startup.DRAW, str(tmp_path / "data")], env=environment, check=True)
    leave = "lambda *ignored: (os.write(1, ('LOADED ' + ' '.join(sys.modules)).encode()), os._exit(0))"
    code = startup.OURS.replace("lambda *ignored: os._exit(0)", leave)
    assert leave in code
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "data", tmp_path / "out", "model.width=0.125"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert "torch" in loaded
    assert loaded.isdisjoint(NEEDLESS), sorted(loaded & NEEDLESS)
