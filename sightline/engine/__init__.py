"""Steps, precision, schedules, checkpoints and callbacks. Never heard of boxes.

Rooms: ``checkpoint``, ``distributed`` (several processes), ``callbacks`` (what only watches), ``run_folder``
and ``trackers``. Beside them stands what makes a step; ``loop`` is the place to begin.

What a program of your own needs stands here; ``docs/bare-engine.md`` shows such a program. Every name is loaded when it
is first used, so that importing this package loads no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.config.base import Config
    from sightline.engine.accumulation import AccumulationConfig
    from sightline.engine.building import build_training
    from sightline.engine.callback import Callback, EvaluationReport, StepReport
    from sightline.engine.callbacks.early_stop import EarlyStoppingConfig
    from sightline.engine.checkpoint.retention import CheckpointConfig
    from sightline.engine.distributed.processes import WHOLE, Share
    from sightline.engine.ema import EmaConfig
    from sightline.engine.evaluation import EvaluateConfig, evaluate
    from sightline.engine.in_memory import SumMetric, TensorBatch, TensorLoader
    from sightline.engine.log import LogConfig
    from sightline.engine.loop import Training, train
    from sightline.engine.optim import OptimizerConfig
    from sightline.engine.parameter_groups import GroupRule
    from sightline.engine.run_config import Problem, RunConfig
    from sightline.engine.schedule import PolicyConfig, ScheduleConfig, WarmupConfig
    from sightline.engine.task import Batch, Fetched, Loader, Metric, Picture, Task

_PLACES = {
    "config.base": ("Config",),
    "engine.accumulation": ("AccumulationConfig",),
    "engine.callback": ("Callback", "EvaluationReport", "StepReport"),
    "engine.callbacks.early_stop": ("EarlyStoppingConfig",),
    "engine.ema": ("EmaConfig",),
    "engine.evaluation": ("EvaluateConfig", "evaluate"),
    "engine.in_memory": ("SumMetric", "TensorBatch", "TensorLoader"),
    "engine.log": ("LogConfig",),
    "engine.loop": ("Training", "train"),
    "engine.optim": ("OptimizerConfig",),
    "engine.parameter_groups": ("GroupRule",),
    "engine.distributed.processes": ("WHOLE", "Share"),
    "engine.checkpoint.retention": ("CheckpointConfig",),
    "engine.run_config": ("Problem", "RunConfig"),
    "engine.schedule": ("PolicyConfig", "ScheduleConfig", "WarmupConfig"),
    "engine.building": ("build_training",),
    "engine.task": ("Batch", "Fetched", "Loader", "Metric", "Picture", "Task"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "WHOLE",
    "AccumulationConfig",
    "Batch",
    "Callback",
    "CheckpointConfig",
    "Config",
    "EarlyStoppingConfig",
    "EmaConfig",
    "EvaluateConfig",
    "EvaluationReport",
    "Fetched",
    "GroupRule",
    "Loader",
    "LogConfig",
    "Metric",
    "OptimizerConfig",
    "Picture",
    "PolicyConfig",
    "Problem",
    "RunConfig",
    "ScheduleConfig",
    "Share",
    "StepReport",
    "SumMetric",
    "Task",
    "TensorBatch",
    "TensorLoader",
    "Training",
    "WarmupConfig",
    "build_training",
    "evaluate",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a name on its first use."""
    if name in _PLACE_OF:
        return getattr(import_module(f"sightline.{_PLACE_OF[name]}"), name)
    raise AttributeError(f"module 'sightline.engine' has no attribute {name!r}")
