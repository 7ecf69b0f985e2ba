"""One self-contained page about a run: ``report/index.html``.

The page loads nothing and runs no script; its content security policy forbids both. Every text that comes
from data (file names, class names, configuration, faults) is escaped, and pictures are checked to be pictures.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from sightline import __version__
from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.report import plots
from sightline.report.history import RunFiles, Series, read_run, series
from sightline.report.layout import REPORT_PAGE, DataFacts, Evaluation, Reliability, Status
from sightline.report.pictures import PictureFile, data_address, png_address
from sightline.report.tables import ConfusedPair, class_table, confused_pairs, figure, split_columns, split_counts

MAX_FAULTS = 200
SIZES = ("AP_small", "AP_medium", "AP_large")
MAIN_FIGURES = (
    "AP",
    "AP50",
    "AP75",
    "AR_100",
    "top1",
    "top5",
    "balanced_accuracy",
    "3d_moderate_R40",
    "bev_moderate_R40",
)
"""Of whichever problem: the first three that a run has are its large numbers."""
OTHER_SCALES = {"nll": "Negative log-likelihood", "ece": "Expected calibration error"}
"""Figures of evaluations that get a plot each, as they are no shares of what is right."""
DASHED = ("balanced_accuracy",)
"""Drawn so, as it lies on ``top1`` where all classes have as many images."""
UNPLOTTED = ("/easy_R40", "/hard_R40")
"""Figures of a class that lie close to its moderate one."""
MAX_MATRICES = 30
"""The confusion of more classes of images is drawn once, as wide as the page: shares, and not counts too."""
MAX_MATRIX = 120
"""That of more classes still is told by its largest cells alone."""


@dataclass(frozen=True)
class Shown:
    """A plot or picture of the page."""

    title: str
    address: str
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """A large number at the top."""

    name: str
    value: str
    detail: str = ""


def build_report(run_dir: Path) -> Path:
    """Write ``report/index.html`` in a run's folder from whatever the folder holds.

    Returns:
        The page.

    Raises:
        RunError: If the folder holds no run, or the page cannot be written.
    """
    run = read_run(run_dir)
    path = run_dir / REPORT_PAGE
    page = render(run).encode("utf-8", "backslashreplace")  # JSON can hold halves of characters
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(page)
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"{printable(path)}: the page cannot be written ({error.strerror}). Free space, or give yourself the right "
            "to write there."
        ) from error
    return path


def end_told(run_dir: Path) -> datetime | None:
    """When the session ended, of which a run's page tells as the last one; None without a page or an end."""
    try:
        with (run_dir / REPORT_PAGE).open("rb") as page:
            head = page.read(1024)
    except OSError:
        return None
    found = re.search(rb'<meta name="run-ended" content="([^"]+)">', head)
    try:
        return None if found is None else datetime.fromisoformat(found[1].decode())
    except ValueError:
        return None


