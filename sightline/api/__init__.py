"""The Python face of sightline. The command line calls these functions and nothing else.

Example:
    >>> import sightline
    >>> result = sightline.train("yolov7-tiny", data="coco128", changes=["epochs=3"])  # doctest: +SKIP
    >>> sightline.evaluate(result.run_dir)["AP50"]  # doctest: +SKIP
"""

from sightline.api.configuration import describe_config, describe_keys, list_recipes, resolve
from sightline.api.datasets import check, score_coco, world
from sightline.api.inference import evaluate, load, predict
from sightline.api.runs import compare, plot_lr, report, status
from sightline.api.training import TrainResult, resume, train

__all__ = [
    "TrainResult",
    "check",
    "compare",
    "describe_config",
    "describe_keys",
    "evaluate",
    "list_recipes",
    "load",
    "plot_lr",
    "predict",
    "report",
    "resolve",
    "resume",
    "score_coco",
    "status",
    "train",
    "world",
]
