"""The same classifier as a run: averaged weights, evaluation, checkpoints, a report, resume, several processes."""

import sys

import torch
from engine_loop import SpiralTask, points

import sightline
from sightline.engine import WHOLE, EmaConfig, EvaluateConfig, OptimizerConfig, Problem, RunConfig, ScheduleConfig


class SpiralRun(RunConfig):
    def open(self, *, training=True, share=WHOLE):
        torch.manual_seed(self.seed)
        return Problem(
            SpiralTask(),
            points(self.seed, self.batch_size, share=share),
            points(self.seed + 1, 100, shuffle=False, share=share),
            unit="points",
        )


def main(arguments):
    if arguments[:1] == ["resume"]:
        return sightline.resume(arguments[1], arguments[2:])
    config = SpiralRun(
        epochs=20,
        batch_size=32,
        lr=0.1,
        optimizer=OptimizerConfig(momentum=0.9, nesterov=True, weight_decay=1e-4),
        schedule=ScheduleConfig(kind="cosine"),
        ema=EmaConfig(decay=0.99),
        evaluate=EvaluateConfig(every_epochs=5),
        device="cpu",
    )
    return sightline.train(config, changes=arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]).exit_code)
