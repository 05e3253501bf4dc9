"""Segmentation metrics that anomalib lacks."""

from anomalib.metrics import AnomalibMetric
from torchmetrics.classification import BinaryJaccardIndex


class IoU(AnomalibMetric, BinaryJaccardIndex):  # type: ignore[misc]
    """Intersection over union of the anomalous pixels of all images, at the model's own threshold.

    Args:
        fields: Names of the prediction and of the truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`torchmetrics.classification.BinaryJaccardIndex`.

    Example:
        >>> IoU(fields=["pred_mask", "gt_mask"], prefix="pixel_").name
        'pixel_IoU'
    """
