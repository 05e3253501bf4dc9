"""Plots of a report as SVG, each in a light and a dark version."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from anomalib_anoseg.board.report.cost_tables import form_name
from anomalib_anoseg.board.report.records import Job
from anomalib_anoseg.board.report.tables import metric_name

HEADLINES = ("image_AUROC", "pixel_AP", "pixel_IoU")  # what plots show where there is no room for all
THRESHOLD = 0.5  # where anomalib's normalisation puts the calibrated threshold
GRID = np.linspace(0, 1, 201)
LONGEST, LINE = 48, 110  # characters of a name, and of a line of a legend
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Theme:
    """Colours of a plot; those of models are Okabe and Ito's, which colour-blind readers tell apart."""

    text: str
    faint: str
    grid: str
    models: tuple[str, ...]


LIGHT = Theme("#1f2328", "#6b7280", "#e3e5e8", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B87D00", "#3A9BD0"))
DARK = Theme("#e6e6e3", "#9ba1a8", "#34393f", ("#58A9DC", "#F08B4B", "#2FC19A", "#E3A0C8", "#EDB13C", "#9AD3F5"))


@dataclass(frozen=True)
class Plot:
    """A plot in both colour schemes, as SVG text, with its caption and what it shows in words."""

    caption: str
    alt: str
    light: str
    dark: str


def intervals(overall: pd.DataFrame, labels: Sequence[str]) -> Plot | None:
    """Draw mean, interval and complete seeds of the headline metrics, a line a model."""
    metrics = [metric for metric in HEADLINES if metric in set(overall["metric"])]
    if not metrics or not labels:
        return None

    def draw(theme: Theme) -> Figure:
        figure, axes = _panels(theme, len(metrics), height=0.9 + 0.42 * len(labels), share_y=True)
        for axis, metric in zip(axes, metrics, strict=True):
            _draw_intervals(axis, theme, overall[overall["metric"] == metric].set_index("label"), labels)
            axis.set_title(f"{metric_name(metric)} →", loc="left")
        axes[0].set_yticks(range(len(labels)), map(_short, labels))
        for axis in axes:
            axis.tick_params("y", length=0)
        axes[0].tick_params("y", labelcolor=theme.text)
        axes[0].set_ylim(len(labels) - 0.5, -0.5)
        return figure

    alt = "; ".join(
        f"{row.label} {metric_name(row.metric)} {row.mean:.3f}"
        for row in overall.itertuples()
        if row.metric in metrics and row.label in labels
    )
    caption = (
        "Means over all categories with 95 % intervals over seeds. Open circles are single seeds; the dotted line is "
        "the best trivial row of each category, averaged."
    )
    return _plot(draw, caption, alt)


def _draw_intervals(axis: Axes, theme: Theme, own: pd.DataFrame, labels: Sequence[str]) -> None:
    for row, label in enumerate(labels):
        if label not in own.index:
            continue
        color = theme.models[row % len(theme.models)]
        values = own["values"][label]
        axis.plot(values, [row + 0.28] * len(values), "o", color=color, markersize=3.5, markerfacecolor="none")
        half = own["half"][label]
        axis.errorbar(own["mean"][label], row, xerr=None if np.isnan(half) else half, color=color, **_style(row))
    bar = own["bar"][own["categories"] == own["of"]].max()
    if not np.isnan(bar):
        axis.axvline(bar, color=theme.faint, linestyle=":", linewidth=1.2)


def _style(row: int) -> dict[str, Any]:
    return {"marker": MARKERS[row % len(MARKERS)], "markersize": 6.5, "linewidth": 1.6, "capsize": 3}


def iou_curves(jobs: Sequence[Job], labels: Sequence[str], categories: Sequence[str]) -> Plot | None:
    """Draw IoU against threshold, a panel a category and a line a model; lines are means over seeds."""
    curves = _curves(jobs)
    shown = [category for category in categories if any(key[1] == category for key in curves)]
    if not shown:
        return None
    trivial = {job.family for job in jobs if job.is_trivial}
    lines = [label for label in labels if any(key[0] == label for key in curves)]

    def draw(theme: Theme) -> Figure:
        figure, axes = _panels(theme, len(shown), height=2.7, share_y=True)
        for axis, category in zip(axes, shown, strict=True):
            for row, label in enumerate(lines):
                if (label, category) in curves:
                    _draw_curve(axis, theme, curves[label, category], row, label in trivial)
            axis.axvline(THRESHOLD, color=theme.faint, linestyle=":", linewidth=1.2)
            axis.set(title=category, xlim=(0, 1), ylim=(0, None), xlabel="threshold")
            axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes[0].set_ylabel("IoU ↑")
        handles = [Line2D([], [], **_line(theme, row, label in trivial)) for row, label in enumerate(lines)]
        _legend(figure, handles, lines)
        return figure

    alt = "; ".join(
        f"{label} on {category}: IoU {mean[len(GRID) // 2]:.3f} at threshold 0.5, at most {mean.max():.3f}"
        for (label, category), mean in ((key, values.mean(0)) for key, values in curves.items())
    )
    caption = (
        "Intersection over union of the anomalous pixels against the threshold on the normalised anomaly map, mean "
        "over seeds; bands reach from the lowest to the highest seed. The dotted line is the calibrated threshold, 0.5."
    )
    return _plot(draw, caption, alt)


def _draw_curve(axis: Axes, theme: Theme, values: Any, row: int, trivial: bool) -> None:  # noqa: ANN401
    line = _line(theme, row, trivial)
    axis.plot(GRID, values.mean(0), **line)
    if len(values) > 1 and not trivial:
        axis.fill_between(GRID, values.min(0), values.max(0), color=line["color"], alpha=0.14, linewidth=0)


def _line(theme: Theme, row: int, trivial: bool) -> dict[str, Any]:
    if trivial:
        return {"color": theme.faint, "linestyle": DASHES[1 + row % 3], "linewidth": 1}
    style = DASHES[row // len(theme.models) % len(DASHES)]
    return {"color": theme.models[row % len(theme.models)], "linestyle": style, "linewidth": 1.8}


def _curves(jobs: Sequence[Job]) -> dict[tuple[str, str], Any]:
    """Read the curves of each row and category, ``(seeds, 201)``; trivial models that share a row show their best."""
    read: dict[tuple[str, str, str], list[Any]] = {}
    for job in jobs:
        if (job.folder / "curve.csv").is_file():
            read.setdefault((job.family, job.category, job.label), []).append(_curve(job))
    best: dict[tuple[str, str], Any] = {}
    for (family, category, _), values in read.items():
        curves = np.array(values)
        if (family, category) not in best or curves.mean(0).max() > best[family, category].mean(0).max():
            best[family, category] = curves
    return best


def _curve(job: Job) -> Any:  # noqa: ANN401
    curve = pd.read_csv(job.folder / "curve.csv").dropna().sort_values("threshold")
    return np.interp(GRID, curve["threshold"], curve["iou"]) if len(curve) else np.full_like(GRID, np.nan)


def against_cost(forms: pd.DataFrame, column: str, name: str, labels: Sequence[str]) -> Plot | None:
    """Draw the accuracy of each exported form against a column of its cost, on a logarithmic axis."""
    metrics = [metric for metric in HEADLINES if metric in forms and forms[metric].notna().any()]
    if column not in forms or not metrics:
        return None
    points = forms.dropna(subset=[column])
    points = points[points[column] > 0]
    present = [label for label in labels if label in set(points["label"])]
    kinds = list(dict.fromkeys(points["form"]))
    if not present:
        return None

    def draw(theme: Theme) -> Figure:
        figure, axes = _panels(theme, len(metrics), height=2.9)
        for axis, metric in zip(axes, metrics, strict=True):
            for label in present:
                own = points[points["label"] == label].dropna(subset=[metric]).sort_values(column)
                color = theme.models[labels.index(label) % len(theme.models)]
                axis.plot(own[column], own[metric], color=color, linewidth=1, alpha=0.45)
                for form, x, y in zip(own["form"], own[column], own[metric], strict=True):
                    marker = MARKERS[kinds.index(form) % len(MARKERS)]
                    axis.plot(x, y, marker, color=color, markersize=7, alpha=0.85, markeredgewidth=0)
            _log_axis(axis, f"← {name}")
            axis.set_title(f"{metric_name(metric)} ↑", loc="left")
        colors = [theme.models[labels.index(label) % len(theme.models)] for label in present]
        handles = [Line2D([], [], color=color, linewidth=5) for color in colors]
        handles += [Line2D([], [], color=theme.faint, marker=MARKERS[i % 8], linestyle="") for i in range(len(kinds))]
        _legend(figure, handles, [*present, *map(form_name, kinds)])
        return figure

    alt = "; ".join(
        f"{p['label']} {form_name(p['form'])}: {p[column]:.3g}, "
        + ", ".join(f"{metric_name(m)} {p[m]:.3f}" for m in metrics)
        for p in points.to_dict("records")
    )
    return _plot(draw, f"Accuracy of each exported form against its {name}; lines join the forms of a model.", alt)


def against_parameters(overall: pd.DataFrame, parameters: pd.Series, labels: Sequence[str]) -> Plot | None:
    """Draw mean accuracy with its interval against the number of parameters, on a logarithmic axis."""
    counts = parameters[parameters > 0].dropna() / 1e6
    metrics = [metric for metric in HEADLINES if metric in set(overall["metric"])]
    present = [label for label in labels if label in counts.index]
    if not present or not metrics:
        return None

    def draw(theme: Theme) -> Figure:
        figure, axes = _panels(theme, len(metrics), height=2.9)
        for axis, metric in zip(axes, metrics, strict=True):
            own = overall[overall["metric"] == metric].set_index("label")
            for label in [label for label in present if label in own.index]:
                row = labels.index(label)
                half = own["half"][label]
                color = theme.models[row % len(theme.models)]
                error = None if np.isnan(half) else half
                axis.errorbar(counts[label], own["mean"][label], yerr=error, color=color, **_style(row))
            _log_axis(axis, "← parameters (M)")
            axis.set_title(f"{metric_name(metric)} ↑", loc="left")
        rows = [labels.index(label) for label in present]
        handles = [
            Line2D([], [], color=theme.models[row % len(theme.models)], linestyle="", **_without_caps(row))
            for row in rows
        ]
        _legend(figure, handles, present)
        return figure

    alt = "; ".join(f"{label}: {counts[label]:.2f} million parameters" for label in present)
    return _plot(draw, "Mean accuracy over categories with 95 % intervals against the number of parameters.", alt)


def _without_caps(row: int) -> dict[str, Any]:
    return {name: value for name, value in _style(row).items() if name not in {"capsize", "linewidth"}}


def _log_axis(axis: Axes, name: str) -> None:
    axis.set_xscale("log")
    axis.margins(x=0.12, y=0.15)
    low, high = axis.get_xlim()
    middle = (low * high) ** 0.5
    axis.set_xlim(min(low, middle / 1.8), max(high, middle * 1.8))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(name)


def _panels(theme: Theme, count: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    width = {1: 5.2, 2: 7.6, 3: 9.6}[columns]
    figure = Figure(figsize=(width, height * rows + 0.25), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=share_y, squeeze=False).ravel()
    for axis in axes:
        axis.grid(color=theme.grid, linewidth=0.8)
        axis.set_axisbelow(True)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, list(axes[:count])


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    shown = list(map(_short, names))
    columns = max(1, min(len(shown), 4, LINE // (max(map(len, shown)) + 6)))
    figure.legend(handles, shown, loc="outside lower center", ncols=columns, frameon=False)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _plot(draw: Callable[[Theme], Figure], caption: str, alt: str) -> Plot:
    return Plot(caption, alt, _svg(draw, LIGHT), _svg(draw, DARK))


def _svg(draw: Callable[[Theme], Figure], theme: Theme) -> str:
    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.faint,
        "axes.titlecolor": theme.text,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": theme.text,
        "text.parse_math": False,  # names are the user's
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "svg.hashsalt": "anomalib-anoseg",  # equal input gives an equal file
    }
    with mpl.rc_context(settings):
        buffer = io.StringIO()
        draw(theme).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
