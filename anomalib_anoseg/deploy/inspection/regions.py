"""Where a picture is anomalous: connected areas of the mask, in pixels of the picture.

They are made of runs, the marked pixels that lie side by side in a row. NumPy alone suffices for them: libraries that
label areas bring SciPy, too large for the environment at the line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["find_regions"]


class _Runs(NamedTuple):
    """Runs in reading order: row, first column, the column behind the last one, and number of the area."""

    row: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    area: NDArray[np.int64]


def find_regions(mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32]) -> list[dict[str, Any]]:
    """List the connected areas of a mask, of which the one with the highest peak is the first.

    Pixels that touch at a corner belong together. The first pixel of a row and of a column is 0.

    Args:
        mask: ``(H, W)`` bool.
        anomaly_map: ``(H, W)`` float32.

    Returns:
        For each area its ``box`` ``[left, top, right, bottom]``, of which right and bottom lie outside; ``area`` in
        pixels; ``centroid`` ``[x, y]``; ``peak``, its highest score; and ``peak_at`` ``[x, y]``, where that is.

    Example:
        >>> scores = np.array([[0.1, 0.7, 0.9], [0.1, 0.1, 0.1]], np.float32)
        >>> find_regions(scores > 0.5, scores)
        [{'box': [1, 0, 3, 1], 'area': 2, 'centroid': [1.5, 0.0], 'peak': 0.9, 'peak_at': [2, 0]}]
    """
    if not mask.any():
        return []
    runs = _find_runs(mask)
    length = runs.right - runs.left
    size = np.bincount(runs.area, length)
    x = np.bincount(runs.area, length * (runs.left + runs.right - 1) / 2) / size
    y = np.bincount(runs.area, length * runs.row) / size
    box = [_of_areas(np.minimum, values, runs.area) for values in (runs.left, runs.row)]
    box += [_of_areas(np.maximum, values, runs.area) for values in (runs.right, runs.row + 1)]
    peak, peak_at = _find_peaks(mask, anomaly_map, runs)
    regions = [
        {
            "box": [int(side[index]) for side in box],
            "area": int(size[index]),
            "centroid": [round(float(x[index]), 2), round(float(y[index]), 2)],
            "peak": float(str(peak[index])),
            "peak_at": peak_at[index],
        }
        for index in range(len(size))
    ]
    return sorted(regions, key=lambda region: -region["peak"])


def _find_runs(mask: NDArray[np.bool_]) -> _Runs:
    """Find the runs of a mask, and number the areas that they form in reading order."""
    width = mask.shape[1] + 1
    edges = np.flatnonzero(np.diff(np.pad(mask, ((0, 0), (1, 1))), axis=1))
    starts, ends = edges[::2], edges[1::2]
    # A run touches those of the next row that begin at or before its end, and end at or behind its start.
    first, last = np.searchsorted(ends, starts + width), np.searchsorted(starts, ends + width, side="right")
    upper = np.repeat(np.arange(len(starts)), last - first)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(last - first) - last, last - first)
    # Each run names an earlier one of its area; in the end all name the first.
    root = np.arange(len(starts))
    while (root[upper] != root[lower]).any():
        earlier = np.minimum(root[upper], root[lower])
        for touching in (upper, lower):
            np.minimum.at(root, root[touching], earlier)
        while (root != root[root]).any():
            root = root[root]
    row = starts // width
    return _Runs(row, starts - row * width, ends - row * width, np.unique(root, return_inverse=True)[1])


def _of_areas(extreme: np.ufunc, values: NDArray[Any], area: NDArray[np.int64]) -> NDArray[Any]:
    """Find the least or the largest value of each area."""
    found = values[np.unique(area, return_index=True)[1]]
    extreme.at(found, area, values)
    return found


def _find_peaks(
    mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32], runs: _Runs
) -> tuple[NDArray[np.float32], list[list[int]]]:
    """Find the highest score of each area, and the first pixel that has it."""
    scores, length = anomaly_map[mask], runs.right - runs.left  # in reading order, so run by run
    peak = _of_areas(np.maximum, np.maximum.reduceat(scores, np.cumsum(length) - length), runs.area)
    area = np.repeat(runs.area, length)
    highest = np.flatnonzero(scores == peak[area])
    first = highest[np.unique(area[highest], return_index=True)[1]]
    y, x = np.divmod(np.flatnonzero(mask)[first], mask.shape[1])
    return peak, np.stack([x, y], axis=1).tolist()
