"""Plots of a report as SVG, in colours that a page can invert for a dark screen."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from anomalib_anoseg.board.report.cost_tables import form_name
from anomalib_anoseg.board.report.records import FinishedJob
from anomalib_anoseg.board.report.tables import metric_name
from anomalib_anoseg.common.figures import (
    COLORS,
    FAINT,
    MARKERS,
    STYLE,
    add_legend,
    line_style,
    log_axis,
    panels,
    point_style,
    shorten,
)
from anomalib_anoseg.common.schema import read_table
from anomalib_anoseg.common.thumbnails import THRESHOLD

HEADLINES = ("image_AUROC", "pixel_AP", "pixel_IoU")  # what plots show where there is no room for all
GRID = np.linspace(0, 1, 201)


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
    figure, axes = panels(len(metrics), height=0.9 + 0.42 * len(labels), share_y=True)
    for axis, metric in zip(axes, metrics, strict=True):
        own = overall[overall["metric"] == metric].set_index("label")
        for number, label in [(number, label) for number, label in enumerate(labels) if label in own.index]:
            row, style = own.loc[label], point_style(number)
            axis.plot(row["values"], [number + 0.28] * len(row["values"]), "o", c=style["color"], ms=3.5, mfc="none")
            axis.errorbar(row["mean"], number, xerr=row["half"], capsize=3, **style)
        bar = own["bar"][own["categories"] == own["of"]].max()
        if not np.isnan(bar):
            axis.axvline(bar, color=FAINT, linestyle=":", linewidth=1.2)
        axis.set_title(f"{metric_name(metric)} →", loc="left")
        axis.tick_params("y", length=0)
    axes[0].set_yticks(range(len(labels)), map(shorten, labels))
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
    styles = {label: line_style(number, label in trivial) for number, label in enumerate(lines)}
    figure, axes = panels(len(shown), height=2.7, share_y=True)
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
    add_legend(figure, {label: Line2D([], [], **style) for label, style in styles.items()})
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
            columns = ("threshold", "iou")
            curve = read_table(job.folder / "curve.csv", columns, numbers=columns).dropna().sort_values("threshold")
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
    figure, axes = panels(len(metrics), height=2.9)
    for axis, metric in zip(axes, metrics, strict=True):
        for label, color in colors.items():
            own = points[points["label"] == label].dropna(subset=[metric]).sort_values(column)
            axis.plot(own[column], own[metric], color=color, linewidth=1, alpha=0.45)
            for form, x, y in zip(own["form"], own[column], own[metric], strict=True):
                axis.plot(x, y, markers[form], color=color, markersize=7, alpha=0.85, markeredgewidth=0)
        log_axis(axis, f"← {name}", f"{metric_name(metric)} ↑")
    handles = {label: Line2D([], [], color=color, linewidth=5) for label, color in colors.items()}
    shapes = {form: Line2D([], [], color=FAINT, marker=marker, linestyle="") for form, marker in markers.items()}
    add_legend(figure, handles | {form_name(form): handle for form, handle in shapes.items()})
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
    styles = {label: point_style(number) for number, label in enumerate(labels) if label in counts.index}
    if not styles or not metrics:
        return None
    figure, axes = panels(len(metrics), height=2.9)
    for axis, metric in zip(axes, metrics, strict=True):
        own = overall[overall["metric"] == metric].set_index("label")
        for label in [label for label in styles if label in own.index]:
            row = own.loc[label]
            axis.errorbar(counts[label], row["mean"], yerr=row["half"], capsize=3, **styles[label])
        log_axis(axis, "← parameters (M)", f"{metric_name(metric)} ↑")
    add_legend(figure, {label: Line2D([], [], linestyle="", **style) for label, style in styles.items()})
    alt = "; ".join(f"{label}: {counts[label]:.2f} million parameters" for label in styles)
    caption = "Mean accuracy over categories with 95 % intervals against the number of parameters."
    return Plot(caption, alt, _svg(figure))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
