"""Other projects' training loops, for ``loop``: the same model and batches, each written as its documentation says.

There are two kinds of row. A bare one takes forward, backward and step through the peer's loop with everything else
that it lets one switch off switched off; its counterpart is ``bare``. One that ends in ``_duties`` also does what
``by_hand`` does (clip at norm 10, average the weights, follow a schedule, read the loss, log every 50 steps), and in
addition shows a bar and saves a checkpoint at the end; its counterpart is ``by_hand``. Where a peer has a part for a
duty, that part does it; where it has none, the duty is done as ``by_hand`` does it:

- Accelerate: clips, holds the schedule, logs to TensorBoard, shows the bar, saves; the average is by hand.
- Fabric: clips, logs to a CSV file and saves; average and schedule are by hand, the bar is tqdm's.
- Lightning's Trainer, mmengine's Runner and Ignite: all by their own parts. The Runner prints lines in place of a bar.
  Its hook that seeds samplers is off: it needs a batch sampler, which ready batches do without.
- Ultralytics' ``BaseTrainer`` has one row, with its duties: it clips, averages and shows a bar whether one wants them
  or not; it follows its schedule and writes its log by epochs. Plots, validation and checkpoints are off.

What is logged is what the peer logs: the mean of 50 losses, a running average, or the last one. Except for
Ultralytics, whose optimizer is its own, every row ends each step with the weights of its counterpart.
"""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.loop_model import LOG_EVERY, Net, data_loader

MAX_NORM = 10.0


def sgd(net: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)


def to_a_tenth(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The rate of ``by_hand``: a straight line from all of it to a tenth."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - 0.9 * step / steps)


def averaging(net: nn.Module) -> Callable[[], None]:
    """The average of ``by_hand``; the function that is returned takes it one step on."""
    average = copy.deepcopy(net).requires_grad_(False)
    averaged = [value for value in average.state_dict().values() if value.is_floating_point()]
    live = [value for value in net.state_dict().values() if value.is_floating_point()]

    def follow() -> None:
        with torch.no_grad():
            torch._foreach_lerp_(averaged, live, 0.001)

    return follow


def accelerate(steps: int, folder: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = Net()
    net, optimizer, batches = accelerator.prepare(net, sgd(net), data_loader(steps))
    for x, y in batches:
        with accelerator.accumulate(net):
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(net(x), y))
            optimizer.step()


def accelerate_duties(steps: int, folder: Path) -> None:
    from accelerate import Accelerator
    from accelerate.utils import tqdm

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder)
    accelerator.init_trackers("loop")
    net = Net()
    optimizer = sgd(net)
    net, optimizer, batches, schedule = accelerator.prepare(
        net, optimizer, data_loader(steps), to_a_tenth(optimizer, steps)
    )
    follow = averaging(accelerator.unwrap_model(net))
    total = 0.0
    for step, (x, y) in enumerate(tqdm(batches)):
        with accelerator.accumulate(net):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), MAX_NORM)
            optimizer.step()
            schedule.step()
        follow()
        total += loss.item()
        if step % LOG_EVERY == LOG_EVERY - 1:
            accelerator.log({"loss": total / LOG_EVERY}, step=step)
            total = 0.0
    accelerator.save_state(folder / "checkpoint")
    accelerator.end_training()


def fabric(steps: int, folder: Path) -> None:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    net = Net()
    net, optimizer = fabric.setup(net, sgd(net))
    for x, y in fabric.setup_dataloaders(data_loader(steps)):
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(F.cross_entropy(net(x), y))
        optimizer.step()


