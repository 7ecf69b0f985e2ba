"""Everything that decides a run, as far as the engine knows it. Every task's recipes add their own keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sightline.config.base import Config, Patterns, as_list
from sightline.config.errors import ConfigError
from sightline.config.figures import better_direction
from sightline.config.override import expand_path
from sightline.engine.accumulation import AccumulationConfig
from sightline.engine.auto_batch import AutoBatchConfig, number_or_auto
from sightline.engine.callbacks.early_stop import EarlyStoppingConfig
from sightline.engine.callbacks.histograms import HistogramConfig
from sightline.engine.callbacks.user_callbacks import CallbackConfig
from sightline.engine.callbacks.watch import WatchConfig
from sightline.engine.checkpoint.retention import BestBy, CheckpointConfig, KeepBest, KeepImprovements
from sightline.engine.device import device_name, gpus_of
from sightline.engine.distributed.processes import WHOLE, Share
from sightline.engine.distributed.sharding import FsdpConfig
from sightline.engine.ema import EmaConfig
from sightline.engine.evaluation import EvaluateConfig, refuse_unmeasured_loss
from sightline.engine.finding import DataReview, Finding
from sightline.engine.log import LogConfig
from sightline.engine.optim import OptimizerConfig
from sightline.engine.rollback import RollbackConfig
from sightline.engine.schedule import ScheduleConfig
from sightline.engine.stop import seconds_of
from sightline.engine.task import Loader, Task

PathText = Annotated[Path, BeforeValidator(expand_path)]
"""A path; ``~`` and environment variables are expanded."""


def _whether_to_compile(value: object) -> object:
    if not isinstance(value, bool) and value != "try":
        raise ValueError(f"must be true, false or try, got {value!r}")
    return value


def _known_duration(value: object) -> object:
    seconds_of(str(value))
    return value


@dataclass(frozen=True)
class Problem:
    """What a configuration becomes once its data has been opened: everything that the engine needs."""

    task: Task
    train_loader: Loader | None
    """None where nothing is trained."""
    eval_loader: Loader | None = None
    """None where nothing is evaluated."""
    messages: Sequence[str] = ()
    """What the user should know about the data: counts, faults, skipped samples."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain values about the data for the report and for later use of the model, e.g. class names."""
    unit: str = "samples"
    """What a sample is called where throughput is shown: ``images``, ``sweeps``."""
    source: str = ""
    """Where the data that is evaluated comes from, for people."""
    headline: Sequence[str] = ()
    """Figures of the evaluation that a person wants to see first, in order; all of them when empty."""
    figures: Sequence[str] = ()
    """All figures that the metric gives, so that a wrong name is refused before the run; when empty, the first batch of
    the validation data tells them."""


