"""Segmentation metrics that anomalib lacks, as torchmetrics and as anomalib metrics.

``IoU``, ``BestIoU``, ``IoUCurve``, ``IoUCurveArea`` and ``AUPRO`` take anomalib's batches; classes whose names begin
with ``Binary`` take tensors, and so do the functions.
"""

from anomalib_anoseg.metrics.aupro import AUPRO
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
    "AUPRO",
    "BestIoU",
    "BinaryBestIoU",
    "BinaryIoUCurve",
    "BinaryIoUCurveArea",
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