def fabric_duties(steps: int, folder: Path) -> None:
    from lightning.fabric import Fabric
    from lightning.fabric.loggers import CSVLogger
    from tqdm import tqdm

    fabric = Fabric(accelerator="cpu", devices=1, loggers=CSVLogger(folder))
    net = Net()
    follow, optimizer = averaging(net), sgd(net)
    schedule = to_a_tenth(optimizer, steps)
    net, optimizer = fabric.setup(net, optimizer)
    total = 0.0
    for step, (x, y) in enumerate(tqdm(fabric.setup_dataloaders(data_loader(steps)))):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(x), y)
        fabric.backward(loss)
        fabric.clip_gradients(net, optimizer, max_norm=MAX_NORM)
        optimizer.step()
        schedule.step()
        follow()
        total += loss.item()
        if step % LOG_EVERY == LOG_EVERY - 1:
            fabric.log_dict({"loss": total / LOG_EVERY}, step=step)
            total = 0.0
    fabric.save(folder / "checkpoint.ckpt", {"net": net, "optimizer": optimizer})


def lightning_trainer(steps: int, folder: Path, *, duties: bool) -> None:
    import lightning
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
    from lightning.pytorch.loggers import CSVLogger

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            if duties:
                self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = sgd(self)
            if not duties:
                return optimizer
            schedule = {"scheduler": to_a_tenth(optimizer, steps), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    if duties:
        watchers = [TQDMProgressBar(), ModelCheckpoint(folder), EMAWeightAveraging(decay=0.999)]
        settings = {"logger": CSVLogger(folder), "log_every_n_steps": LOG_EVERY, "callbacks": watchers}
        settings |= {"gradient_clip_val": MAX_NORM}
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, default_root_dir=folder, enable_model_summary=False, **settings
    )
    trainer.fit(Module(), data_loader(steps))


def mmengine_runner(steps: int, folder: Path, *, duties: bool) -> None:
    from mmengine.hooks import EMAHook
    from mmengine.model import BaseModel
    from mmengine.optim import LinearLR, OptimWrapper
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: Tensor, y: Tensor, mode: str = "loss") -> dict[str, Tensor]:
            return {"loss": F.cross_entropy(self.net(x), y)}

    model = Model()
    optimizer = sgd(model)
    hooks = dict.fromkeys(("runtime_info", "timer", "logger", "param_scheduler", "checkpoint"))
    settings: dict[str, Any] = {"default_hooks": {**hooks, "sampler_seed": None}, "log_level": "ERROR"}
    if duties:
        settings = {
            "default_hooks": {"logger": {"type": "LoggerHook", "interval": LOG_EVERY}, "sampler_seed": None},
            "custom_hooks": [EMAHook(momentum=0.001)],
            "param_scheduler": LinearLR(optimizer, start_factor=1.0, end_factor=0.1, end=steps + 1, by_epoch=False),
        }
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=data_loader(steps),
        optim_wrapper=OptimWrapper(optimizer, clip_grad={"max_norm": MAX_NORM} if duties else None),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        experiment_name=folder.name,  # the Runner refuses one that the process has had
        **settings,
    )
    runner.train()


def ignite(steps: int, folder: Path) -> None:
    from ignite.engine import create_supervised_trainer

    net = Net()
    create_supervised_trainer(net, sgd(net), F.cross_entropy, device="cpu").run(data_loader(steps), max_epochs=1)


def ignite_duties(steps: int, folder: Path) -> None:
    from ignite.engine import Engine, Events
    from ignite.handlers import Checkpoint, DiskSaver, EMAHandler, PiecewiseLinear, ProgressBar
    from ignite.metrics import RunningAverage

    net = Net()
    optimizer = sgd(net)

    def update(engine: Any, batch: Any) -> float:
        net.train()
        x, y = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), MAX_NORM)
        optimizer.step()
        return loss.item()

    trainer = Engine(update)
    line = PiecewiseLinear(optimizer, "lr", milestones_values=[(0, 1e-3), (steps, 1e-4)])
    trainer.add_event_handler(Events.ITERATION_STARTED, line)
    average = EMAHandler(net, momentum=0.001)
    average.attach(trainer)
    RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
    ProgressBar().attach(trainer, ["loss"])
    saved = {"net": net, "average": average.ema_model, "optimizer": optimizer, "trainer": trainer}
    trainer.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(saved, DiskSaver(folder, require_empty=False)))
    with (folder / "log.csv").open("w") as log:

        @trainer.on(Events.ITERATION_COMPLETED(every=LOG_EVERY))
        def write(engine: Any) -> None:
            log.write(f"{engine.state.iteration},{engine.state.metrics['loss']}\n")

        trainer.run(data_loader(steps), max_epochs=1)


