"""Where a picture is anomalous: connected areas of the mask, in pixels of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.measure import label, regionprops

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["find_regions"]


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
    regions = regionprops(label(mask, connectivity=2), intensity_image=anomaly_map)
    return sorted(map(_describe, regions), key=lambda region: -region["peak"])


def _describe(region: Any) -> dict[str, Any]:  # noqa: ANN401 - of scikit-image
    top, left, bottom, right = region.bbox
    row, column = region.centroid
    scores = np.where(region.image, region.image_intensity, -np.inf)
    peak = np.unravel_index(scores.argmax(), scores.shape)
    return {
        "box": [left, top, right, bottom],
        "area": int(region.area),
        "centroid": [round(float(column), 2), round(float(row), 2)],
        "peak": float(str(scores[peak])),
        "peak_at": [left + int(peak[1]), top + int(peak[0])],
    }
