"""The break-down by type of defect."""

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUROC, AnomalibMetric
from torchmetrics import SumMetric
from torchmetrics.classification import BinaryAUROC

from anomalib_anoseg.metrics import BestIoU, IoUCurve, PerDefect

FOLDERS = ["good", "crack.v2", "good", "keys", "crack.v2", "good", "keys"]
PIXEL = {"fields": ["anomaly_map", "gt_mask"], "prefix": "pixel_"}
IMAGE = {"fields": ["pred_score", "gt_label"], "prefix": "image_"}


def make_batch(folders=FOLDERS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count, is_anomalous = len(folders), torch.tensor([folder != "good" for folder in folders])
    mask = (torch.rand(count, 8, 8, generator=generator) > 0.6) & is_anomalous[:, None, None]
    return ImageBatch(
        image=torch.zeros(count, 3, 8, 8),
        image_path=[f"set/test/{folder}/{index}.png" for index, folder in enumerate(folders)],
        gt_label=is_anomalous,
        gt_mask=mask,
        pred_score=torch.rand(count, generator=generator),
        anomaly_map=torch.rand(count, 8, 8, generator=generator) * 0.8 + mask * 0.2,
    )


def rows_of(batch, *folders):
    rows = [index for index, folder in enumerate(FOLDERS) if folder in folders]
    return ImageBatch(
        image=batch.image[rows],
        gt_label=batch.gt_label[rows],
        gt_mask=batch.gt_mask[rows],
        pred_score=batch.pred_score[rows],
        anomaly_map=batch.anomaly_map[rows],
    )


@pytest.mark.parametrize("with_good", [True, False])
@pytest.mark.parametrize("metric", [BestIoU(**PIXEL), AUROC(**PIXEL), AUPR(**PIXEL), AUROC(**IMAGE)])
def test_each_defect_is_judged_with_its_own_and_the_good_images(metric, with_good):
    if not with_good and metric.name == "image_AUROC":
        pytest.skip("a ranking of images needs good ones")
    batch, parts = make_batch(), PerDefect(metric, with_good)
    for row in range(len(FOLDERS)):  # in small batches
        parts.update(make_rows(batch, row))
    values = parts.compute()
    assert list(values) == ["crack.v2", "keys"]
    for defect, value in values.items():
        expected = metric.clone()
        expected.update(rows_of(batch, defect, *(["good"] if with_good else [])))
        torch.testing.assert_close(value, expected.compute())
    torch.testing.assert_close(parts.compute(), values)  # computing changes nothing
    assert parts.name == metric.name
    parts.reset()
    assert parts.compute() == {}


def make_rows(batch, row):
    rows = slice(row, row + 1)
    fields = ("image", "image_path", "gt_label", "gt_mask", "pred_score", "anomaly_map")
    return ImageBatch(**{field: getattr(batch, field)[rows] for field in fields})


def test_curves_break_down_as_well():
    parts = PerDefect(IoUCurve(**PIXEL, bins=8))
    parts.update(make_batch())
    iou, thresholds = parts.compute()["keys"]
    assert iou.shape == thresholds.shape == (9,)


def test_the_metric_given_stays_as_it_is():
    metric = BestIoU(**PIXEL)
    PerDefect(metric).update(make_batch())
    assert metric.update_count == 0


@pytest.mark.parametrize("missing", ["image_path", "gt_label"])
def test_batches_must_say_what_they_hold(missing):
    batch = make_batch()
    setattr(batch, missing, None)
    with pytest.raises(ValueError, match=f"The batch has no {missing}, which the break-down by defect needs"):
        PerDefect(BestIoU(**PIXEL)).update(batch)


def test_missing_fields_are_the_metrics_business():
    batch = make_batch()
    batch.gt_mask = None
    with pytest.raises(ValueError, match="gt_mask"):
        PerDefect(BestIoU(**PIXEL)).update(batch)
    parts = PerDefect(BestIoU(**PIXEL, strict=False))
    parts.update(batch)
    assert parts.compute() == {"crack.v2": None, "keys": None}


class Unmergeable(AnomalibMetric, SumMetric):
    full_state_update = True


def test_only_metrics_that_can_be_broken_down_are_taken():
    with pytest.raises(TypeError, match=r"must be an anomalib metric, got BinaryAUROC; .*create_anomalib_metric"):
        PerDefect(BinaryAUROC())
    with pytest.raises(ValueError, match="states that can be merged; Unmergeable does not"):
        PerDefect(Unmergeable(fields=["pred_score"]))
