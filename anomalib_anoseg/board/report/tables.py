"""Tables of a report: data frames of cells, for the page and for Markdown."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import pandas as pd
from markupsafe import Markup

from anomalib_anoseg.board.report.statistics import ERROR, WHOLE
from anomalib_anoseg.common.messages import escape_markdown

UP, DOWN = "↑", "↓"
MARK = "†"  # what does not beat its trivial row
BAR_LABEL = "Best trivial row of each category"


@dataclass(frozen=True)
class Cell:
    """A figure or name.

    Beside it stands a ``detail``, such as its interval, and a ``title`` explains it on hovering. It may be the best of
    its column, below its trivial row, or the name of a trivial row.
    """

    text: str
    detail: str = ""
    best: bool = False
    below: bool = False
    title: str = ""
    trivial: bool = False

    @property
    def html(self) -> str:
        """The cell on a page."""
        kinds = " ".join(name for name in ("best", "below", "trivial") if getattr(self, name))
        text = f'<span class="{kinds}">{escape(self.text)}</span>' if kinds else escape(self.text)
        text += f"<sup>{MARK}</sup>" if self.below else ""
        text += f"<small>{escape(self.detail)}</small>" if self.detail else ""
        return f'<span title="{escape(self.title)}">{text}</span>' if self.title else text

    def __str__(self) -> str:
        """Give the cell in Markdown."""
        text, detail = escape_markdown(self.text), escape_markdown(self.detail)
        parts = f"**{text}**" if self.best else text, MARK if self.below else "", detail
        return " ".join(filter(None, parts)).replace("|", r"\|")


NOTHING = Cell("\N{EN DASH}")


@dataclass(frozen=True)
class Column:
    """A column: names of its group and itself with unit, direction of better figures, and their format."""

    name: str
    group: str = ""
    arrow: str = ""
    scale: float = 1
    digits: int = 3

    @property
    def heading(self) -> tuple[str, str]:
        """Group and name with the arrow."""
        return self.group, f"{self.name} {self.arrow}".strip()


@dataclass(frozen=True)
class Table:
    """A frame of cells and plain text, with rows named by cells, a caption and notes."""

    caption: str
    frame: pd.DataFrame
    notes: Sequence[str] = field(default_factory=list)

    @property
    def html(self) -> str:
        """The table on a page."""
        names = " / ".join(self.frame.index.names)
        frame = self.frame.rename(index=lambda cell: cell.html).map(lambda cell: getattr(cell, "html", cell))
        frame = frame.rename_axis(index=[None] * frame.index.nlevels).rename_axis(columns=["", names])
        text: str = frame.to_html(escape=False, border=0)
        return text.replace("<thead>", f"<caption>{escape(self.caption)}</caption>\n<thead>", 1)

    @property
    def markdown(self) -> Markup:
        """The table in Markdown."""
        frame = self.frame.rename(index=str).map(str)
        frame.columns = [" ".join(filter(None, (group.lower(), name))) for group, name in frame.columns]
        sides = ["left"] * frame.index.nlevels + ["right"] * len(frame.columns)
        return Markup(frame.reset_index().to_markdown(index=False, disable_numparse=True, colalign=sides))  # noqa: S704


METRICS = {
    "image_AUROC": Column("AUROC", "Image", UP),
    "image_F1Score": Column("F1", "Image", UP),
    "pixel_AUROC": Column("AUROC", "Pixel", UP),
    "pixel_AP": Column("AP", "Pixel", UP),
    "pixel_AUPRO": Column("AUPRO", "Pixel", UP),
    "pixel_F1Score": Column("F1", "Pixel", UP),
    "pixel_IoU": Column("IoU", "Pixel", UP),
    "pixel_BestIoU": Column("best IoU", "Pixel", UP),
    "pixel_IoUCurveArea": Column("IoU area", "Pixel", UP),
}
# Metrics of the mean rank. Figures at a threshold are left out, because they depend on how it was found as well, and
# the area under the IoU curve, because it depends on how scores are spread.
RANKED = ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_BestIoU")


def metric_name(metric: str) -> str:
    """Name a metric outside of tables.

    Example:
        >>> metric_name("pixel_AP")
        'pixel AP'
    """
    column = METRICS.get(metric)
    return f"{column.group.lower()} {column.name}" if column else metric.replace("_", " ")


def summary(overall: pd.DataFrame, ranked: pd.DataFrame, labels: Sequence[str], short: Collection[str] = ()) -> Table:
    """Make a table of means over all categories, with average ranks; it marks models ``short`` of an epoch."""
    complete = overall[overall["categories"] == overall["of"]]
    frame = _spread(_mark_best(overall, complete.index), ["label"], labels, _figure)
    rank_of = [metric for metric in RANKED if metric in ranked]
    column = Column("Mean rank", arrow=DOWN, digits=2)
    frame[column.heading] = numbers(ranked[rank_of].mean(axis=1).dropna(), column).reindex(frame.index)
    frame = frame.where(frame.notna(), NOTHING)
    grouped = overall.groupby("label")
    frame["", "Complete seeds"] = grouped["seeds"].agg(_range)
    have, of = grouped["categories"].agg(_range), grouped["of"].agg(_range)
    frame["", "Categories"] = have.where(have == of, have.map("{} of ".format) + of)
    trivial = set(overall.loc[overall["trivial"], "label"])
    if trivial:
        bars = complete.groupby("metric")["bar"].max()
        known = [metric for metric in METRICS if metric in set(overall["metric"])]
        frame.loc[BAR_LABEL] = [*numbers(bars.reindex(known), Column("")), *[NOTHING] * 3]
    names = ", ".join(map(metric_name, rank_of))
    notes = [f"Mean rank: over {names}."] if rank_of else []
    return Table("Means over all categories", _name_rows(frame, trivial | {BAR_LABEL}, short), notes)


def rank_table(ranked: pd.DataFrame, labels: Sequence[str]) -> Table:
    """Make a table of average ranks, one row per model and one column per metric."""
    columns = {metric: replace(column, arrow=DOWN, digits=2) for metric, column in METRICS.items()}
    frame = table_of_numbers(ranked.reindex([label for label in labels if label in ranked.index]), columns)
    note = "Ranks among the models, without trivial rows, in the categories in which every model has the figure."
    return Table("Average rank over categories (1 is best)", _name_rows(frame), [note])


def category_table(
    estimates: pd.DataFrame, category: str, labels: Sequence[str], by_defect: bool = False
) -> Table | None:
    """Make a table of means over seeds in one category, by model or by model and defect; ``None`` if empty."""
    own = estimates[(estimates["category"] == category) & ((estimates["defect"] != WHOLE) == by_defect)]
    if own.empty:
        return None
    keys = ["defect", "label"] if by_defect else ["label"]
    frame = _spread(_mark_best(own, own.index), keys, labels, _figure)
    frame["", "Seeds"] = own.groupby(keys)["seeds"].agg(_range)
    return Table(category, _name_rows(frame, set(own.loc[own["trivial"], "label"])))


def paired_table(differences: pd.DataFrame, labels: Sequence[str], reference: str) -> Table:
    """Make a table of differences to a reference, one row per model."""
    frame = _spread(differences, ["label"], labels, _difference)
    for name in ("seeds", "pairs"):
        frame["", name.capitalize()] = differences.groupby("label")[name].agg(_range)
    count = int(differences["p"].notna().sum())
    note = (
        f"Bold: not 0 at the level of {ERROR:.0%}, by Student's t test over seeds after Holm's correction for all "
        f"{count} differences tested. The intervals are not corrected."
    )
    return Table(f"Difference to {reference}", _name_rows(frame), [note])


def table_of_numbers(frame: pd.DataFrame, columns: dict[str, Column]) -> pd.DataFrame:
    """Write those columns of a frame that have a number, the best of each marked."""
    shown = {name: column for name, column in columns.items() if name in frame and frame[name].notna().any()}
    return pd.DataFrame({column.heading: numbers(frame[name], column) for name, column in shown.items()})


def numbers(values: pd.Series, column: Column) -> pd.Series:
    """Write numbers as cells; the best of several is marked, if the column says what is best.

    Example:
        >>> [cell.best for cell in numbers(pd.Series([2.0, 1.0]), Column("Time", arrow=DOWN))]
        [False, True]
    """
    shown = (values.astype(float) * column.scale).round(column.digits)
    best = shown.max() if column.arrow == UP else shown.min()
    marks = column.arrow and len(values) > 1
    cells = [
        NOTHING if pd.isna(value) else Cell(f"{value:,.{column.digits}f}", best=bool(marks and value == best))
        for value in shown
    ]
    return pd.Series(cells, values.index, dtype=object)


def _mark_best(estimates: pd.DataFrame, among: pd.Index) -> pd.DataFrame:
    """Mark the best figure of the models for each metric, rounded as it is shown; a single model has no best."""
    means = estimates.loc[among, "mean"].where(~estimates["trivial"]).round(3)
    keys = [estimates[name] for name in ("defect", "metric") if name in estimates]
    groups = means.reindex(estimates.index).groupby(keys)
    best = (means.reindex(estimates.index) == groups.transform("max")) & (groups.transform("count") > 1)
    return estimates.assign(best=best)


def _spread(
    estimates: pd.DataFrame, keys: list[str], labels: Sequence[str], write: Callable[[Any], Cell]
) -> pd.DataFrame:
    """Pivot a long table: one row per label, or label and defect, and one column per metric."""
    known = estimates[estimates["metric"].isin(METRICS)]
    cells = pd.Series([write(row) for row in known.itertuples()], known.index, dtype=object)
    frame = known.assign(cell=cells).set_index([*keys, "metric"])["cell"].unstack()  # noqa: PD010 - cells are objects
    frame = frame[[metric for metric in METRICS if metric in frame]]
    order = {label: number for number, label in enumerate(labels)}
    frame = frame.sort_index(key=lambda level: level.map(order) if level.name == "label" else level)
    frame.columns = pd.MultiIndex.from_tuples([METRICS[metric].heading for metric in frame], names=["", ""])
    return frame.where(frame.notna(), NOTHING)


def _name_rows(frame: pd.DataFrame, trivial: Collection[str] = (), short: Collection[str] = ()) -> pd.DataFrame:
    """Name rows by cells, and name the index levels."""
    details = dict.fromkeys(short, "less than one epoch")
    named = frame.rename(index=lambda name: Cell(name, details.get(name, ""), trivial=name in trivial))
    return named.rename_axis(index=lambda key: "Defect" if key == "defect" else "Model")


def _figure(row: Any) -> Cell:  # noqa: ANN401
    title = f"Not above the best trivial row, {row.bar:.3f}." if row.below else ""
    if row.trivial:
        title = str(getattr(row, "variant", ""))
    return Cell(f"{row.mean:.3f}", interval(row.half, row.seeds), bool(row.best), bool(row.below), title)


def _difference(row: Any) -> Cell:  # noqa: ANN401
    decided = bool(row.p < ERROR)  # false without seeds to compare
    verdict = ("Better" if row.mean > 0 else "Worse") if decided else "Undecided"
    title = f"{verdict}; better in {row.wins} of {row.pairs} pairs of category and seed."
    return Cell(signed(row.mean), interval(row.half, row.seeds), best=decided, title=title)


def interval(half: float, seeds: int) -> str:
    """Write the uncertainty of a mean over seeds.

    Example:
        >>> interval(0.0123, 3), interval(float("nan"), 1), interval(float("nan"), 0)
        ('± 0.012', 'one seed', 'no complete seed')
    """
    if pd.notna(half):
        return f"± {half:.3f}"
    return "one seed" if seeds == 1 else "no complete seed"


def signed(value: float) -> str:
    """Write a difference with its sign.

    Example:
        >>> signed(0.01234), signed(-0.0001)
        ('+0.012', '0.000')
    """
    text = f"{abs(value):.3f}"
    sign = "+" if value > 0 else "\N{MINUS SIGN}"
    return sign + text if float(text) else text


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
