"""Segmentation metrics that anomalib lacks, as torchmetrics and as anomalib metrics.

``AUROC``, ``AUPR``, ``AUPRO``, ``F1Score``, ``IoU``, ``BestIoU``, ``IoUCurve`` and ``IoUCurveArea`` take anomalib's
batches; all but the curve are NaN, with a reason, where they are undefined. Classes whose names begin with ``Binary``
take tensors, and so do the functions.
"""

from anomalib_anoseg.metrics.aupro import AUPRO
from anomalib_anoseg.metrics.defined import AUPR, AUROC, F1Score
from anomalib_anoseg.metrics.evaluator import LabelAwareEvaluator, segmentation_evaluator
from anomalib_anoseg.metrics.functional import binary_best_iou, binary_iou, binary_iou_curve, binary_iou_curve_area
from anomalib_anoseg.metrics.iou import (
    BestIoU,
    BinaryBestIoU,
    BinaryIoUCurve,
    BinaryIoUCurveArea,
    IoU,
    IoUCurve,
    IoUCurveArea,
)
from anomalib_anoseg.metrics.per_defect import PerDefect

__all__ = [
    "AUPR",
    "AUPRO",
    "AUROC",
    "BestIoU",
    "BinaryBestIoU",
    "BinaryIoUCurve",
    "BinaryIoUCurveArea",
    "F1Score",
    "IoU",
    "IoUCurve",
    "IoUCurveArea",
    "LabelAwareEvaluator",
    "PerDefect",
    "binary_best_iou",
    "binary_iou",
    "binary_iou_curve",
    "binary_iou_curve_area",
    "segmentation_evaluator",
]
