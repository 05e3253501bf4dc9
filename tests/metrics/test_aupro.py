"""What we change about anomalib's AUPRO."""

import anomalib.metrics
import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_anoseg.metrics import AUPRO

FIELDS = {"fields": ["anomaly_map", "gt_mask"], "strict": False}


def make_batch(is_anomalous=True):
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, 2:6, 3:9] = mask[1, 8:12, 8:12] = is_anomalous
    return ImageBatch(
        image=torch.zeros(2, 3, 16, 16), anomaly_map=torch.rand(2, 16, 16) * 0.6 + mask * 0.4, gt_mask=mask
    )


def test_value_is_anomalibs():
    batch, ours, theirs = make_batch(), AUPRO(**FIELDS), anomalib.metrics.AUPRO(**FIELDS)
    ours.update(batch)
    theirs.update(batch)
    assert 0.5 < ours.compute() == theirs.compute()


def test_checkpoints_do_not_depend_on_it():
    assert list(anomalib.metrics.AUPRO(**FIELDS).state_dict()) == ["fpr_limit"], "no longer needed"
    assert AUPRO(**FIELDS, fpr_limit=0.1).state_dict() == {}
    assert AUPRO(**FIELDS, fpr_limit=0.1).fpr_limit.item() == pytest.approx(0.1)


def test_a_limit_without_an_area_is_refused():
    with pytest.raises(ValueError, match="fpr_limit must lie within"):
        AUPRO(**FIELDS, fpr_limit=0.0)


def test_nothing_anomalous_is_undefined_and_no_masks_are_no_value():
    metric = AUPRO(**FIELDS)
    metric.update(ImageBatch(image=torch.zeros(2, 3, 16, 16), anomaly_map=torch.rand(2, 16, 16)))
    assert metric.compute() is None
    metric.update(make_batch(is_anomalous=False))
    assert metric.compute().isnan()
    metric.update(make_batch())
    assert metric.compute() > 0.5
