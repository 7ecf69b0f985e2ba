"""Plots of a run as PNG bytes: histories, curves, confusion matrix, reliability, label statistics.

The background is transparent and texts are grey, so that one picture reads well on a light and on a dark page.
Texts of the data (class names) are never taken for formulas. matplotlib is loaded by the first plot.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.config.printable import printable
from sightline.report.layout import Confusion, Curves, DataFacts, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

GREY = "#7d8590"
FAINT = "#7d859040"
COLOURS = (
    *("#3b82f6", "#f97316", "#10b981", "#e11d48", "#8b5cf6", "#eab308"),
    *("#06b6d4", "#ec4899", "#84cc16", "#a16207", "#64748b", "#6366f1"),
)
MAX_LEGEND = 12
"""More lines than this are not named."""
MAX_POINTS = 4000
"""A longer line is drawn from the means of equal parts."""
MAX_BARS = 60
MAX_CELLS_WITH_TEXT = 16
"""A confusion matrix of more classes shows colours only."""

Lines = Mapping[str, tuple[Array, Array]]
"""Name to x and y; NaN leaves a gap."""


def lines_plot(
    lines: Lines,
    *,
    x_label: str = "step",
    y_label: str = "",
    log_y: bool = False,
    dashed: Sequence[str] = (),
    size: tuple[float, float] = (4.8, 2.9),
) -> bytes:
    """Lines over a common axis.

    Args:
        lines: Drawn in this order.
        x_label: Below the axis.
        y_label: Beside the axis.
        log_y: Logarithmic height; used only where all values are positive.
        dashed: Names of lines to draw dashed.
        size: Inches.
    """
    figure, axes = _new_plot(size)
    _draw_lines(axes, lines, dashed=dashed, log_y=log_y)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return _png(figure)


def stacked_plot(panels: Sequence[tuple[str, Lines]], *, x_label: str = "step") -> bytes:
    """Panels with a title each, one above the other, over a common axis; a white picture that stands alone."""
    rows = max(1, len(panels))
    figure, _ = _new_plot((8.0, 3.2 * rows), heights=(1,) * rows)
    for axes, (title, lines) in zip(figure.axes, panels, strict=False):
        _draw_lines(axes, lines)
        axes.set_title(_label(title), color=GREY, fontsize=10, loc="left", parse_math=False)
    figure.axes[-1].set_xlabel(x_label)
    figure.patch.set(alpha=1, facecolor="white")
    return _png(figure)


def schedule_plot(iterations: Array, rates: Mapping[str, Array], momentum: Mapping[str, Array]) -> bytes:
    """Learning rates above, momentum below, over the iterations of a run.

    Args:
        iterations: (P,).
        rates: (P,) by name.
        momentum: (P,) by name; without any, the lower panel is left out.
    """
    panels = [("learning rate", rates), ("momentum", momentum)]
    return stacked_plot(
        [(title, {name: (iterations, y) for name, y in lines.items()}) for title, lines in panels if lines],
        x_label="iteration",
    )


def _draw_lines(axes: Axes, lines: Lines, *, dashed: Sequence[str] = (), log_y: bool = False) -> None:
    for index, (name, points) in enumerate(lines.items()):
        x, y = thinned(*(np.asarray(column, dtype=float) for column in points))
        mark = "o" if np.isfinite(y).sum() <= 40 else ""
        style = "--" if name in dashed else "-"
        axes.plot(x, y, style, marker=mark, markersize=3, color=_colour(index), linewidth=1.6, label=_label(name))
    heights = np.concatenate([np.zeros(0), *(np.asarray(y, dtype=float) for _, y in lines.values())])
    heights = heights[np.isfinite(heights)]
    if log_y and len(heights) and (heights > 0).all():
        axes.set_yscale("log")
    _legend(axes, len(lines))


def thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """At most ``MAX_POINTS`` points: means of equal parts, so that a long line costs no more than a short one."""
    if len(x) <= MAX_POINTS:
        return x, y
    edges = np.linspace(0, len(x), MAX_POINTS + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(x)))
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts


def confidence_plot(curves: Curves, values: str, class_names: Sequence[str]) -> bytes:
    """``precision``, ``recall`` or ``f1`` over the confidence threshold: every class and the mean."""
    per_class, mean = getattr(curves, values), getattr(curves, f"mean_{values}")
    figure, axes = _new_plot((4.8, 3.4))
    _class_lines(axes, curves.confidences, per_class, class_names)
    axes.plot(curves.confidences, _floats(mean), color=GREY, linewidth=3, label="mean")
    axes.axvline(curves.best_confidence, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="confidence threshold", ylabel=values.replace("f1", "F1"), xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes, len(per_class) + 1)
    return _png(figure)


def precision_recall_plot(curves: Curves, class_names: Sequence[str]) -> bytes:
    """Precision over recall: every class and the mean."""
    figure, axes = _new_plot((4.8, 3.4))
    _class_lines(axes, curves.recalls, curves.precision_at_recall, class_names)
    table = _floats(curves.precision_at_recall).reshape(-1, len(curves.recalls))
    defined = table[np.isfinite(table).all(axis=1)]
    if len(defined):
        axes.plot(curves.recalls, defined.mean(axis=0), color=GREY, linewidth=3, label="mean")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes, len(table) + 1)
    return _png(figure)


def recall_plot(curves: Sequence[Sequence[float | None]], class_names: Sequence[str], y_label: str) -> bytes:
    """A line of each class at recalls that are evenly spaced from 0 to 1; (K, R) values."""
    figure, axes = _new_plot((4.8, 3.4))
    _class_lines(axes, np.linspace(0, 1, len(curves[0]) if curves else 0).tolist(), curves, class_names)
    axes.set(xlabel="recall", ylabel=y_label, xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes, len(curves))
    return _png(figure)


def confusion_plot(confusion: Confusion, class_names: Sequence[str], *, shares: bool) -> bytes:
    """Rows are predicted classes, columns true ones.

    Args:
        confusion: Counts.
        class_names: Without the background, which is added where the matrix has one.
        shares: Divide each column by its sum.

    Raises:
        ValueError: If the matrix is not square.
    """
    counts = confusion_counts(confusion)
    sums = counts.sum(axis=0, keepdims=True)
    values = np.divide(counts, sums, out=np.zeros_like(counts), where=sums > 0) if shares else counts
    size = float(np.clip(0.55 * len(counts), 4.0, 11.0))
    figure, axes = _new_plot((size + 1.2, size))
    shown = np.ma.masked_equal(values, 0)
    top = max(float(values.max()) if values.size else 0, 1e-9)
    image = axes.imshow(shown, cmap="Blues", vmin=-0.15 * top, vmax=top, aspect="auto")
    names = [*class_names, "background"] if confusion.has_background else list(class_names)
    if len(names) == len(counts):
        axes.set_xticks(range(len(names)), [_label(name) for name in names], rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), [_label(name) for name in names], parse_math=False)
    axes.set(xlabel="true class", ylabel="predicted class")
    axes.grid(visible=False)
    axes.tick_params(labelsize=8 if len(names) <= 30 else 5, length=0)
    if len(counts) <= MAX_CELLS_WITH_TEXT:
        for (row, column), value in np.ndenumerate(values):
            if value:
                text = f"{value:.2f}" if shares else f"{value:.0f}"
                colour = "white" if value > 0.55 * top else "#1e293b"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    else:
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=GREY, labelsize=8)
    return _png(figure)


def confusion_counts(confusion: Confusion) -> Array:
    """(K, K) counts, rows predicted.

    Raises:
        ValueError: If the matrix is not square.
    """
    counts = np.array(confusion.counts, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError("the matrix is not square")
    return counts


def reliability_plot(reliability: Reliability) -> bytes:
    """Share of right answers over their confidence, and below how many images have it.

    A dot stands at the mean confidence of its bin; on the diagonal the model is right as often as it says.

    Raises:
        ValueError: If the lists do not fit each other.
    """
    edges, counts = _floats(reliability.edges), _floats(reliability.counts)
    confidence, accuracy = _floats(reliability.confidence), _floats(reliability.accuracy)
    if not len(edges) - 1 == len(counts) == len(confidence) == len(accuracy):
        raise ValueError(
            f"{len(edges)} edges, {len(confidence)} confidences, {len(accuracy)} accuracies, {len(counts)} counts"
        )
    accuracy[~np.isfinite(accuracy)] = np.nan
    figure, axes = _new_plot((4.8, 4.4), heights=(3, 1))
    below = figure.axes[1]
    widths = np.diff(edges)
    axes.plot((0, 1), (0, 1), ":", color=GREY, linewidth=1.4)
    axes.bar(edges[:-1], accuracy, 0.94 * widths, align="edge", color=_colour(0), alpha=0.45)
    axes.plot(confidence, accuracy, "o-", color=_colour(1), markersize=4, linewidth=1.4)
    axes.set(ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1.02))
    below.bar(edges[:-1], counts, 0.94 * widths, align="edge", color=_colour(0))
    below.set(xlabel="confidence", ylabel="images")
    return _png(figure)


def class_histogram(data: DataFacts) -> bytes:
    """Boxes, or images, per class in each split, the most frequent classes first."""
    counts = {name: np.array(split.class_counts) for name, split in data.splits.items() if split.class_counts}
    length = max((len(values) for values in counts.values()), default=0)
    table = {name: np.pad(values, (0, length - len(values))) for name, values in counts.items()}
    total = np.sum(list(table.values()), axis=0) if table else np.zeros(0)
    order = np.argsort(-total, kind="stable")[:MAX_BARS]
    narrowest = 5 if data.has_boxes else 8  # where it stands alone
    figure, axes = _new_plot((float(np.clip(2 + 0.3 * len(order), narrowest, 12)), 3.4))
    width = 0.8 / max(1, len(table))
    for index, (name, values) in enumerate(table.items()):
        axes.bar(np.arange(len(order)) + index * width, values[order], width, color=_colour(index), label=_label(name))
    known = [data.class_names[i] if i < len(data.class_names) else str(i) for i in order]
    axes.set_xticks(
        np.arange(len(order)) + 0.4 - width / 2, [_label(name) for name in known], rotation=90, parse_math=False
    )
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("boxes" if data.has_boxes else f"{data.unit}s")
    axes.grid(visible=False, axis="x")
    _legend(axes, len(table))
    return _png(figure)


def class_counts_plot(data: DataFacts) -> bytes:
    """Sizes of the classes, for more of them than can be named: of each split by itself, the largest first."""
    table = {name: np.sort(split.class_counts)[::-1] for name, split in data.splits.items() if split.class_counts}
    figure, axes = _new_plot((8.0, 3.4))
    for index, (name, values) in enumerate(table.items()):
        axes.stairs(values, color=_colour(index), fill=True, alpha=0.8, label=_label(name))
    axes.set(xlabel="classes, the most frequent of each split first", ylabel="images")
    axes.margins(x=0)
    axes.grid(visible=False, axis="x")
    _legend(axes, len(table))
    return _png(figure)


def table_plot(table: Sequence[Sequence[int]], *, x_label: str, y_label: str, from_top: bool) -> bytes:
    """A table of counts over relative positions or sizes as a picture; the scale is logarithmic."""
    values = np.array(table, dtype=float)
    figure, axes = _new_plot((5.0, 3.8))
    shown = np.ma.masked_equal(np.log10(1 + values), 0)
    axes.imshow(
        shown,
        extent=(0, 1, 1, 0) if from_top else (0, 1, 0, 1),
        origin="upper" if from_top else "lower",
        cmap="viridis",
    )
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(visible=False)
    return _png(figure)


def bars_plot(values: Sequence[int], *, x_label: str, y_label: str) -> bytes:
    """Counts of 0, 1, 2 ...; bars after the last that is not 0 are left out."""
    last = int(np.max(np.flatnonzero(values), initial=0))
    figure, axes = _new_plot((5.0, 3.4))
    axes.bar(np.arange(last + 1), list(values)[: last + 1], color=_colour(0), width=0.85)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(visible=False, axis="x")
    return _png(figure)


def _class_lines(
    axes: Axes, x: Sequence[float], rows: Sequence[Sequence[float | None]], class_names: Sequence[str]
) -> None:
    for index, row in enumerate(rows):
        name = class_names[index] if index < len(class_names) else str(index)
        many = len(rows) > MAX_LEGEND
        axes.plot(
            x, _floats(row), color=_colour(index), linewidth=0.7 if many else 1.4, alpha=0.5 if many else 0.9,
            label=_label(name),
        )  # fmt: skip


def _floats(values: Any) -> Array:
    """Numbers; None becomes NaN."""
    return np.array(values, dtype=float)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _label(name: str) -> str:
    """A name as matplotlib may have it: short, and not beginning with a line, which would hide it."""
    text = printable(name, limit=32)
    return f" {text}" if text.startswith("_") else text


def _new_plot(size: tuple[float, float], *, heights: Sequence[float] = (1,)) -> tuple[Figure, Axes]:
    """A figure with panels of these relative heights one above the other, and the first of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    for axes in figure.subplots(len(heights), squeeze=False, sharex=True, height_ratios=heights).flat:
        axes.patch.set_alpha(0)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=GREY, labelsize=9, which="both")
        axes.xaxis.label.set_color(GREY)
        axes.yaxis.label.set_color(GREY)
        for side, spine in axes.spines.items():
            spine.set_color(FAINT)
            spine.set_visible(side in ("left", "bottom"))
    return figure, figure.axes[0]


def _legend(axes: Axes, count: int) -> None:
    if not 2 <= count <= MAX_LEGEND + 1:
        return
    legend = axes.legend(fontsize=8, frameon=False, labelcolor=GREY, ncols=2 if count > 6 else 1)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names in scripts that the font lacks
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
