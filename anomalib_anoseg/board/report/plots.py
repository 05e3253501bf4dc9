"""Plots of a report as SVG, in colours that a page can invert for a dark screen."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from anomalib_anoseg.board.report.cost_tables import form_name
from anomalib_anoseg.board.report.records import FinishedJob
from anomalib_anoseg.board.report.tables import metric_name
from anomalib_anoseg.common.thumbnails import THRESHOLD

HEADLINES = ("image_AUROC", "pixel_AP", "pixel_IoU")  # what plots show where there is no room for all
GRID = np.linspace(0, 1, 201)
LONGEST, LINE = 48, 110  # characters of a name, and of a line of a legend
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
FAINT = "#6b7280"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B87D00", "#3A9BD0")  # Okabe and Ito's, colour-blind safe
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.axisbelow": True,
    "axes.edgecolor": "#e3e5e8",
    "axes.grid": True,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e3e5e8",
    "text.color": "#1f2328",
    "text.parse_math": False,  # names are the user's
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "svg.hashsalt": "anomalib-anoseg",  # equal input gives an equal file
}


class Plot(NamedTuple):
    """A plot as SVG text, with its caption and what it shows in words."""

    caption: str
    alt: str
    svg: str


@mpl.rc_context(STYLE)
def intervals(overall: pd.DataFrame, labels: Sequence[str]) -> Plot | None:
    """Draw mean, interval and complete seeds of the headline metrics, one line per model."""
    metrics = [metric for metric in HEADLINES if metric in set(overall["metric"])]
    if not metrics or not labels:
        return None
    figure, axes = _panels(len(metrics), height=0.9 + 0.42 * len(labels), share_y=True)
    for axis, metric in zip(axes, metrics, strict=True):
        own = overall[overall["metric"] == metric].set_index("label")
        for number, label in [(number, label) for number, label in enumerate(labels) if label in own.index]:
            row, style = own.loc[label], _style(number)
            axis.plot(row["values"], [number + 0.28] * len(row["values"]), "o", c=style["color"], ms=3.5, mfc="none")
            axis.errorbar(row["mean"], number, xerr=row["half"], capsize=3, **style)
        bar = own["bar"][own["categories"] == own["of"]].max()
        if not np.isnan(bar):
            axis.axvline(bar, color=FAINT, linestyle=":", linewidth=1.2)
        axis.set_title(f"{metric_name(metric)} →", loc="left")
        axis.tick_params("y", length=0)
    axes[0].set_yticks(range(len(labels)), map(_short, labels))
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    shown = overall[overall["metric"].isin(metrics) & overall["label"].isin(labels)]
    alt = "; ".join(f"{row.label} {metric_name(row.metric)} {row.mean:.3f}" for row in shown.itertuples())
    caption = (
        "Means over all categories with 95 % intervals over seeds. Open circles are single seeds; the dotted line is "
        "the best trivial row of each category, averaged."
    )
    return Plot(caption, alt, _svg(figure))


@mpl.rc_context(STYLE)
def iou_curves(jobs: Sequence[FinishedJob], labels: Sequence[str], categories: Sequence[str]) -> Plot | None:
    """Draw IoU against threshold, one panel per category, one line per model; lines are means over seeds."""
    curves = _curves(jobs)
    shown = [category for category in categories if any(key[1] == category for key in curves)]
    if not shown:
        return None
    trivial = {job.family for job in jobs if job.is_trivial}
    lines = [label for label in labels if any(key[0] == label for key in curves)]
    styles = {label: _line(number, label in trivial) for number, label in enumerate(lines)}
    figure, axes = _panels(len(shown), height=2.7, share_y=True)
    for axis, category in zip(axes, shown, strict=True):
        for label in [label for label in lines if (label, category) in curves]:
            values, style = curves[label, category], styles[label]
            axis.plot(GRID, values.mean(0), **style)
            if len(values) > 1 and label not in trivial:
                axis.fill_between(GRID, values.min(0), values.max(0), color=style["color"], alpha=0.14, linewidth=0)
        axis.axvline(THRESHOLD, color=FAINT, linestyle=":", linewidth=1.2)
        axis.set(title=category, xlim=(0, 1), ylim=(0, None), xlabel="threshold")
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes[0].set_ylabel("IoU ↑")
    _legend(figure, {label: Line2D([], [], **style) for label, style in styles.items()})
    alt = "; ".join(
        f"{label} on {category}: IoU {mean[len(GRID) // 2]:.3f} at threshold 0.5, at most {mean.max():.3f}"
        for (label, category), mean in ((key, values.mean(0)) for key, values in curves.items())
    )
    caption = (
        "Intersection over union of the anomalous pixels against the threshold on the normalised anomaly map, mean "
        "over seeds; bands reach from the lowest to the highest seed. The dotted line is the calibrated threshold, 0.5."
    )
    return Plot(caption, alt, _svg(figure))


def _curves(jobs: Sequence[FinishedJob]) -> dict[tuple[str, str], Any]:
    """Read the curves of each row and category, ``(seeds, 201)``; trivial models that share a row show their best."""
    read: dict[tuple[str, str, str], list[Any]] = {}
    for job in jobs:
        if (job.folder / "curve.csv").is_file():
            curve = pd.read_csv(job.folder / "curve.csv").dropna().sort_values("threshold")
            values = np.interp(GRID, curve["threshold"], curve["iou"]) if len(curve) else np.full_like(GRID, np.nan)
            read.setdefault((job.family, job.category, job.label), []).append(values)
    best: dict[tuple[str, str], Any] = {}
    for (family, category, _), values in read.items():
        curves = np.array(values)
        if (family, category) not in best or curves.mean(0).max() > best[family, category].mean(0).max():
            best[family, category] = curves
    return best


@mpl.rc_context(STYLE)
def against_cost(forms: pd.DataFrame, column: str, name: str, labels: Sequence[str]) -> Plot | None:
    """Draw the accuracy of each exported form against a column of its cost, on a logarithmic axis."""
    metrics = [metric for metric in HEADLINES if metric in forms and forms[metric].notna().any()]
    points = forms[forms[column] > 0] if column in forms else forms[:0]
    present = [label for label in labels if label in set(points["label"])]
    if not metrics or not present:
        return None
    kinds = list(dict.fromkeys(points["form"]))
    colors = {label: COLORS[labels.index(label) % 6] for label in present}
    markers = {form: MARKERS[number % 8] for number, form in enumerate(kinds)}
    figure, axes = _panels(len(metrics), height=2.9)
    for axis, metric in zip(axes, metrics, strict=True):
        for label, color in colors.items():
            own = points[points["label"] == label].dropna(subset=[metric]).sort_values(column)
            axis.plot(own[column], own[metric], color=color, linewidth=1, alpha=0.45)
            for form, x, y in zip(own["form"], own[column], own[metric], strict=True):
                axis.plot(x, y, markers[form], color=color, markersize=7, alpha=0.85, markeredgewidth=0)
        _log_axis(axis, metric, name)
    handles = {label: Line2D([], [], color=color, linewidth=5) for label, color in colors.items()}
    shapes = {form: Line2D([], [], color=FAINT, marker=marker, linestyle="") for form, marker in markers.items()}
    _legend(figure, handles | {form_name(form): handle for form, handle in shapes.items()})
    alt = "; ".join(
        f"{p['label']} {form_name(p['form'])}: {p[column]:.3g}, "
        + ", ".join(f"{metric_name(m)} {p[m]:.3f}" for m in metrics)
        for p in points.to_dict("records")
    )
    caption = f"Accuracy of each exported form against its {name}; lines join the forms of a model."
    return Plot(caption, alt, _svg(figure))


@mpl.rc_context(STYLE)
def against_parameters(overall: pd.DataFrame, parameters: pd.Series, labels: Sequence[str]) -> Plot | None:
    """Draw mean accuracy with its interval against the number of parameters, on a logarithmic axis."""
    counts = parameters[parameters > 0].dropna() / 1e6
    metrics = [metric for metric in HEADLINES if metric in set(overall["metric"])]
    styles = {label: _style(number) for number, label in enumerate(labels) if label in counts.index}
    if not styles or not metrics:
        return None
    figure, axes = _panels(len(metrics), height=2.9)
    for axis, metric in zip(axes, metrics, strict=True):
        own = overall[overall["metric"] == metric].set_index("label")
        for label in [label for label in styles if label in own.index]:
            row = own.loc[label]
            axis.errorbar(counts[label], row["mean"], yerr=row["half"], capsize=3, **styles[label])
        _log_axis(axis, metric, "parameters (M)")
    _legend(figure, {label: Line2D([], [], linestyle="", **style) for label, style in styles.items()})
    alt = "; ".join(f"{label}: {counts[label]:.2f} million parameters" for label in styles)
    caption = "Mean accuracy over categories with 95 % intervals against the number of parameters."
    return Plot(caption, alt, _svg(figure))


def _style(number: int) -> dict[str, Any]:
    return {"color": COLORS[number % 6], "marker": MARKERS[number % 8], "markersize": 6.5, "linewidth": 1.6}


def _line(number: int, trivial: bool) -> dict[str, Any]:
    if trivial:
        return {"color": FAINT, "linestyle": DASHES[1 + number % 3], "linewidth": 1}
    return {"color": COLORS[number % 6], "linestyle": DASHES[number // 6 % 4], "linewidth": 1.8}


def _log_axis(axis: Axes, metric: str, name: str) -> None:
    axis.set_xscale("log")
    axis.margins(x=0.12, y=0.15)
    low, high = axis.get_xlim()
    middle = (low * high) ** 0.5
    axis.set_xlim(min(low, middle / 1.8), max(high, middle * 1.8))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(f"← {name}")
    axis.set_title(f"{metric_name(metric)} ↑", loc="left")


def _panels(count: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    width = {1: 5.2, 2: 7.6, 3: 9.6}[columns]
    figure = Figure(figsize=(width, height * rows + 0.25), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=share_y, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, list(axes[:count])


def _legend(figure: Figure, handles: dict[str, Any]) -> None:
    names = list(map(_short, handles))
    columns = max(1, min(len(names), 4, LINE // (max(map(len, names)) + 6)))
    figure.legend(list(handles.values()), names, loc="outside lower center", ncols=columns, frameon=False)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
