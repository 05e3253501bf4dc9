"""IoU as an anomalib metric."""

import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_anoseg.metrics import IoU


def test_iou_over_all_images():
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[0, :2] = True
    prediction = torch.zeros(2, 4, 4, dtype=torch.bool)
    prediction[0, 1:3] = True
    prediction[1, 0, 0] = True
    metric = IoU(fields=["pred_mask", "gt_mask"], prefix="pixel_")
    for index in range(2):
        rows = slice(index, index + 1)
        batch = ImageBatch(image=torch.rand(1, 3, 4, 4), gt_mask=truth[rows], pred_mask=prediction[rows])
        metric.update(batch)
    assert metric.name == "pixel_IoU"
    assert metric.compute().item() == pytest.approx(4 / 13)
