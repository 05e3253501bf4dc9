"""The IoU curve, its best value and its area, streamed over all images."""

from typing import Any

import torch
from anomalib.metrics import AnomalibMetric
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryJaccardIndex
from torchmetrics.utilities.plot import plot_curve

from anomalib_anoseg.metrics.defined import Defined
from anomalib_anoseg.metrics.functional import (
    DEFAULT_BINS,
    area_compute,
    check_bins,
    iou_curve_compute,
    score_histogram,
)


class ScoreHistogram(Metric):
    """State of the metrics below: how many normal and anomalous pixels have scores in which bin.

    The state has one size, whatever the number of images, and is summed over processes.

    Args:
        bins: Number of bins of ``[0, 1]``, a power of two.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``bins`` is no power of two.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    normal: Tensor
    anomalous: Tensor

    def __init__(self, bins: int = DEFAULT_BINS, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        check_bins(bins)
        self.bins = bins
        self.add_state("normal", torch.zeros(bins + 1, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("anomalous", torch.zeros(bins + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count scores and truth of one shape, see :func:`anomalib_anoseg.metrics.binary_iou_curve`.

        Raises:
            ValueError: If shapes or dtypes do not fit.
        """  # noqa: DOC502 - the histogram raises
        normal, anomalous = score_histogram(preds, target, self.bins)
        self.normal += normal
        self.anomalous += anomalous

    def plot(self, val: Any = None, ax: Any = None) -> Any:  # noqa: ANN401
        """Plot the value, this metric's or those that ``compute`` gave, with matplotlib: figure and axes."""
        return self._plot(val, ax)

    def _curve(self) -> tuple[Tensor, Tensor]:
        return iou_curve_compute(torch.stack((self.normal, self.anomalous)))


class BinaryIoUCurve(ScoreHistogram):
    """IoU of anomalous pixels of all images together, against the threshold.

    ``compute`` gives IoU and thresholds, ``(bins + 1,)`` each; see
    :func:`anomalib_anoseg.metrics.binary_iou_curve` for what a score, a bin and NaN mean.

    Args:
        bins: Number of bins of ``[0, 1]``, a power of two.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``bins`` is no power of two.

    Example:
        >>> curve = BinaryIoUCurve(bins=4)
        >>> curve.update(torch.tensor([[0.1, 0.4], [0.6, 0.9]]), torch.tensor([[0, 1], [0, 1]]))
        >>> iou, thresholds = curve.compute()
        >>> iou
        tensor([0.5000, 0.6667, 0.3333, 0.5000, 0.0000])
        >>> thresholds[iou.argmax()]
        tensor(0.2500)
    """

    def compute(self) -> tuple[Tensor, Tensor]:
        """Compute IoU and thresholds."""
        return self._curve()

    def plot(self, val: tuple[Tensor, Tensor] | None = None, ax: Any = None) -> Any:  # noqa: ANN401
        """Plot the curve, this metric's or one that ``compute`` gave, with matplotlib: figure and axes."""
        iou, thresholds = val or self.compute()
        return plot_curve(
            (thresholds.cpu(), iou.cpu(), thresholds.cpu()),
            ax=ax,
            label_names=("Threshold", "IoU"),
            name=type(self).__name__,
        )


class BinaryBestIoU(ScoreHistogram):
    """Highest IoU that any threshold, one for all images, reaches.

    Args:
        bins: Number of bins of ``[0, 1]``, a power of two.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``bins`` is no power of two.

    Example:
        >>> BinaryBestIoU()(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0, 1, 0, 1]))
        tensor(0.6667)
    """

    def compute(self) -> Tensor:
        """Compute the IoU; NaN if no pixel is anomalous in truth."""
        return self._curve()[0].max()


class BinaryIoUCurveArea(ScoreHistogram):
    """Area under the IoU curve, between 0 and 1.

    Args:
        bins: Number of bins of ``[0, 1]``, a power of two.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``bins`` is no power of two.

    Example:
        >>> BinaryIoUCurveArea()(torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0, 1, 0, 1]))
        tensor(0.4666)
    """

    def compute(self) -> Tensor:
        """Compute the area; NaN if no pixel is anomalous in truth."""
        return area_compute(*self._curve())


class IoU(Defined, AnomalibMetric, BinaryJaccardIndex):  # type: ignore[misc]
    """Intersection over union of the anomalous pixels of all images, at the model's own threshold.

    NaN, with a reason, where no pixel is anomalous in truth.

    Args:
        fields: Names of the prediction and of the truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`torchmetrics.classification.BinaryJaccardIndex`.

    Example:
        >>> IoU(fields=["pred_mask", "gt_mask"], prefix="pixel_").name
        'pixel_IoU'
    """

    needs_normal = False


class BestIoU(Defined, AnomalibMetric, BinaryBestIoU):  # type: ignore[misc]
    """Highest IoU that any threshold, one for all images, reaches: :class:`BinaryBestIoU` for anomalib's batches.

    Args:
        fields: Names of the scores and of the truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`BinaryBestIoU`.

    Example:
        >>> BestIoU(fields=["anomaly_map", "gt_mask"], prefix="pixel_").name
        'pixel_BestIoU'
    """

    needs_normal = False


class IoUCurve(AnomalibMetric, BinaryIoUCurve):  # type: ignore[misc]
    """IoU against the threshold: :class:`BinaryIoUCurve` for anomalib's batches.

    Its value is no number, so an ``Evaluator`` cannot log it; update it from a callback.

    Args:
        fields: Names of the scores and of the truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`BinaryIoUCurve`.

    Example:
        >>> IoUCurve(fields=["anomaly_map", "gt_mask"], prefix="pixel_").name
        'pixel_IoUCurve'
    """


class IoUCurveArea(Defined, AnomalibMetric, BinaryIoUCurveArea):  # type: ignore[misc]
    """Area under the IoU curve: :class:`BinaryIoUCurveArea` for anomalib's batches.

    Args:
        fields: Names of the scores and of the truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`BinaryIoUCurveArea`.

    Example:
        >>> IoUCurveArea(fields=["anomaly_map", "gt_mask"], prefix="pixel_").name
        'pixel_IoUCurveArea'
    """

    needs_normal = False