class RunConfig(Config):
    """One run. The keys that people turn most stand at the top level."""

    evaluation_keys: ClassVar[tuple[str, ...]] = (
        "batch_size", "device", "precision", "channels_last", "deterministic", "cudnn_benchmark", "workers", "threads",
        "evaluate.loss",
    )  # fmt: skip
    """Keys and groups that change the evaluation of a trained model."""
    saves_folder: ClassVar[bool] = False
    """Whether the metric's ``save`` makes a folder of files, not one file."""
    smaller_is_better: ClassVar[tuple[str, ...]] = ()
    """Figures of the evaluation, beside losses, that are better the smaller they are."""

    recipe: str = ""
    """Name of the recipe that this run began with."""
    epochs: PositiveInt | None = None
    """Passes over the training data. Give one of epochs, steps and samples."""
    steps: PositiveInt | None = None
    """Optimizer steps. Give one of epochs, steps and samples."""
    samples: PositiveInt | None = None
    """Training samples, over all epochs and processes: the run ends with the step that reaches them. Give one of
    epochs, steps and samples."""
    batch_size: Annotated[PositiveInt | Literal["auto"], BeforeValidator(number_or_auto)] = 16
    """Samples per (micro-)batch, over all processes. auto becomes the largest number whose step fits into a share of
    the free memory, and the run's config.yaml says which."""
    auto_batch: AutoBatchConfig = AutoBatchConfig()
    samples_at_once: PositiveInt | None = None
    """A process runs larger shares of a batch in parts of at most so many samples: less memory, the same losses and
    gradients, but batch norm sees the parts. Running out of memory halves it."""
    lr: PositiveFloat = 0.01
    """Learning rate that the schedule and the parameter groups multiply."""
    seed: NonNegativeInt = 0
    """Decides every random number of the run."""
    device: Annotated[str, BeforeValidator(device_name)] = "auto"
    """auto takes the first GPU, or the CPU where there is none. cuda:1 or 1 takes the second one; cuda:0,2 or 0,2
    starts a process on each of these."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass; weights, averages and checkpoints stay in fp32. auto becomes bf16 where the
    device has it, else fp32, and the run's config.yaml says which."""
    channels_last: bool = False
    """Keep images and weights in channels-last memory order: faster convolutions on most devices."""
    compile: Annotated[bool | Literal["try"], BeforeValidator(_whether_to_compile)] = False
    """Compile the task with torch.compile: slow first steps, faster later ones. try runs it as it is written where it
    cannot be compiled as a whole, and says why."""
    deterministic: bool = False
    """Use only GPU kernels that give the same bits every time: slower, and an error where an operation has none. A CPU
    gives the same bits anyway, for the same number of threads."""
    cudnn_benchmark: bool | None = None
    """On a GPU, let cuDNN try its kernels on every new shape and keep the fastest: slow first steps, faster later ones,
    and no good where shapes change all the time. When left out it does unless deterministic=true, which forbids it."""
    devices: PositiveInt = 1
    """Processes to start on this machine, one a device. Under torchrun, srun or mpirun their number counts instead."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: ddp keeps everything of a model in each of them; fsdp leaves each one its part of the
    weights, gradients, optimizer state and averages, for models that do not fit otherwise."""
    fsdp: FsdpConfig = FsdpConfig()
    sync_batch_norm: bool = True
    """With several processes: batch norm over the whole batch, so that the number of processes changes nothing."""
    find_unused_parameters: bool = False
    """With several processes: let a step leave out parameters that are trained, as branches of a model do that are not
    always taken. Every step then looks for them, which takes time; false refuses such a step and names them."""
    workers: NonNegativeInt = 2
    """Threads or processes that prepare batches; 0 prepares them in the training thread."""
    weights: PathText | None = None
    """Start from the weights of this run, checkpoint or file (safetensors or torch.save), as far as they fit."""
    partial_weights: bool = False
    """Of weights with another shape, copy the leading part that file and model both have."""
    freeze: Patterns = ()
    """Patterns on parameter names, such as ``detector.network.layers.[0-9].*``: what they fit is not trained, and the
    running statistics of its normalisation layers stand still."""
    stop_at_epoch: PositiveInt | None = None
    """Stop with exit code 3 once so many epochs are complete and evaluated; a resumed run goes on beyond them."""
    max_time: Annotated[str, BeforeValidator(_known_duration)] | None = None
    """Stop with exit code 3 before a session has taken so long: 90s, 10m, 2h, 1d or 1h30m. The schedule stays as it is.
    """
    limit_batches: PositiveInt | None = None
    """Use only so many training and evaluation batches per epoch: a quick run through the whole path."""
    max_grad_norm: PositiveFloat | None = None
    """Scale the gradients of a step down to this global norm."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """When a loss or gradient becomes NaN or infinite: stop, naming tensor, step and samples; leave the step out; or
    return to the last good state, kept in memory, and go on with the next samples."""
    rollback: RollbackConfig = RollbackConfig()
    threads: PositiveInt | None = None
    """CPU threads of the arithmetic; all cores when left out."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    accumulation: AccumulationConfig = AccumulationConfig()
    ema: EmaConfig | None = None
    """Average of the weights that is evaluated and kept beside the live ones; none when left out."""
    evaluate: EvaluateConfig = EvaluateConfig()
    early_stopping: EarlyStoppingConfig | None = None
    """End the run after so many evaluations (``patience``) without improvement (by more than ``min_delta``, of the
    figure ``by``); never when left out."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    callbacks: Annotated[tuple[CallbackConfig, ...], BeforeValidator(as_list)] = ()
    """Callbacks of yours, called in this order: ``FILE.py:CLASS``, or ``{file: FILE.py, name: CLASS, options: {...}}``.
    """
    watch: WatchConfig | None = None
    """Figures of activations and gradients, e.g. ``watch={layers: ["*.conv"], every_steps: 50}``; none when left out.
    """
    histograms: HistogramConfig | None = None
    """Histograms of weights and gradients in TensorBoard, e.g. ``histograms={every_steps: 500}``, or
    ``{every_steps: 0, every_epochs: 1}``; none when left out."""
    profile: PositiveInt | None = None
    """Tell after so many steps where their time and memory went; also in the run's profile.json."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if [self.epochs, self.steps, self.samples].count(None) != 2:
            raise ValueError(
                f"give one of epochs, steps and samples (epochs={self.epochs}, steps={self.steps}, "
                f"samples={self.samples}); set the others to null"
            )
        return self

    @model_validator(mode="after")
    def _one_count_of_processes(self) -> Self:
        gpus = gpus_of(self.device)
        if len(gpus) > 1 and self.devices not in (1, len(gpus)):
            raise ValueError(
                f"device={self.device} is {len(gpus)} GPUs, but devices={self.devices}; leave devices out, every GPU "
                "named has a process"
            )
        return self

    @model_validator(mode="after")
    def _no_search_among_equal_bits(self) -> Self:
        if self.deterministic and self.cudnn_benchmark:
            raise ValueError(
                "cudnn_benchmark=true takes whichever kernel is fastest that time, and deterministic=true the same one "
                "every time; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _early_stopping_is_measured(self) -> Self:
        if self.early_stopping is not None and self.early_stopping.by is not None:
            refuse_unmeasured_loss("early_stopping.by.metric", self.early_stopping.by, measured=self.evaluate.loss)
        return self

    @model_validator(mode="after")
    def _watched_layers_are_called(self) -> Self:
        if self.watch is not None and self.compile:
            raise ValueError("watch looks into layers, which a compiled model does not call: set compile=false")
        return self

    @model_validator(mode="after")
    def _shards_suffice(self) -> Self:
        if self.strategy == "fsdp":
            for key, is_set in (
                (f"compile={str(self.compile).lower()}", bool(self.compile)),
                ("batch_size=auto", self.batch_size == "auto"),
                ("histograms", self.histograms is not None),
                ("rollback.keep_on=host", self.rollback.keep_on == "host"),
            ):
                if is_set:
                    raise ValueError(f"{key} needs whole weights, and strategy=fsdp keeps parts: take strategy=ddp")
        return self

    @classmethod
    def useless(cls, values: Mapping[str, Any]) -> tuple[str, ...]:
        """A number of processes gives way to GPUs by their numbers, a search for kernels to those of the same bits."""
        try:
            many = len(gpus_of(device_name(values["device"]))) > 1
        except ValueError:  # told when all values are checked
            many = False
        idle = ("devices",) if many else ()
        return (*idle, "cudnn_benchmark") if values["deterministic"] is True else idle

    def deciding(self) -> dict[str, BestBy]:
        """By key, what says which figure decides something: the best checkpoint, what is kept, an early end."""
        found = {"evaluate.best": self.evaluate.best}
        for place, rule in enumerate(self.checkpoint.keep):
            if isinstance(rule, KeepBest | KeepImprovements) and rule.by is not None:
                found[f"checkpoint.keep[{place}].by"] = rule.by
        if self.early_stopping is not None and self.early_stopping.by is not None:
            found["early_stopping.by"] = self.early_stopping.by
        return found

    def meaning_of(self, by: BestBy) -> BestBy:
        """``by`` with its direction, where that is left out and the name of a figure tells it."""
        if by.direction is not None or by.metric is None:
            return by
        return by.but(direction=better_direction(by.metric, self.smaller_is_better))

    @property
    def best(self) -> BestBy:
        """Which figure decides the best checkpoint, and which value of it is better."""
        return self.meaning_of(self.evaluate.best)

    @property
    def kept_checkpoints(self) -> CheckpointConfig:
        """``checkpoint``; its rules say which value of a figure is better."""
        rules = (
            rule.but(by=self.meaning_of(rule.by))
            if isinstance(rule, KeepBest | KeepImprovements) and rule.by is not None
            else rule
            for rule in self.checkpoint.keep
        )
        return self.checkpoint.but(keep=tuple(rules))

    @property
    def processes_here(self) -> int:
        """Processes that the run has on this machine, unless a launcher has started others."""
        return max(self.devices, len(gpus_of(self.device)))

    @property
    def samples_per_batch(self) -> int:
        """``batch_size`` as a number.

        Raises:
            ConfigError: As long as it is ``auto``.
        """
        if self.batch_size == "auto":
            raise ConfigError("batch_size=auto is found when a run begins (sightline train); give a number here.")
        return self.batch_size

    def without_effect(self) -> dict[str, str]:
        """Settings of an average that there is none of, or of a nominal batch."""
        idle = {}
        if self.ema is None and self.evaluate.weights == "ema":
            idle["evaluate.weights"] = "there are no averaged weights (ema=null)"
        if len(gpus_of(self.device)) > 1:
            idle["devices"] = f"every GPU of device={self.device} has a process"
        elif self.devices > 1 and self.device not in ("auto", "cpu", "cuda"):
            idle["device"] = (
                f"devices={self.devices} gives every process a device of its own; say cpu or cuda, or name a GPU for "
                "each (0,1) in place of devices"
            )
        if self.deterministic:
            idle["cudnn_benchmark"] = "nothing is tried (deterministic=true)"
        if self.batch_size != "auto" and self.accumulation.full_window(self.batch_size) == 1:
            idle["accumulation.exact"] = "every micro-batch is an update (accumulation.every=1)"
        if self.optimizer.decay_follows_batch and self.accumulation.nominal_batch_size is None:
            idle["optimizer.decay_follows_batch"] = "there is no accumulation.nominal_batch_size"
        if "tensorboard" not in self.log.trackers:
            idle["histograms"] = "they are shown by TensorBoard, which log.trackers does not name"
        if self.batch_size != "auto":
            idle["auto_batch"] = f"the batch has its size (batch_size={self.batch_size})"
        if self.stop_at_epoch is not None and self.epochs is not None and self.stop_at_epoch >= self.epochs:
            idle["stop_at_epoch"] = f"the run ends with epoch {self.epochs}"
        if self.strategy == "fsdp":
            idle["find_unused_parameters"] = "it belongs to strategy=ddp"
        else:
            idle["fsdp"] = f"nothing is in shards (strategy={self.strategy})"
        if self.on_nonfinite != "rollback":
            idle["rollback"] = f"nothing is rolled back (on_nonfinite={self.on_nonfinite})"
        if self.weights is None:
            idle["partial_weights"] = "there are no weights to start from (weights=null)"
        return idle

    def open(self, *, training: bool = True, share: Share = WHOLE) -> Problem:
        """Open the data, build the task and its loaders.

        Args:
            training: Whether a training loader is needed.
            share: Which part of every batch the loaders make; the order of the samples is the same for all shares.

        Raises:
            UserError: If the data cannot be used or contradicts the configuration.
        """
        raise NotImplementedError("a task's own configuration opens its data")

    def open_trained(self, facts: Mapping[str, Any]) -> Problem:
        """Open the data to evaluate a trained model on it.

        Args:
            facts: ``Problem.facts`` of the training.

        Raises:
            UserError: As ``open``; or if the model does not speak of what the data holds.
        """
        return self.open(training=False)

    def review_data(self, *, decode: bool = True, tell: Callable[[str], None] = lambda text: None) -> DataReview:
        """Look at all of the data before a run, and list everything that is wrong with it.

        Args:
            decode: Look into the samples too, not at their truth alone.
            tell: Called with what is being done.
        """
        return DataReview(lambda variant: variant.open())

    def preflight_findings(self, problem: Problem) -> list[Finding]:
        """What a task or model knows about how it fits its data: anchors, ranges, sizes.

        Args:
            problem: What ``review_data().open`` gave.
        """
        return []
