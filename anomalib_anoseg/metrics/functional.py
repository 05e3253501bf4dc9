"""Intersection over union (IoU) of anomalous pixels at all thresholds, from a histogram of scores.

A pixel is called anomalous where its score exceeds the threshold, as in anomalib, so that the curve at 0.5 is the IoU
of anomalib's masks. Thresholds are the edges of equal bins of ``[0, 1]``. Scores outside are clamped, and NaN
counts as 0, never anomalous, because no comparison with NaN is true.

torchmetrics' binned curves hold the same counts, but compare every score with every threshold, so time or memory grows
with their product. A histogram reads each score once.
"""

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index as binary_iou

from anomalib_anoseg.common.checks import check_finite

__all__ = ["DEFAULT_BINS", "binary_best_iou", "binary_iou", "binary_iou_curve", "binary_iou_curve_area"]

DEFAULT_BINS = 1024


def binary_iou_curve(preds: Tensor, target: Tensor, bins: int = DEFAULT_BINS) -> tuple[Tensor, Tensor]:
    """Compute the IoU of anomalous pixels at each of evenly spaced thresholds.

    Args:
        preds: Scores in ``[0, 1]`` of any floating dtype, ``(...)``.
        target: Ground truth of the same shape, boolean or integer; non-zero is anomalous.
        bins: Number of bins, a power of two.

    Returns:
        IoU and thresholds, ``(bins + 1,)`` each, thresholds rising from 0 to 1. All IoUs are NaN if no pixel is
        anomalous in the ground truth.

    Raises:
        ValueError: If shapes, dtypes or ``bins`` do not fit.

    Example:
        >>> iou, thresholds = binary_iou_curve(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0, 1, 0, 1]), bins=4)
        >>> thresholds
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
        >>> iou
        tensor([0.5000, 0.6667, 0.3333, 0.5000, 0.0000])
    """  # noqa: DOC502 - the histogram raises
    check_bins(bins)
    return iou_curve_compute(score_histogram(preds, target, bins))


def binary_best_iou(preds: Tensor, target: Tensor, bins: int = DEFAULT_BINS) -> Tensor:
    """Compute the highest IoU over all thresholds: that of the best possible threshold, exact to the bin.

    Args:
        preds: See :func:`binary_iou_curve`.
        target: See :func:`binary_iou_curve`.
        bins: See :func:`binary_iou_curve`.

    Raises:
        ValueError: If shapes, dtypes or ``bins`` do not fit.

    Example:
        >>> binary_best_iou(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0, 1, 0, 1]))
        tensor(0.6667)
    """  # noqa: DOC502 - the histogram raises
    return binary_iou_curve(preds, target, bins)[0].max()


def binary_iou_curve_area(preds: Tensor, target: Tensor, bins: int = DEFAULT_BINS) -> Tensor:
    """Compute the area under the IoU curve: high if a map is right at any threshold.

    Args:
        preds: See :func:`binary_iou_curve`.
        target: See :func:`binary_iou_curve`.
        bins: See :func:`binary_iou_curve`.

    Raises:
        ValueError: If shapes, dtypes or ``bins`` do not fit.

    Example:
        >>> binary_iou_curve_area(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0, 1, 0, 1]))
        tensor(0.4666)
    """  # noqa: DOC502 - the histogram raises
    return area_compute(*binary_iou_curve(preds, target, bins))


def check_bins(bins: int) -> None:
    """Check a number of bins.

    Raises:
        ValueError: If it is not a power of two: only with one is the product with a score exact.
    """
    check_finite("bins", bins)
    if bins < 2 or bins & (bins - 1):  # noqa: PLR2004
        raise ValueError(f"bins must be a power of two, 2 or more, such as {DEFAULT_BINS}; got {bins}.")


def score_histogram(preds: Tensor, target: Tensor, bins: int) -> Tensor:
    """Count the scores of normal and of anomalous pixels in each bin, without waiting for the device.

    Args:
        preds: See :func:`binary_iou_curve`.
        target: See :func:`binary_iou_curve`.
        bins: See :func:`binary_iou_curve`.

    Returns:
        Counts, ``(2, bins + 1)`` of int64. Cell ``k`` holds the scores that exceed threshold ``k - 1`` but not ``k``.

    Raises:
        ValueError: If shapes or dtypes do not fit.

    Example:
        >>> score_histogram(torch.tensor([0.0, 0.5, 0.6, 1.0]), torch.tensor([0, 0, 0, 1]), bins=2)
        tensor([[1, 1, 1],
                [0, 0, 1]])
    """
    if preds.shape != target.shape:
        raise ValueError(f"preds and target need the same shape, got {tuple(preds.shape)} and {tuple(target.shape)}.")
    if not preds.is_floating_point():
        raise ValueError(f"preds must be floating-point scores, got {preds.dtype}; for masks use IoU.")
    if target.is_floating_point():
        raise ValueError(f"target must be boolean or integer, got {target.dtype}; compare it with a threshold first.")
    scores = preds.detach().flatten()
    if scores.dtype != torch.float64:  # eight or eleven bits of mantissa cannot hold a bin's index
        scores = scores.float()
    cells = scores.clamp(0, 1).nan_to_num_(nan=0.0).mul_(bins).ceil_().long()
    cells = torch.where(target.flatten().bool(), cells + (bins + 1), cells)
    # torch.bincount would do, but makes the host wait for the largest cell.
    counts = torch.zeros(2 * (bins + 1), dtype=torch.long, device=preds.device)
    return counts.scatter_add_(0, cells, counts.new_ones(()).expand_as(cells)).view(2, -1)


def iou_curve_compute(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Compute IoU and thresholds, ``(bins + 1,)`` each, from the counts of :func:`score_histogram`."""
    bins = histogram.shape[1] - 1
    above = histogram.flip(1).cumsum(1).flip(1)[:, 1:]
    false, true = torch.cat((above, torch.zeros_like(above[:, :1])), 1)
    positives = histogram[1].sum()
    iou = torch.where(positives > 0, true.float() / (positives + false), torch.nan)
    return iou, torch.arange(bins + 1, dtype=torch.float32, device=histogram.device) / bins


def area_compute(iou: Tensor, thresholds: Tensor) -> Tensor:
    """Integrate an IoU curve over its thresholds."""
    return torch.trapezoid(iou, thresholds)
