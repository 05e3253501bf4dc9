"""Numbers of a report: means with intervals over seeds, trivial bars, ranks and paired differences.

Everything works on one long table of figures (see :func:`figures`), so that each number is one short pandas
expression.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from scipy import stats

from anomalib_anoseg.board.report.records import FinishedJob

CONFIDENCE = 0.95
ERROR = 0.05
WHOLE = ""  # the "defect" of figures over all test images of a category
# Means of equal values may differ in their last bit.
TOLERANCE = 1e-9


def figures(jobs: Iterable[FinishedJob]) -> pd.DataFrame:
    """Collect the figures of jobs in a long table.

    Undefined figures are left out. Of trivial models that share a row, the one that is best on average over seeds gives
    a figure, and ``variant`` names it.

    Returns:
        One row per figure, with columns ``label``, ``variant``, ``trivial``, ``category``, ``defect`` (``""`` for all
        test images), ``seed``, ``metric`` and ``value``.

    Raises:
        ValueError: If no job has a figure.
    """
    records = [
        (job.family, job.label, job.is_trivial, job.category, defect, job.seed, metric, value)
        for job in jobs
        for defect, metrics in {WHOLE: job.row["metrics"], **(job.row.get("defects") or {})}.items()
        for metric, value in metrics.items()
    ]
    columns = ["label", "variant", "trivial", "category", "defect", "seed", "metric", "value"]
    frame = pd.DataFrame(records, columns=columns)
    frame = frame.assign(value=pd.to_numeric(frame["value"])).dropna(subset="value")
    if frame.empty:
        raise ValueError("No finished job has a figure: all metrics in row.json are undefined. Check the test images.")
    return _best_variants(frame)


def _best_variants(frame: pd.DataFrame) -> pd.DataFrame:
    keys = ["label", "category", "defect", "metric"]
    means = frame.groupby([*keys, "variant"], sort=False)["value"].mean().reset_index()
    best = means.loc[means.groupby(keys, sort=False)["value"].idxmax(), [*keys, "variant"]]
    return frame.merge(best, on=[*keys, "variant"]).reset_index(drop=True)


def half_width(sem: Any, count: Any) -> Any:  # noqa: ANN401
    """Compute half the width of Student's 95 % interval of a mean of ``count`` values from its standard error.

    It is NaN for fewer than two values. Both may be series.

    Example:
        >>> values = pd.Series([1.0, 2.0, 3.0])
        >>> round(float(half_width(values.sem(), 3)), 3)
        2.484
        >>> float(half_width(values[:1].sem(), 1))
        nan
    """
    return stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * sem


def by_category(frame: pd.DataFrame) -> pd.DataFrame:
    """Estimate each of the :func:`figures` over its seeds.

    Returns:
        Columns ``label``, ``trivial``, ``category``, ``defect``, ``metric``, ``variant``, ``mean``, ``half`` (half of
        the interval's width; NaN for one seed), ``seeds``, ``bar`` (the best trivial figure; NaN without one) and
        ``below`` (whether the mean of a model is not above the bar).
    """
    keys = ["label", "trivial", "category", "defect", "metric"]
    grouped = frame.groupby(keys, sort=False)
    columns = {"variant": ("variant", "first"), "mean": ("value", "mean"), "sem": ("value", "sem")}
    estimates = grouped.agg(**columns, seeds=("value", "count")).reset_index()
    estimates["half"] = half_width(estimates.pop("sem"), estimates["seeds"])
    trivial = estimates[estimates["trivial"]]
    bars = trivial.groupby(["category", "defect", "metric"])["mean"].max().rename("bar").reset_index()
    return _mark(estimates.merge(bars, how="left", on=["category", "defect", "metric"]))


def over_categories(frame: pd.DataFrame) -> pd.DataFrame:
    """Estimate the mean over categories of each of the :func:`figures`.

    A seed counts with the mean over the categories of its model; seeds that lack a category do not count, because
    categories differ more than seeds. A model without a complete seed gets the mean of its categories and no interval.

    Returns:
        Columns as of :func:`by_category` without ``category`` and ``defect``, with ``categories`` (how many the model
        has), ``of`` (how many any model has) and ``values`` (the means of its complete seeds). The bar is the mean of
        the categories' bars.
    """
    whole = frame[frame["defect"] == WHOLE]
    estimates = by_category(frame)
    bars = estimates[estimates["defect"] == WHOLE].groupby(["metric", "category"])["bar"].first()
    records = []
    for (label, trivial, metric), block in whole.groupby(["label", "trivial", "metric"], sort=False):
        wide = block.pivot_table(index="seed", columns="category", values="value")
        seeds = wide.dropna().mean(axis=1)
        mean = seeds.mean() if len(seeds) else wide.mean().mean()
        bar = bars[metric][wide.columns].mean(skipna=False)
        half = half_width(seeds.sem(), len(seeds))
        records.append((label, trivial, metric, mean, half, len(seeds), bar, wide.shape[1], list(seeds)))
    columns = ["label", "trivial", "metric", "mean", "half", "seeds", "bar", "categories", "values"]
    table = pd.DataFrame(records, columns=columns)
    return _mark(table.assign(of=table.groupby("metric")["categories"].transform("max")))


def ranks(estimates: pd.DataFrame) -> pd.DataFrame:
    """Average the ranks of models (1 is best, ties share their mean) over categories.

    Only models are ranked, and only in the categories in which every model has the figure: one row per model, one
    column per metric; empty if nothing can be ranked.
    """
    models = estimates[~estimates["trivial"] & (estimates["defect"] == WHOLE)]
    wide = models.pivot_table(index=["metric", "category"], columns="label", values="mean").dropna()
    ranked = wide.round(9).rank(axis=1, ascending=False)
    return ranked.groupby("metric").mean().T


def paired(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Estimate each model's difference to a reference, in :func:`figures` paired by category and seed.

    A seed counts with the mean over the categories that both models have, and only if it has all of them.

    Returns:
        Columns ``label``, ``metric``, ``mean`` (positive where the model is better), ``half``, ``seeds``, ``pairs``
        (of category and seed), ``wins`` among them and ``p``, that of Student's t test over seeds after Holm's
        correction for all differences; NaN for fewer than two seeds.
    """
    whole = frame[(frame["defect"] == WHOLE) & (~frame["trivial"] | (frame["label"] == reference))]
    wide = whole.pivot_table(index=["metric", "category", "seed"], columns="label", values="value", sort=False)
    records = []
    for label in [label for label in whole["label"].unique() if label != reference]:
        difference = (wide[label] - wide[reference]).dropna()
        for metric, block in difference.groupby("metric", sort=False):
            seeds = block.reset_index(name="value").pivot_table("value", "seed", "category").dropna().mean(axis=1)
            mean = seeds.mean() if len(seeds) else block.groupby("category").mean().mean()
            wins = int((block > TOLERANCE).sum())
            half, p = half_width(seeds.sem(), len(seeds)), _p_value(seeds)
            records.append((label, metric, mean, half, len(seeds), len(block), wins, p))
    table = pd.DataFrame(records, columns=["label", "metric", "mean", "half", "seeds", "pairs", "wins", "p"])
    return table.assign(p=holm(table["p"].astype(float)))


def _p_value(values: pd.Series) -> float:
    """Compute the probability of a mean at least as far from 0 by chance; NaN for fewer than two values."""
    if len(values) < 2:  # noqa: PLR2004
        return float("nan")
    if values.sem() <= TOLERANCE:  # equal values, for which t is not defined
        return float(abs(values.mean()) <= TOLERANCE)
    return float(stats.ttest_1samp(values, 0).pvalue)


def holm(p: pd.Series) -> pd.Series:
    """Correct p-values for their number, as Holm (1979); NaN values do not count.

    Example:
        >>> holm(pd.Series([0.02, 0.01, float("nan"), 0.9])).tolist()
        [0.04, 0.03, nan, 0.9]
    """
    ordered = p.dropna().sort_values()
    corrected = (ordered * range(len(ordered), 0, -1)).cummax().clip(upper=1)
    return corrected.reindex(p.index)


def _mark(estimates: pd.DataFrame) -> pd.DataFrame:
    below = ~estimates["trivial"] & (estimates["mean"] <= estimates["bar"] + TOLERANCE)
    return estimates.assign(below=below)
