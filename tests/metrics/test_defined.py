"""Where a metric is undefined it is NaN, with a reason, and neither 0, the worst, nor 1, the best value."""

import math
import warnings

import anomalib.metrics
import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_anoseg.metrics import AUROC, IoU, PerDefect, segmentation_evaluator

RANKINGS = {"image_AUROC", "pixel_AUROC", "pixel_AUPR", "pixel_AUPRO"}


def make_batch(labels, masks=True, spoil=None, empty=False, full=False):
    """Images of which the anomalous ones have a bright square, found perfectly; `spoil` replaces a score."""
    label = torch.tensor(labels, dtype=torch.bool)
    mask = torch.zeros(len(label), 16, 16, dtype=torch.bool)
    mask[label, 4:8, 4:8] = not empty
    mask |= full
    score, maps = label * 0.8 + 0.1, mask * 0.8 + 0.1
    if spoil is not None:
        score[0], maps[0, 0, 0] = spoil, spoil
    return ImageBatch(
        image=torch.zeros(len(label), 3, 16, 16),
        image_path=[f"test/{'crack' if bad else 'good'}/{n}.png" for n, bad in enumerate(label.tolist())],
        pred_score=score,
        pred_label=score > 0.5,
        gt_label=label,
        anomaly_map=maps,
        pred_mask=maps > 0.5,
        gt_mask=mask if masks else None,
    )


def evaluate(*batches):
    """Compute all metrics of a test; return values and warnings by name."""
    values, reasons = {}, {}
    for metric in segmentation_evaluator().test_metrics:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for batch in batches:
                metric.update(batch)
            values[metric.name] = metric.compute()
        reasons[metric.name] = [str(warning.message) for warning in caught]
    return {name: None if value is None else value.item() for name, value in values.items()}, reasons


def undefined(values):
    return {name for name, value in values.items() if value is not None and math.isnan(value)}


def test_what_is_defined_is_anomalibs_and_says_nothing():
    values, reasons = evaluate(make_batch([0, 1]), make_batch([0, 1]))
    assert undefined(values) == set()
    assert values["image_AUROC"] == values["pixel_BestIoU"] == 1
    assert not any(reasons.values())


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_end_as_nan(spoil):
    values, reasons = evaluate(make_batch([0, 1]), make_batch([1, 1], spoil=spoil))
    assert undefined(values) == set(values)
    assert reasons["image_F1Score"] == ["image_F1Score is NaN: 1 scores of images are NaN or infinite."]
    assert reasons["pixel_IoU"] == ["pixel_IoU is NaN: 1 scores of pixels are NaN or infinite."]


def test_anomalib_calls_a_model_perfect_whose_scores_are_all_nan():
    metric = anomalib.metrics.AUROC(fields=["pred_score", "gt_label"])
    batch = make_batch([1, 1, 0, 0])  # the host ranks NaN in the order of the files
    batch.pred_score = torch.full((4,), float("nan"))
    metric.update(batch)
    assert metric.compute() == 1, "no longer needed"


def test_good_images_alone_leave_everything_undefined():
    values, reasons = evaluate(make_batch([0, 0]))
    assert undefined(values) == set(values)
    assert reasons["image_AUROC"] == ["image_AUROC is NaN: no images are anomalous."]
    assert reasons["pixel_AUPRO"] == ["pixel_AUPRO is NaN: no pixels are anomalous."]


def test_anomalous_images_alone_leave_the_ranking_of_images_undefined():
    values, reasons = evaluate(make_batch([1, 1]))
    assert undefined(values) == {"image_AUROC"}
    assert reasons["image_AUROC"] == ["image_AUROC is NaN: no images are normal."]


def test_empty_and_full_masks_leave_metrics_of_pixels_undefined():
    values, _ = evaluate(make_batch([0, 1], empty=True))
    assert undefined(values) == {name for name in values if name.startswith("pixel")}
    values, reasons = evaluate(make_batch([1, 1], full=True))
    assert undefined(values) == RANKINGS
    assert reasons["pixel_AUROC"] == ["pixel_AUROC is NaN: no pixels are normal."]


def test_without_masks_metrics_of_pixels_have_no_value():
    values, _ = evaluate(make_batch([0, 1], masks=False))
    assert {name for name, value in values.items() if value is None} == {
        name for name in values if name.startswith("pixel")
    }


def test_defects_are_judged_alike():
    ranking = PerDefect(AUROC(fields=["pred_score", "gt_label"]))
    ranking.update(make_batch([1, 1]))
    with pytest.warns(UserWarning, match="AUROC is NaN: no images are normal"):
        assert ranking.compute()["crack"].isnan()
    ranking.update(make_batch([0]))
    assert ranking.compute() == {"crack": 1}
    overlap = PerDefect(IoU(fields=["pred_mask", "gt_mask"]))
    overlap.update(make_batch([0, 1], spoil=float("nan")))
    with pytest.warns(UserWarning, match="IoU is NaN: 1 scores of pixels are NaN or infinite"):
        assert overlap.compute()["crack"].isnan()
