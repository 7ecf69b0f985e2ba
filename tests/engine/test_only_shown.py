"""Figures that a task gives beside its losses."""

import io
import json

import torch

from sightline.engine.run_config import Problem
from tests.engine.sessions import final_state, session
from tests.engine.toy import ToyLoader, ToyTask, toy_run


class Telling(ToyTask):
    """Also tells the share of right answers of each batch, with dropout as the losses saw it."""

    only_shown = frozenset({"right"})

    def forward(self, batch):
        logits = self.logits(batch)
        losses = {"entropy": torch.nn.functional.cross_entropy(logits, batch.y), "size": 1e-3 * logits.square().mean()}
        return losses | {"right": 100 * (logits.argmax(dim=1) == batch.y).float().mean()}


def problem_of(config, kind):
    torch.manual_seed(0)
    return Problem(
        task=kind(),
        train_loader=ToyLoader(22, config.samples_per_batch),
        eval_loader=ToyLoader(9, 4, seed=1, shuffle=False),
        figures=("accuracy",),
    )


def rows_of(folder, kind):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["values"] for row in rows if row["kind"] == kind]


def test_a_figure_is_logged_under_its_own_name_and_changes_no_weight(tmp_path):
    config, said = toy_run(evaluate={"loss": True}), io.StringIO()
    session(config, tmp_path / "telling", problem=problem_of(config, Telling), said=said)
    session(config, tmp_path / "silent", problem=problem_of(config, ToyTask))
    told, silent = (final_state(tmp_path / name) for name in ("telling", "silent"))
    del told["metrics.jsonl"], silent["metrics.jsonl"]
    assert told == silent
    for values, plain in zip(
        rows_of(tmp_path / "telling", "train"), rows_of(tmp_path / "silent", "train"), strict=True
    ):
        assert 0 <= values.pop("right") <= 100
        assert values == plain
    assert rows_of(tmp_path / "telling", "eval") == rows_of(tmp_path / "silent", "eval")
    assert "  right " in said.getvalue()


def test_parts_of_a_step_average_the_figure_by_their_samples(tmp_path):
    config = toy_run(
        dropout=0.0, accumulation={"every": 2}, log={"every_steps": 1, "trackers": []}, steps=3, epochs=None
    )
    session(config, tmp_path / "run", problem=problem_of(config, Telling))
    for values in rows_of(tmp_path / "run", "train"):  # 8 samples a step, but for the last of an epoch: 6
        assert any(abs(values["right"] / 100 * n - round(values["right"] / 100 * n)) < 1e-4 for n in (8, 6))