def render(run: RunFiles) -> str:
    """The page's text."""
    from jinja2 import Environment, StrictUndefined

    notes = list(run.notes)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    environment.filters["figure"] = figure
    environment.filters["moment"] = moment
    source = resources.files("sightline.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    galleries = _galleries(run.pictures, notes)
    evaluation = run.evaluation or (Evaluation() if run.last_figures else None)
    context: dict[str, Any] = {
        "run": run,
        "state": _state(run),
        "ended": run.record.sessions[-1].ended or "" if run.record.sessions else "",
        "subtitle": _subtitle(run),
        "tiles": _tiles(run),
        "histories": _drawn(history_plots(run), notes),
        "evaluation": evaluation,
        "classes": class_table(evaluation),
        "evaluation_moment": _moment_of(run.evaluation),
        "figures": _figure_rows(run),
        "best_row": run.best_row,
        "curves": _drawn(curve_plots(run.evaluation), notes),
        "confusions": _drawn(confusion_plots(run.evaluation), notes),
        "pairs": _pairs(run.evaluation, notes),
        "max_matrix": MAX_MATRIX,
        "galleries": galleries,
        "data": run.data if run.data and (run.data.splits or run.data.faults) else None,
        "split_columns": split_columns,
        "split_counts": split_counts,
        "label_plots": _drawn(label_plots(run.data), notes),
        "num_faults": _num_faults(run.data),
        "max_faults": MAX_FAULTS,
        "version": __version__,
        "style_hash": _style_hash(source),
    }
    context["sections"] = _sections(context)
    context["run"] = RunFiles(**{**vars(run), "notes": notes})
    return environment.from_string(source).render(context)


def defined(value: float | None) -> float | None:
    """None for -1, COCO's word for a figure that nothing defines."""
    return None if value == -1 else value


def moment(text: str) -> str:
    """A point in time to the minute; other texts stay as they are."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return text


Plot = tuple[str, Callable[[], bytes], str]
"""Title, drawing, caption."""


def history_plots(run: RunFiles) -> list[Plot]:
    """Losses, learning rates, figures of the evaluations, and whatever else was logged."""
    train, evals = series(run.rows, "train"), series(run.rows, "eval")
    groups: dict[str, Series] = {}
    for name, line in train.items():
        groups.setdefault(name.partition("/")[0], {})[name] = line
    for name, line in evals.items():
        if name.endswith(UNPLOTTED):
            continue
        if "/" in name or name == "loss" or name in train:
            groups.setdefault(name.partition("/")[0], {})[f"eval {name}"] = line

    parts = [name for name in train if name.startswith("loss/")]
    if len(parts) == 1 and "loss" in train:  # the same line twice
        for name in (parts[0], f"eval {parts[0]}"):
            groups["loss"].pop(name, None)

    plots_: list[Plot] = []
    main = {name: evals[name] for name in MAIN_FIGURES if name in evals}
    plain = {name: line for name, line in evals.items() if "/" not in name and name != "loss"}
    if plain:
        plots_.append(_lines("Figures of the evaluations", main or dict(list(plain.items())[: len(plots.COLOURS)])))
    titles = {"loss": "Losses", "top1": "Top-1 accuracy", "lr": "Learning rate", "grad_norm": "Gradient norm"}
    for name in sorted(groups, key=lambda name: list(titles).index(name) if name in titles else len(titles)):
        caption = TRAINING_FIGURE if name != "loss" and name in train and name in evals else ""
        plots_.append(_lines(titles.get(name, name), groups[name], log_y=name == "loss", caption=caption))
    plots_ += [_lines(title, {name: evals[name]}) for name, title in OTHER_SCALES.items() if name in evals]
    by_size = {name: line for name, line in evals.items() if name in SIZES and (line[1] >= 0).any()}
    if by_size:
        plots_.append(_lines("AP by size of the object", by_size))
    for name, line in series(run.timing, "train").items():
        plots_.append(_lines(name.replace("_", " "), {name: line}))
    return plots_


TRAINING_FIGURE = (
    "The training line is measured on batches as they are trained on (augmented, mixed), with weights on their way: it "
    "may well lie below the other."
)


def _lines(title: str, lines: Series, *, log_y: bool = False, caption: str = "") -> Plot:
    dashed = [name for name in lines if name.startswith("eval ") or name in DASHED]
    return title, lambda: plots.lines_plot(lines, log_y=log_y, dashed=dashed), caption


def curve_plots(evaluation: Evaluation | None) -> list[Plot]:
    """Of boxes: precision over recall, and F1, precision and recall over confidence. Of whole images: reliability."""
    if evaluation is None:
        return []
    reliable = [] if evaluation.reliability is None else [_reliability(evaluation.reliability)]
    return [*_box_curves(evaluation), *_kitti_curves(evaluation), *reliable]


def _kitti_curves(evaluation: Evaluation) -> list[Plot]:
    """Precision over recall of each way, for moderate objects and strict overlaps."""
    if evaluation.kitti is None:
        return []
    kitti, names = evaluation.kitti, evaluation.class_names
    middle = len(kitti.difficulties) // 2

    def draw(way: str) -> Callable[[], bytes]:
        return lambda: plots.recall_plot([table[middle][0] for table in kitti.curves[way]], names, WAYS[way][1])

    return [(WAYS[way][0], draw(way), "Moderate objects.") for way in WAYS if way in kitti.curves]


WAYS = {
    "3d": ("Precision over recall, in space", "precision"),
    "bev": ("Precision over recall, from above", "precision"),
    "image": ("Precision over recall, in the picture", "precision"),
    "aos": ("Orientation over recall", "similarity of orientation"),
}
"""Titles of KITTI's curves, and what they show."""


def _reliability(reliability: Reliability) -> Plot:
    caption = (
        "A dot stands at the mean confidence of a bin of images. Below the dotted line the model is right less often "
        "than it says, above it more often."
    )
    return "Reliability", lambda: plots.reliability_plot(reliability), caption


def _box_curves(evaluation: Evaluation) -> list[Plot]:
    if evaluation.curves is None:
        return []
    curves, names = evaluation.curves, evaluation.class_names
    at = f"IoU {curves.iou_threshold:g}"
    best = f"Best mean F1 {figure(curves.best_f1)} at confidence {figure(curves.best_confidence)}."

    def over_confidence(values: str) -> Callable[[], bytes]:
        return lambda: plots.confidence_plot(curves, values, names)

    return [
        (f"Precision over recall, {at}", lambda: plots.precision_recall_plot(curves, names), ""),
        (f"F1 over confidence, {at}", over_confidence("f1"), best),
        (f"Precision over confidence, {at}", over_confidence("precision"), ""),
        (f"Recall over confidence, {at}", over_confidence("recall"), ""),
    ]


def confusion_plots(evaluation: Evaluation | None) -> list[Plot]:
    """The matrix as shares of each true class and as counts."""
    if evaluation is None or evaluation.confusion is None:
        return []
    confusion, names = evaluation.confusion, evaluation.class_names
    if confusion.has_background:
        how = f"Detections above {confusion.score_threshold:g}, pairs above IoU {confusion.iou_threshold:g}."
        of_shares = f"Columns add up to 1. Last row: missed; last column: share of the false detections. {how}"
        of_counts = f"Last row: missed truths; last column: false detections. {how}"
    elif len(confusion.counts) > MAX_MATRIX:
        return []
    else:
        of_shares = "Columns add up to 1; the diagonal is the accuracy of each class."
        of_counts = "Images of each true class by what they are told to be; right answers are on the diagonal."
    wanted = [("Confusion, share of each true class", True, of_shares), ("Confusion, counts", False, of_counts)]
    if not confusion.has_background and len(confusion.counts) > MAX_MATRICES:
        wanted = wanted[:1]

    def draw(shares: bool) -> Callable[[], bytes]:
        return lambda: plots.confusion_plot(confusion, names, shares=shares)

    return [(title, draw(shares), caption) for title, shares, caption in wanted]


def _pairs(evaluation: Evaluation | None, notes: list[str]) -> list[ConfusedPair]:
    """The most confused classes of whole images."""
    if evaluation is None or evaluation.confusion is None or evaluation.confusion.has_background:
        return []
    try:
        return confused_pairs(evaluation.confusion, evaluation.class_names)
    except (ValueError, OverflowError) as error:
        notes.append(f"Most confused classes: left out, {printable(error, limit=120)}.")
        return []


def label_plots(data: DataFacts | None) -> list[Plot]:
    """Boxes by class, by position, by size, and per image; positions and sizes of the first split.

    Where whole images have classes, images by class.
    """
    if data is None or not data.splits:
        return []
    name, split = next(iter(data.splits.items()))
    drawn: list[Plot] = []
    num_counts = max(len(other.class_counts) for other in data.splits.values())
    if num_counts and data.has_boxes:
        drawn.append(("Boxes per class", lambda: plots.class_histogram(data), ""))
    elif num_counts:
        draw = plots.class_histogram if num_counts <= plots.MAX_BARS else plots.class_counts_plot
        drawn.append(("Images per class", lambda: draw(data), _extremes(data)))
    if split.boxes_per_image:
        counts = split.boxes_per_image
        drawn.append(
            (
                f"Boxes per {split.unit}, {name}",
                lambda: plots.bars_plot(counts, x_label="boxes", y_label=f"{split.unit}s"),
                f"The last bar holds {len(counts) - 1} and more." if counts[-1] else "",
            )
        )
    if split.centers:
        drawn.append(
            (
                f"Where boxes are, {name}",
                lambda: plots.table_plot(split.centers, x_label="x / width", y_label="y / height", from_top=True),
                "Centres of the boxes; the colour is the logarithm of the count.",
            )
        )
    if split.sizes:
        drawn.append(
            (
                f"How large boxes are, {name}",
                lambda: plots.table_plot(split.sizes, x_label="width", y_label="height", from_top=False),
                "Relative to the image; the colour is the logarithm of the count.",
            )
        )
    return drawn


def _extremes(data: DataFacts) -> str:
    """The smallest and the largest class of the first split that counts them."""
    name, split = next((name, split) for name, split in data.splits.items() if split.class_counts)
    (fewest, smallest), (most, largest) = (
        (count, data.class_names[index] if index < len(data.class_names) else str(index))
        for count, index in (
            choose((count, index) for index, count in enumerate(split.class_counts)) for choose in (min, max)
        )
    )
    if fewest == most:
        return f"In {name}, {fewest:,} images of each class."
    return f"In {name}, from {fewest:,} of {smallest} to {most:,} of {largest}."


def _drawn(wanted: Sequence[Plot], notes: list[str]) -> list[Shown]:
    """The plots as pictures. Files that a person edited may fit their form and still not be drawable."""
    shown = []
    for title, draw, caption in wanted:
        try:
            shown.append(Shown(title, png_address(draw()), caption))
        except (ValueError, IndexError, OverflowError) as error:
            notes.append(f"{title}: not drawn, {printable(error, limit=120)}.")
    return shown


def _galleries(pictures: Sequence[PictureFile], notes: list[str]) -> list[tuple[str, str, list[Shown]]]:
    groups: dict[bool, list[Shown]] = {False: [], True: []}
    for picture in pictures:
        try:
            shown = Shown(picture.path.name, data_address(picture), printable(picture.caption))
        except ValueError as error:
            notes.append(f"pictures/{printable(picture.path.name)}: left out, {printable(error, limit=120)}.")
            continue
        groups[picture.is_training].append(shown)
    titles = {False: ("predictions", "Predictions"), True: ("batches", "Training batches")}
    return [(*titles[is_training], shown) for is_training, shown in groups.items() if shown]


def _sections(context: dict[str, Any]) -> list[tuple[str, str]]:
    evaluation = context["evaluation"]
    return [
        ("summary", "Summary"),
        *([("history", "Training")] if context["histories"] else []),
        *([("evaluation", "Evaluation")] if evaluation else []),
        *([("classes", "Classes")] if context["classes"] else []),
        *([("confusion", "Confusion")] if context["confusions"] or context["pairs"] else []),
        *((identity, title) for identity, title, _ in context["galleries"]),
        *([("data", "Data"), ("faults", "Faults")] if context["data"] else []),
        ("setup", "Configuration and machine"),
    ]


def _state(run: RunFiles) -> str:
    outcome = run.record.sessions[-1].outcome if run.record.sessions else None
    return outcome or (run.status.state if run.status else "")


def _subtitle(run: RunFiles) -> str:
    title = run.record.recipe or run.record.configuration.rpartition(".")[2]
    parts = [title] if title else []
    if run.record.sessions:
        parts.append(f"started {moment(run.record.sessions[0].started)}")
        parts.append(", ".join(run.record.sessions[-1].devices))
    if run.status and run.status.message:
        parts.append(run.status.message)
    return " · ".join(part for part in parts if part)


def _tiles(run: RunFiles) -> list[Tile]:
    last, best = run.last_figures, run.best_row
    tiles = []
    for name in [name for name in MAIN_FIGURES if name in last][:3] or list(last)[:3]:
        detail = f"{figure(best.values.get(name))} in the best epoch, {best.epoch + 1}" if best else ""
        tiles.append(Tile(name.replace("_", " "), figure(defined(last[name])), detail))
    losses = [row.values["loss"] for row in run.rows if row.kind == "train" and row.values.get("loss") is not None]
    if losses:
        tiles.append(Tile("training loss", figure(losses[-1]), f"began at {figure(losses[0])}"))
    tiles += _progress_tiles(run.status)
    seconds = [_seconds(session.started, session.ended) for session in run.record.sessions]
    known = [value for value in seconds if value is not None]
    if known:
        tiles.append(Tile("time", _duration(sum(known)), f"{len(seconds)} sessions" if len(seconds) > 1 else ""))
    speed = series(run.timing, "train").get("samples_per_second")
    if speed is not None:
        unit = run.status.unit if run.status else "samples"
        tiles.append(Tile(f"{unit}/s", f"{sorted(speed[1])[len(speed[1]) // 2]:,.1f}", "median in training"))
    return tiles


def _progress_tiles(status: Status | None) -> list[Tile]:
    if status is None:
        return []
    of_steps = f"of {status.total_steps:,} steps" if status.total_steps else ""
    of_epochs = f"of {status.total_epochs:,} epochs" if status.total_epochs else ""
    return [Tile("steps", f"{status.step:,}", of_steps), Tile("epochs", f"{status.epoch:,}", of_epochs)]


def _seconds(started: str, ended: str | None) -> float | None:
    try:
        return (datetime.fromisoformat(ended or "") - datetime.fromisoformat(started)).total_seconds()
    except (ValueError, TypeError):
        return None


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60}h {minutes % 60:02d}m"
    return f"{minutes}m {int(seconds % 60):02d}s"


