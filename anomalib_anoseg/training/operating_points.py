"""Thresholds for a false alarm rate, by order statistics of held-out good pictures. Pure functions.

Let ``n`` good pictures be held out, and let ``k`` of them lie above the threshold, which is the next lower score. Of
new good pictures from the same line, ``(k + 1) / (n + 1)`` then lie above it, on average over sets of held-out
pictures, whatever the scores mean and however they are distributed. So a rate needs ``1 / rate - 1`` pictures or more.

For the pictures at hand, the true rate of such a threshold follows a beta distribution, which lies inside the exact
interval of Clopper and Pearson for ``k`` of ``n``. So that interval holds although the threshold was chosen on the same
pictures. It is wide: none of 20 may mean anything up to 17 %.

Only pictures that were not trained on count: the scores of training pictures are too low, and so is a threshold above
them. Folds over training pictures would give more, but thresholds of other weights than those that ship. Each picture
counts once, also where Lightning hands it out twice so that all processes get equally many. Nothing holds if light,
camera or parts change: the held-out pictures must be like those to come. How they look is kept, so that an inspection
can say when others come.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from anomalib_anoseg.training.calibration import Calibration, ScoreRange
from anomalib_anoseg.training.good_scores import GoodScores

# Rates that may be asked for.
LIMITS = (1e-4, 0.5)
CONFIDENCE = 0.95
# Rates of a table, if there are enough pictures for them.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
# Products of a rate and a number of pictures are whole numbers up to this.
ROUNDING = 1e-9
# Columns of a table: rate, thresholds of raw scores, number of pictures, how many lie above, share found.
RATE, IMAGE, PIXEL, IMAGES, ABOVE, FOUND = range(6)


class RatedThresholds(NamedTuple):
    """A row of a table, with thresholds on the scale of the outputs.

    Attributes:
        false_alarm_rate: Share of new good pictures above a threshold, on average.
        image_score: Threshold of image scores.
        pixel_score: Threshold of maps; that share of good pictures has any pixel above it.
        good_images: Number of good pictures that both rest on.
        interval: 95 % interval of the rate for these pictures.
        found: Share of anomalous pictures above ``image_score``; NaN if there were none.
    """

    false_alarm_rate: float
    image_score: float
    pixel_score: float
    good_images: int
    interval: tuple[float, float]
    found: float


def count_alarms(rate: float, images: int) -> int:
    """Count how many of a number of good pictures may lie above a threshold for a rate.

    Returns:
        ``-1`` if there are too few pictures for the rate.

    Example:
        >>> count_alarms(0.01, 99), count_alarms(0.01, 98), count_alarms(0.1, 99)
        (0, -1, 9)
    """
    return math.floor(_as_kept(rate) * (images + 1) + ROUNDING) - 1


def _as_kept(rate: float) -> float:
    """Round a rate to the digits that tables keep, so that all who count with it agree."""
    return float(f"{rate:.6g}")


def count_needed(rate: float) -> int:
    """Count the good pictures that support a rate.

    Example:
        >>> count_needed(0.01), count_needed(0.05)
        (99, 19)
    """
    return math.ceil(1 / _as_kept(rate) - ROUNDING) - 1


def count_sure(rate: float) -> int:
    """Count the good pictures of which none lies above a threshold, so that the interval ends at a rate.

    Example:
        >>> count_sure(0.01), round(find_interval(0, 368)[1], 4)
        (368, 0.01)
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log1p(-rate))


def find_smallest_rate(images: int) -> float:
    """Find the smallest rate that a number of good pictures supports, rounded up to two digits.

    Example:
        >>> find_smallest_rate(20), find_smallest_rate(99)
        (0.048, 0.01)
    """
    digits = math.ceil(math.log10(images + 1)) + 1
    return math.ceil(10**digits / (images + 1) - ROUNDING) / 10**digits


