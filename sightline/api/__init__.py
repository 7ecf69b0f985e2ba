"""The Python face of sightline. The command line calls these functions and nothing else.

Example:
    >>> import sightline
    >>> result = sightline.train("yolov7-tiny", data="coco128", changes=["epochs=3"])  # doctest: +SKIP
    >>> sightline.evaluate(result.run_dir)["AP50"]  # doctest: +SKIP
"""

from sightline.api.configuration import describe_config, describe_keys, list_recipes, resolve
from sightline.api.contents import Contents, FileContent, TensorKind, show
from sightline.api.datasets import check, dataset_formats, score_coco, score_kitti, world
from sightline.api.exporting import Exported, export
from sightline.api.importing import Imported, import_bmxnet
from sightline.api.importing_openpcdet import ImportedPcdet, import_openpcdet
from sightline.api.inference import Figures, evaluate
from sightline.api.output import check_output, write_output
from sightline.api.packing import Packed, pack
from sightline.api.prediction import PicturePrediction, Predictor, free_folder, load, predict
from sightline.api.preflight import PreflightReport, names_a_run, near_recipe, preflight
from sightline.api.releasing import Released, release
from sightline.api.runs import RunComparison, compare, plot_lr, report, status
from sightline.api.search import SearchResult, search
from sightline.api.series import CheckpointFigures, Series, evaluate_all, step_aside
from sightline.api.session import TrainResult
from sightline.api.table import Table
from sightline.api.training import resume, train
from sightline.api.trials import SearchError, TrialResult

__all__ = [
    "CheckpointFigures",
    "Contents",
    "Exported",
    "Figures",
    "FileContent",
    "Imported",
    "ImportedPcdet",
    "Packed",
    "PicturePrediction",
    "Predictor",
    "PreflightReport",
    "Released",
    "RunComparison",
    "SearchError",
    "SearchResult",
    "Series",
    "Table",
    "TensorKind",
    "TrainResult",
    "TrialResult",
    "check",
    "check_output",
    "compare",
    "dataset_formats",
    "describe_config",
    "describe_keys",
    "evaluate",
    "evaluate_all",
    "export",
    "free_folder",
    "import_bmxnet",
    "import_openpcdet",
    "list_recipes",
    "load",
    "names_a_run",
    "near_recipe",
    "pack",
    "plot_lr",
    "predict",
    "preflight",
    "release",
    "report",
    "resolve",
    "resume",
    "score_coco",
    "score_kitti",
    "search",
    "show",
    "status",
    "step_aside",
    "train",
    "world",
    "write_output",
]