class DictLoader:
    """Ready batches as dictionaries, with what ``BaseTrainer`` asks of a loader."""

    def __init__(self, steps: int) -> None:
        self.loader = data_loader(steps)
        self.dataset, self.num_workers, self.batch_size = self.loader.dataset, 0, 32
        self.sampler = range(32 * steps)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for x, y in self.loader:
            yield {"img": x, "cls": y}

    def reset(self) -> None:
        """Nothing is kept between two epochs."""


class DictModel(nn.Module):
    """A batch to its loss and what is shown of it, as ``BaseTrainer`` asks of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.args = self.criterion = None

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, with gradients and without."""
        loss = F.cross_entropy(self.net(batch["img"]), batch["cls"])
        return loss, {"loss": loss.detach()}


def ultralytics(steps: int, folder: Path) -> None:
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_CONFIG_DIR", str(folder))  # its settings would go to the home folder
    from ultralytics.engine.trainer import BaseTrainer

    class Trainer(BaseTrainer):
        def get_dataset(self) -> Any:
            return {"train": "", "val": "", "nc": 10, "names": {}, "channels": 3}

        def setup_model(self) -> None:
            self.model = DictModel()

        def get_dataloader(self, *ignored: Any, **also_ignored: Any) -> DictLoader:
            return DictLoader(steps)

        def get_validator(self) -> Any:
            return SimpleNamespace(metrics=SimpleNamespace(keys=[]), dataloader=None, args=SimpleNamespace(plots=False))

        def validate(self) -> Any:
            return {}, 0.0

        def save_model(self) -> None:
            """Off: it would pickle the model."""

    settings: dict[str, Any] = {"model": "loop.yaml", "data": "loop.yaml", "project": str(folder), "device": "cpu"}
    settings |= {"epochs": 1, "batch": 32, "nbs": 32, "workers": 0, "optimizer": "SGD", "lr0": 1e-3, "lrf": 0.1}
    settings |= {"momentum": 0.9, "warmup_epochs": 0, "weight_decay": 0.0, "amp": False, "deterministic": False}
    Trainer(overrides={**settings, "plots": False, "val": False, "save": False}).train()


class Peer(NamedTuple):
    """A row and the distribution that it needs."""

    distribution: str
    train: Callable[[int, Path], None]

    @property
    def version(self) -> str | None:
        """Of the distribution; None where it is not installed."""
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(self.distribution)
        return None


PEERS = {
    "accelerate": Peer("accelerate", accelerate),
    "accelerate_duties": Peer("accelerate", accelerate_duties),
    "fabric": Peer("lightning", fabric),
    "fabric_duties": Peer("lightning", fabric_duties),
    "lightning": Peer("lightning", lambda steps, folder: lightning_trainer(steps, folder, duties=False)),
    "lightning_duties": Peer("lightning", lambda steps, folder: lightning_trainer(steps, folder, duties=True)),
    "mmengine": Peer("mmengine", lambda steps, folder: mmengine_runner(steps, folder, duties=False)),
    "mmengine_duties": Peer("mmengine", lambda steps, folder: mmengine_runner(steps, folder, duties=True)),
    "ignite": Peer("pytorch-ignite", ignite),
    "ignite_duties": Peer("pytorch-ignite", ignite_duties),
    "ultralytics_duties": Peer("ultralytics", ultralytics),
}
