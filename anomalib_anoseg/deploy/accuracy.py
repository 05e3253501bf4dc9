"""Accuracy of an exported form of a model: the board's figures on the test images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryJaccardIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anomalib_anoseg.deploy.pictures import LabelledPictures
    from anomalib_anoseg.deploy.runtimes import Runtime

__all__ = ["measure_accuracy"]

THRESHOLD = 0.5  # of anomalib's normalised maps


def measure_accuracy(
    runtime: Runtime, batches: Iterable[LabelledPictures], advance: Callable[[int], object] = lambda _: None
) -> dict[str, Any]:
    """Predict test images and compare with the ground truth.

    Args:
        runtime (Runtime): A loaded model.
        batches (Iterable[LabelledPictures]): The test images.
        advance (Callable[[int], object]): Called with the number of images of each finished batch.

    Returns:
        dict[str, Any]: ``image_AUROC``, ``pixel_AUROC``, ``pixel_AP`` and ``pixel_IoU`` (at threshold 0.5), each in
        ``[0, 1]`` or ``None`` where it is not defined, as without both labels or with a score that is NaN, and the
        number of ``images``.
    """
    by_image = MetricCollection({"image_AUROC": BinaryAUROC()})
    by_pixel = MetricCollection({
        "pixel_AUROC": BinaryAUROC(),
        "pixel_AP": BinaryAveragePrecision(),
        "pixel_IoU": BinaryJaccardIndex(THRESHOLD),
    })
    seen, labels, marks, is_finite = 0, set[int](), set[int](), True
    for batch in batches:
        prediction = runtime.predict(batch.image.numpy())
        by_image.update(torch.from_numpy(prediction.pred_score), batch.label.int())
        is_finite = is_finite and all(np.isfinite(part).all() for part in prediction if part is not None)
        labels |= set(batch.label.unique().tolist())
        if prediction.anomaly_map is not None:
            by_pixel.update(torch.from_numpy(prediction.anomaly_map[:, 0]), batch.mask.int())
            marks |= set(batch.mask.unique().tolist())
        seen += len(batch.label)
        advance(len(batch.label))
    figures = _compute(by_image, is_defined=len(labels) > 1) | _compute(by_pixel, is_defined=len(marks) > 1)
    return {**(figures if is_finite else dict.fromkeys(figures, None)), "images": seen}


def _compute(metrics: MetricCollection, *, is_defined: bool) -> dict[str, float | None]:
    """Compute metrics; all are ``None`` unless there are images, or pixels, of both kinds."""
    if not is_defined:
        return dict.fromkeys(map(str, metrics), None)
    return {name: value.item() for name, value in metrics.compute().items()}
