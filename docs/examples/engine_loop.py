"""The same classifier, trained by the engine."""

import torch
from spirals import network, spirals
from torch.nn import functional as F

from sightline import engine
from sightline.engine import OptimizerConfig, Problem, RunConfig, ScheduleConfig, SumMetric, Task, TensorLoader


class Accuracy(SumMetric):
    def update(self, predictions, batch):
        self.add(right=(predictions == batch["y"]).sum(), seen=len(batch))

    def compute(self):
        return {"accuracy": self["right"] / self["seen"]}


class SpiralTask(Task):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, batch):
        return {"entropy": F.cross_entropy(self.net(batch["x"]), batch["y"])}

    def predict(self, batch):
        return self.net(batch["x"]).argmax(1)

    def new_metric(self):
        return Accuracy()


def points(seed, batch_size, **options):
    x, y = spirals(seed)
    return TensorLoader({"x": x, "y": y}, batch_size, seed=seed, **options)


def main():
    optimizer = OptimizerConfig(momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = ScheduleConfig(kind="cosine")
    config = RunConfig(epochs=20, batch_size=32, lr=0.1, optimizer=optimizer, schedule=schedule, device="cpu")

    torch.manual_seed(config.seed)
    task, loader = SpiralTask(), points(config.seed, config.batch_size)
    training = engine.build_training(config, Problem(task, loader))
    engine.train(training, loader)

    val = points(config.seed + 1, 100, shuffle=False)
    metric = engine.evaluate(task, val, device=training.device, precision=training.precision)
    print(f"accuracy {metric.compute()['accuracy']:.3f}")
    return task.net


if __name__ == "__main__":
    main()
