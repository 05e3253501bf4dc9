"""Tables of a report, as text that a page and a Markdown file can show alike."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from anomalib_anoseg.board.report.statistics import ERROR, WHOLE

UP, DOWN = "↑", "↓"
MARK = "†"  # what does not beat its trivial row
BAR_LABEL = "Best trivial row of each category"


@dataclass(frozen=True)
class Column:
    """A column's heading: its group, its name with unit, and the arrow that points to better figures."""

    name: str
    group: str = ""
    arrow: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell: its figure, what stands smaller below it, and its marks.

    Attributes:
        text: The figure or name.
        detail: Interval or difference; empty for none.
        best: Whether it is the best of its column.
        below: Whether it does not beat its trivial row.
        title: Longer explanation, shown on hovering.
        name: Whether it is a name, not a figure.
        rows: Number of rows that it spans on a page; 0 if a cell above spans it.
    """

    text: str
    detail: str = ""
    best: bool = False
    below: bool = False
    title: str = ""
    name: bool = False
    rows: int = 1

    @property
    def plain(self) -> str:
        """The cell in Markdown."""
        text = f"**{self.text}**" if self.best else self.text
        return " ".join(part for part in (text, MARK if self.below else "", self.detail) if part).replace("|", r"\|")


@dataclass(frozen=True)
class Row:
    """A row; those of trivial rows are set apart."""

    cells: Sequence[Cell]
    trivial: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group, as ``(group, number of columns)``."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans

    def frame(self) -> pd.DataFrame:
        """The table as text, one column each."""
        names = [" ".join(part for part in (c.group.lower(), c.name, c.arrow) if part) for c in self.columns]
        return pd.DataFrame([[cell.plain for cell in row.cells] for row in self.rows], columns=names)


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


# What the mean rank is of. Figures at a threshold are left out, because they depend on how it was found as well, and
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


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """Metrics of a table of figures that tables show, in their order."""
    present = set(frame["metric"])
    return [metric for metric in METRICS if metric in present]


def summary(overall: pd.DataFrame, ranked: pd.DataFrame, labels: Sequence[str], short: Collection[str] = ()) -> Table:
    """Means over all categories, a row a model, with average ranks, and a word at models ``short`` of an epoch."""
    metrics = metrics_of(overall)
    complete = overall[overall["categories"] == overall["of"]]
    best = _best(complete)
    rank_of = [metric for metric in RANKED if metric in ranked]
    rank = ranked[rank_of].mean(axis=1).dropna().round(2)
    trivial = dict(zip(overall["label"], overall["trivial"], strict=True))
    rows = []
    for label in [label for label in labels if label in trivial]:
        own = overall[overall["label"] == label].set_index("metric")
        cells = [_figure(own, metric, best) for metric in metrics]
        cells.append(Cell(f"{rank[label]:.2f}", best=_is_best(rank[label], rank, DOWN)) if label in rank else NOTHING)
        cells += [Cell(_range(own["seeds"])), Cell(_share(own))]
        name = Cell(label, "less than one epoch" if label in short else "", name=True)
        rows.append(Row([name, *cells], trivial=trivial[label]))
    if overall["trivial"].any():
        bars = complete.groupby("metric")["bar"].max()
        figures = [_number(bars.get(metric)) for metric in metrics]
        rows.append(Row([Cell(BAR_LABEL, name=True), *figures, NOTHING, NOTHING, NOTHING], trivial=True))
    columns = [Column("Model"), *(METRICS[metric] for metric in metrics)]
    columns += [Column("Mean rank", arrow=DOWN), Column("Complete seeds"), Column("Categories")]
    names = ", ".join(map(metric_name, rank_of))
    return Table("Means over all categories", columns, rows, [f"Mean rank: over {names}."] if rank_of else [])


def rank_table(ranked: pd.DataFrame, labels: Sequence[str]) -> Table:
    """Average ranks, a row a model and a column a metric."""
    metrics = [metric for metric in METRICS if metric in ranked]
    rows = []
    for label in [label for label in labels if label in ranked.index]:
        values = [ranked.loc[label, metric] for metric in metrics]
        cells = [Cell(f"{v:.2f}", best=_is_best(v, ranked[m], DOWN)) for m, v in zip(metrics, values, strict=True)]
        rows.append(Row([Cell(label, name=True), *cells]))
    columns = [Column(METRICS[metric].name, METRICS[metric].group, DOWN) for metric in metrics]
    return Table("Average rank over categories (1 is best)", [Column("Model"), *columns], rows)


def category_table(estimates: pd.DataFrame, category: str, labels: Sequence[str]) -> Table:
    """Means over seeds in one category, a row a model."""
    own = estimates[(estimates["category"] == category) & (estimates["defect"] == WHOLE)]
    metrics = metrics_of(own)
    rows = _rows(own, metrics, labels)
    return Table(category, [Column("Model"), *(METRICS[metric] for metric in metrics), Column("Seeds")], rows)


def defect_table(estimates: pd.DataFrame, category: str, labels: Sequence[str]) -> Table:
    """Means over seeds for each kind of defect of one category, a row a model."""
    own = estimates[(estimates["category"] == category) & (estimates["defect"] != WHOLE)]
    metrics = metrics_of(own)
    rows: list[Row] = []
    for defect in sorted(own["defect"].unique()):
        rows += span(str(defect), _rows(own[own["defect"] == defect], metrics, labels))
    columns = [Column("Defect"), Column("Model"), *(METRICS[metric] for metric in metrics), Column("Seeds")]
    return Table(category, columns, rows)


def paired_table(differences: pd.DataFrame, labels: Sequence[str], reference: str) -> Table:
    """Differences to a reference, a row a model."""
    metrics = metrics_of(differences)
    rows = []
    for label in [label for label in labels if label in set(differences["label"])]:
        own = differences[differences["label"] == label].set_index("metric")
        cells = [_difference(own, metric) for metric in metrics]
        rows.append(Row([Cell(label, name=True), *cells, Cell(_range(own["seeds"])), Cell(_range(own["pairs"]))]))
    columns = [Column("Model"), *(METRICS[metric] for metric in metrics), Column("Seeds"), Column("Pairs")]
    count = int(differences["p"].notna().sum())
    note = (
        f"Bold: not 0 at the level of {ERROR:.0%}, by Student's t test over seeds after Holm's correction for all "
        f"{count} differences tested. The intervals are not corrected."
    )
    return Table(f"Difference to {reference}", columns, rows, [note])


def span(name: str, rows: Sequence[Row]) -> list[Row]:
    """Put a name before rows, over all of them on a page and repeated in Markdown."""
    spans = [len(rows), *[0] * (len(rows) - 1)]
    firsts = [Cell(name, name=True, rows=count) for count in spans]
    return [Row([first, *row.cells], row.trivial) for first, row in zip(firsts, rows, strict=True)]


NOTHING = Cell("\N{EN DASH}")


def _rows(own: pd.DataFrame, metrics: Sequence[str], labels: Sequence[str]) -> list[Row]:
    best = _best(own)
    rows = []
    for label in [label for label in labels if label in set(own["label"])]:
        mine = own[own["label"] == label].set_index("metric")
        cells = [_figure(mine, metric, best) for metric in metrics]
        rows.append(Row([Cell(label, name=True), *cells, Cell(_range(mine["seeds"]))], bool(mine["trivial"].iloc[0])))
    return rows


def _figure(own: pd.DataFrame, metric: str, best: dict[str, float]) -> Cell:
    if metric not in own.index:
        return NOTHING
    row = own.loc[metric]
    is_best = not row["trivial"] and round(row["mean"], 3) == best.get(metric)
    title = f"Not above the best trivial row, {row['bar']:.3f}." if row["below"] else ""
    if row["trivial"]:
        title = str(row.get("variant", ""))
    return Cell(f"{row['mean']:.3f}", interval(row["half"], row["seeds"]), bool(is_best), bool(row["below"]), title)


def _difference(own: pd.DataFrame, metric: str) -> Cell:
    if metric not in own.index:
        return NOTHING
    row = own.loc[metric]
    decided = row["p"] < ERROR  # false without seeds to compare
    verdict = ("Better" if row["mean"] > 0 else "Worse") if decided else "Undecided"
    title = f"{verdict}; better in {row['wins']} of {row['pairs']} pairs of category and seed."
    return Cell(signed(row["mean"]), interval(row["half"], row["seeds"]), best=bool(decided), title=title)


def interval(half: float, seeds: int) -> str:
    """Say how sure a mean over seeds is.

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


def _number(value: float | None) -> Cell:
    return NOTHING if value is None or pd.isna(value) else Cell(f"{value:.3f}")


def _best(estimates: pd.DataFrame) -> dict[str, float]:
    """Find the best figure of the models for each metric, as rounded as it is shown; one model has no best."""
    models = estimates[~estimates["trivial"]]
    if models["label"].nunique() < 2:  # noqa: PLR2004
        return {}
    return dict(models.groupby("metric")["mean"].max().round(3))


def _is_best(value: float, values: pd.Series, arrow: str) -> bool:
    best = values.min() if arrow == DOWN else values.max()
    return len(values) > 1 and round(float(value), 2) == round(float(best), 2)


def _share(own: pd.DataFrame) -> str:
    have, of = _range(own["categories"]), _range(own["of"])
    return have if have == of else f"{have} of {of}"


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts := list(counts)), max(counts)
    return str(low) if low == high else f"{low} to {high}"