def find_interval(alarms: int, images: int) -> tuple[float, float]:
    """Find the exact 95 % interval of Clopper and Pearson for a share.

    Example:
        >>> [round(end, 3) for end in find_interval(0, 20)]
        [0.0, 0.168]
    """
    found = binomtest(alarms, images).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def find_threshold(scores: Tensor, rate: float) -> Tensor:
    """Find the lowest score of good pictures that supports a rate.

    Args:
        scores: ``(N,)`` of good pictures.
        rate: Must be supported by ``N`` pictures.

    Returns:
        A scalar; what is larger is anomalous.

    Example:
        >>> find_threshold(torch.arange(99.0), 0.02)
        tensor(97.)
    """
    return scores.sort(descending=True).values[count_alarms(rate, len(scores))]


def tabulate(good: GoodScores, anomalous: Mapping[str, Tensor], wanted: float | None = None) -> dict[str, Tensor]:
    """Make a table of thresholds of each image score.

    Args:
        good: Scores of good pictures.
        anomalous: Image scores of anomalous pictures by name.
        wanted: A rate beside the usual ones.

    Returns:
        By name of the image score: float32 ``(rates, 6)``, rates rising, with the columns ``RATE`` to ``FOUND``.
        Scores among which one is not finite have no table.

    Example:
        >>> table = tabulate(GoodScores({"only": torch.arange(19.0)}), {"only": torch.tensor([5.0, 18.5])})["only"]
        >>> table[0].tolist()  # rate, threshold, no maps, pictures, how many lie above, share found
        [0.05000000074505806, 18.0, nan, 19.0, 0.0, 0.5]
    """
    tables = {}
    for name, scores in good.images.items():
        maps = scores if good.maps is None else good.maps
        if len(scores) == 0 or len(maps) != len(scores) or not (scores.isfinite().all() and maps.isfinite().all()):
            continue
        rows = []
        for rate in _list_rates(len(scores), wanted):
            threshold = find_threshold(scores, rate)
            pixel = torch.full_like(threshold, torch.nan) if good.maps is None else find_threshold(maps, rate)
            found = (anomalous[name] > threshold).float().mean()  # NaN if there are none
            counts = scores.new_tensor(len(scores)), (scores > threshold).sum()
            rows.append(torch.stack((scores.new_tensor(rate), threshold, pixel, *counts, found)))
        tables[name] = torch.stack(rows)
    return tables


def _list_rates(images: int, wanted: float | None) -> list[float]:
    rates = {find_smallest_rate(images), *RATES, *([] if wanted is None else [wanted])}
    return sorted(rate for rate in rates if count_alarms(rate, images) >= 0)


def find_row(table: Tensor | None, rate: float) -> Tensor | None:
    """Find the row of a rate, ``(6,)``; ``None`` if there is none.

    Example:
        >>> table = tabulate(GoodScores({"only": torch.arange(19.0)}), {"only": torch.ones(1)})["only"]
        >>> find_row(table, 0.1)[IMAGE], find_row(table, 0.01)
        (tensor(17.), None)
    """
    rows = [] if table is None else [row for row in table if math.isclose(row[RATE], rate, rel_tol=1e-5)]
    return rows[0] if rows else None


def read_row(row: Tensor, image_score: float, pixel_score: float) -> RatedThresholds:
    """Read a row of a table.

    Pictures with equal scores may leave fewer above a threshold than the rate allows. The interval begins with those
    that there are, and ends with those that there might be.

    Args:
        row: ``(6,)``.
        image_score: Its threshold of image scores, on the scale of the outputs.
        pixel_score: Likewise of maps.
    """
    rate, images = _as_kept(float(row[RATE])), int(row[IMAGES])
    low, _ = find_interval(int(row[ABOVE]), images)
    _, high = find_interval(count_alarms(rate, images), images)
    return RatedThresholds(rate, image_score, pixel_score, images, (low, high), float(row[FOUND]))


