"""The look of figures: colours that everybody can tell apart, panels, axes and legends."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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


def point_style(number: int) -> dict[str, Any]:
    """Choose colour and marker of the points of one thing."""
    return {"color": COLORS[number % 6], "marker": MARKERS[number % 8], "markersize": 6.5, "linewidth": 1.6}


def line_style(number: int, faint: bool) -> dict[str, Any]:
    """Choose colour and dashes of the line of one thing, which may be only a background for others."""
    if faint:
        return {"color": FAINT, "linestyle": DASHES[1 + number % 3], "linewidth": 1}
    return {"color": COLORS[number % 6], "linestyle": DASHES[number // 6 % 4], "linewidth": 1.8}


def log_axis(axis: Axes, name: str, title: str) -> None:
    """Make the horizontal axis logarithmic, with readable numbers."""
    axis.set_xscale("log")
    axis.margins(x=0.12, y=0.15)
    low, high = axis.get_xlim()
    middle = (low * high) ** 0.5
    axis.set_xlim(min(low, middle / 1.8), max(high, middle * 1.8))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(name)
    axis.set_title(title, loc="left")


def panels(count: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """Make a figure of some panels, at most three a row, each of a height in inches."""
    columns = min(count, 3)
    rows = -(-count // columns)
    width = {1: 5.2, 2: 7.6, 3: 9.6}[columns]
    figure = Figure(figsize=(width, height * rows + 0.25), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=share_y, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, list(axes[:count])


def add_legend(figure: Figure, handles: dict[str, Any]) -> None:
    """Write a legend below a figure: handles by name."""
    names = list(map(shorten, handles))
    columns = max(1, min(len(names), 4, LINE // (max(map(len, names)) + 6)))
    figure.legend(list(handles.values()), names, loc="outside lower center", ncols=columns, frameon=False)


def shorten(name: str) -> str:
    """Cut a name that is too long for a figure."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
