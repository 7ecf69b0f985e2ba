"""The files of a run folder that a report is made from. Every one of them may be missing.

``config.yaml``
    The resolved configuration; shown as it stands, and compared key by key.
``run.json``
    ``recipe``, ``configuration`` (a class with its module) and ``sessions``, one a start: ``command``, ``started``,
    ``ended``, ``outcome``, ``versions``, ``machine``, ``devices``, ``environment``, ``code_commit``.
``status.json``
    ``state``, ``step``, ``total_steps``, ``epoch``, ``total_epochs``, ``unit``, ``message``.
``metrics.jsonl``, ``timing.jsonl``
    One object a line: ``step``, ``epoch`` (from 0), ``kind`` (``train`` or ``eval``) and ``values``, numbers by
    name. What stands before a slash names a plot: ``loss``, ``loss/box``, ``lr/bias``. NaN and infinities are
    the texts ``"NaN"``, ``"Infinity"``, ``"-Infinity"``.
``evaluation.json``
    ``Evaluation`` below: the tables and curves of the last evaluation.
``data.json``
    ``DataFacts`` below: label statistics and faults of the data.
``pictures/*.jpg|png|webp``
    Shown under their names. Those that begin with ``train`` are training batches, the others predictions.
    ``pictures/captions.json`` may give texts by file name.

Unknown keys are passed over, so that newer runs can be read; a file of the wrong form is left out with a note.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt

Number = float | None
"""None where nothing defines the figure."""


def _listed(value: Any) -> Any:
    """Figures as the log writes them: texts for NaN and infinities."""
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _defined(value: Any) -> Any:
    """COCO's -1 means that nothing defines the figure."""
    return None if value == -1 else value


CocoFigure = Annotated[Number, BeforeValidator(_defined)]
LoggedNumber = Annotated[Number, BeforeValidator(_listed)]


REPORT_PAGE = "report/index.html"
"""What is made of them."""


class Record(BaseModel):
    """A JSON object; unknown keys are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Row(Record):
    """One line of ``metrics.jsonl`` or ``timing.jsonl``."""

    step: int
    epoch: int = 0
    kind: str = "train"
    values: dict[str, LoggedNumber]


class Status(Record):
    """``status.json``."""

    state: str
    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    total_epochs: int | None = None
    unit: str = "samples"
    message: str = ""


class Session(Record):
    """One start of the run."""

    command: tuple[str, ...] = ()
    started: str = ""
    ended: str | None = None
    outcome: str | None = None
    from_step: int = 0
    versions: dict[str, str] = {}
    machine: dict[str, str | int | float] = {}
    devices: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    code_commit: str | None = None


class RunRecord(Record):
    """``run.json``."""

    recipe: str = ""
    configuration: str = ""
    smaller_is_better: tuple[str, ...] = ()
    sessions: tuple[Session, ...] = ()


class ClassRow(Record):
    """One row of the table of classes: of a detector's, or of those of whole images, as far as it goes."""

    name: str
    precision: Number = None
    f1: Number = None
    # Of a detector.
    ap: CocoFigure = None
    ap50: CocoFigure = None
    ar: CocoFigure = None
    recall: Number = None
    num_truths: int = 0
    num_detections: int = 0
    # Of a LiDAR detector, percent.
    ap_3d_easy: Number = Field(None, alias="3d_easy")
    ap_3d_moderate: Number = Field(None, alias="3d_moderate")
    ap_3d_hard: Number = Field(None, alias="3d_hard")
    bev_moderate: Number = None
    image_moderate: Number = None
    aos_moderate: Number = None
    # Of whole images.
    num_images: int | None = None
    accuracy: Number = None
    """Share of the class's images that are told right."""
    top5: Number = None


class Curves(Record):
    """Curves over the confidence threshold and over recall. S confidences, R recalls, K classes."""

    iou_threshold: float
    best_confidence: float = 0.0
    best_f1: float = 0.0
    confidences: list[float]
    precision: list[list[Number]]
    recall: list[list[Number]]
    f1: list[list[Number]]
    mean_precision: list[Number]
    mean_recall: list[Number]
    mean_f1: list[Number]
    recalls: list[float]
    precision_at_recall: list[list[Number]]


class Confusion(Record):
    """Rows are predicted classes, columns true ones; of detections the last of each is the background."""

    counts: list[list[NonNegativeInt]]
    score_threshold: float | None = None
    iou_threshold: float | None = None

    @property
    def has_background(self) -> bool:
        """Whether detections were counted, which have thresholds; a whole image is always of some class."""
        return self.score_threshold is not None and self.iou_threshold is not None


class Reliability(Record):
    """How often a classifier is right, by how sure it says to be. N bins of its confidence."""

    edges: list[float]
    """N + 1, from 0 to 1."""
    confidence: list[Number]
    """Means; None where a bin is empty."""
    accuracy: list[Number]
    counts: list[int]
    """Images."""


class KittiCurves(Record):
    """Precision by recall as KITTI has it. K classes, three difficulties, strict and loose overlaps."""

    difficulties: list[str]
    min_overlaps: list[list[list[float]]]
    """(K, 2, 3) in the picture, from above and in space."""
    curves: dict[str, list[list[list[list[Number]]]]]
    """Of each way, such as ``3d``, (K, 3, 2, 41): precision at the recalls 0, 1/40 ... 1."""
    notes: list[str] = []


class Evaluation(Record):
    """``evaluation.json``: what a metric's details say, with the moment."""

    step: int | None = None
    epoch: int | None = None
    split: str = "val"
    figures: dict[str, LoggedNumber] = {}
    class_names: list[str] = []
    classes: list[ClassRow] = []
    curves: Curves | None = None
    confusion: Confusion | None = None
    reliability: Reliability | None = None
    kitti: KittiCurves | None = None


class SplitFacts(Record):
    """Label statistics of one split; tables are rows of equal cells over the image, top left first."""

    source: str = ""
    unit: str = "image"
    """What a sample is called."""
    num_images: int = 0
    """Samples, whatever they are called."""
    num_boxes: int | None = None
    """None where whole images have classes."""
    num_empty_images: int = 0
    num_crowds: int = 0
    class_counts: list[int] = []
    """Boxes, or images, of each class."""
    boxes_per_image: list[int] = []
    centers: list[list[int]] = []
    sizes: list[list[int]] = []


class FaultFact(Record):
    """One fault of the data."""

    split: str = ""
    kind: str
    place: str
    message: str
    fatal: bool = False


class DataFacts(Record):
    """``data.json``."""

    class_names: list[str] = []
    splits: dict[str, SplitFacts] = {}
    faults: list[FaultFact] = []
    num_faults: int | None = None
    """All of them, where ``faults`` holds only the first."""

    @property
    def unit(self) -> str:
        """What a sample is called: ``image``."""
        return next((split.unit for split in self.splits.values()), "image")

    @property
    def has_boxes(self) -> bool:
        """Whether boxes have classes, rather than whole images."""
        return any(split.num_boxes is not None for split in self.splits.values())