def _figure_rows(run: RunFiles) -> list[dict[str, Any]]:
    """Name, value of the last evaluation and value of the best one of every figure that is of all classes."""
    best = run.best_row.values if run.best_row else {}
    figures: dict[str, float | None] = dict(run.last_figures)
    if not figures and run.evaluation:
        figures = dict(run.evaluation.figures)
    rows = {name: value for name, value in figures.items() if not _is_of_a_class(name, run.evaluation)}
    return [{"name": name, "last": defined(value), "best": defined(best.get(name))} for name, value in rows.items()]


def _is_of_a_class(name: str, evaluation: Evaluation | None) -> bool:
    """Whether a figure is one of a class by itself, ``Car/3d/easy_R40``: the table of classes tells those."""
    return evaluation is not None and name.count("/") > 1 and name.partition("/")[0] in evaluation.class_names


def _moment_of(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    parts = [evaluation.split]
    if evaluation.epoch is not None:
        parts.append(f"epoch {evaluation.epoch + 1}")
    if evaluation.step is not None:
        parts.append(f"step {evaluation.step:,}")
    return ", ".join(parts)


def _num_faults(data: DataFacts | None) -> int:
    if data is None:
        return 0
    return len(data.faults) if data.num_faults is None else data.num_faults


def _style_hash(source: str) -> str:
    """What the page's policy allows as style: exactly the text of its style element."""
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style is not None
    return "sha256-" + base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode("ascii")