def set_thresholds(found: Calibration, tables: Mapping[str, Tensor], rate: float) -> Calibration:
    """Replace thresholds by those for a rate; ranges stay. Scores without a table stay as they are."""
    rows = {name: find_row(table, rate) for name, table in tables.items()}
    images = {
        name: old if (row := rows.get(name)) is None else ScoreRange(row[IMAGE], old.low, old.high)
        for name, old in found.images.items()
    }
    row = next((row for row in rows.values() if row is not None), None)
    maps = found.maps if row is None or found.maps is None else found.maps._replace(threshold=row[PIXEL])
    return Calibration(images, maps)


def check_supported(rate: float, images: int, total: int | None = None) -> None:
    """Check that a number of held-out good pictures supports a rate.

    Args:
        rate: The false alarm rate.
        images: Number of good pictures that are held out.
        total: Number of good pictures, with those that are trained on, if it is known.

    Raises:
        ValueError: If it does not.

    Example:
        >>> check_supported(0.01, 20, 200)
        Traceback (most recent call last):
        ValueError: calibration.false_alarm_rate 0.01 needs 99 good pictures that are held out, and there are 20: if \
none of them is called bad, the rate lies between 0 and 17 % (95 %). Hold out more (--data.val_split_ratio 0.5), or \
give 0.048 or more.
    """
    if count_alarms(rate, images) >= 0:
        return
    needed = count_needed(rate)
    start = f"calibration.false_alarm_rate {rate:g} needs {needed} good pictures that are held out"
    if images == 0:
        raise ValueError(f"{start}, and there are none. Hold some out (--data.val_split_mode from_train).")
    ratio = None if total is None else math.ceil(100 * needed / total) / 100
    more = f"Hold out more (--data.val_split_ratio {ratio:g})" if ratio and ratio <= 0.5 else "Add pictures"  # noqa: PLR2004
    raise ValueError(
        f"{start}, and there are {images}: if none of them is called bad, the rate lies between 0 and "
        f"{100 * find_interval(0, images)[1]:.0f} % (95 %). {more}, or give {find_smallest_rate(images):g} or more."
    ) from None


def describe(points: Sequence[RatedThresholds], anomalies: str) -> str:
    """Write operating points as a few lines.

    Args:
        points: One or more.
        anomalies: What was to be found, such as ``"forged defects"``.

    Example:
        >>> print(describe([RatedThresholds(0.05, 0.7, 0.8, 20, (0.0, 0.168), 0.9)], "forged defects"))
        Operating points of 20 good pictures that were held out:
        false alarms  95 % interval  image score  pixel score  forged defects found
               5.0 %  0.0 to 16.8 %       0.7000       0.8000                  90 %
        For 1 % on average hold out 99; for an interval that ends at 1 %, hold out 368.
    """
    images = points[0].good_images
    heads = ("false alarms", "95 % interval", "image score", "pixel score", f"{anomalies} found")
    rows = [heads]
    for point in points:
        low, high = (100 * end for end in point.interval)
        found = "" if math.isnan(point.found) else f"{100 * point.found:.0f} %"
        shares = (f"{100 * point.false_alarm_rate:.1f} %", f"{low:.1f} to {high:.1f} %")
        rows.append((*shares, f"{point.image_score:.4f}", f"{point.pixel_score:.4f}", found))
    lines = ["  ".join(cell.rjust(len(head)) for cell, head in zip(row, heads, strict=True)) for row in rows]
    smaller = next((rate for rate in (0.01, 0.001) if rate < points[0].false_alarm_rate), None)
    more = []
    if smaller is not None:
        goal, needed, sure = f"{100 * smaller:g} %", count_needed(smaller), count_sure(smaller)
        more = [f"For {goal} on average hold out {needed}; for an interval that ends at {goal}, hold out {sure}."]
    return "\n".join([f"Operating points of {images} good pictures that were held out:", *lines, *more])
