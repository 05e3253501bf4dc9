"""IoU curve, best IoU and area against torchmetrics and a naive reference, and what their state costs."""

import copy
import pickle

import matplotlib as mpl
import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from torchmetrics.classification import BinaryJaccardIndex

from anomalib_anoseg.metrics import (
    BestIoU,
    BinaryBestIoU,
    BinaryIoUCurve,
    BinaryIoUCurveArea,
    IoU,
    IoUCurve,
    IoUCurveArea,
    binary_best_iou,
    binary_iou,
    binary_iou_curve,
    binary_iou_curve_area,
)

BINS = 64
MODULES = {BinaryIoUCurve: binary_iou_curve, BinaryBestIoU: binary_best_iou, BinaryIoUCurveArea: binary_iou_curve_area}
FIELDS = {"fields": ["anomaly_map", "gt_mask"], "prefix": "pixel_"}


def make_maps(count=3, dtype=torch.float32, seed=0):
    """Scores, a quarter of them on an edge of a bin, and truth."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 9, 11, generator=generator) > 0.7
    preds = torch.rand(count, 9, 11, generator=generator) * 0.8 + 0.2 * target
    on_edge = torch.rand(count, 9, 11, generator=generator) > 0.75
    return torch.where(on_edge, (preds * BINS).round() / BINS, preds).to(dtype), target


def naive_curve(preds, target, bins):
    preds, target = preds.double().numpy().ravel(), target.numpy().ravel().astype(bool)
    return np.array([
        ((preds > k / bins) & target).sum() / ((preds > k / bins) | target).sum() for k in range(bins + 1)
    ])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_curve_equals_the_naive_one(dtype):
    preds, target = make_maps(dtype=dtype)
    iou, thresholds = binary_iou_curve(preds, target, BINS)
    expected = naive_curve(preds, target, BINS)
    assert iou.dtype == torch.float32
    np.testing.assert_allclose(iou, expected, rtol=1e-6)
    np.testing.assert_array_equal(thresholds, np.linspace(0, 1, BINS + 1))
    assert binary_best_iou(preds, target, BINS).item() == pytest.approx(expected.max(), rel=1e-6)
    area = binary_iou_curve_area(preds, target, BINS).item()
    assert area == pytest.approx(np.mean((expected[1:] + expected[:-1]) / 2), rel=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.125, 0.5, 0.984375])
def test_curve_equals_torchmetrics_at_each_threshold(threshold):
    preds, target = make_maps()
    iou, thresholds = binary_iou_curve(preds, target, BINS)
    expected = BinaryJaccardIndex(threshold=threshold)(preds, target)
    torch.testing.assert_close(iou[thresholds == threshold], expected[None])
    torch.testing.assert_close(binary_iou(preds, target, threshold), expected)


@pytest.mark.parametrize("module", MODULES)
def test_batches_give_what_one_call_gives(module):
    preds, target = make_maps()
    metric = module(bins=BINS)
    for index in range(len(preds)):
        metric.update(preds[index], target[index])
    expected = MODULES[module](preds, target, BINS)
    torch.testing.assert_close(metric.compute(), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(metric)).compute(), expected)
    torch.testing.assert_close(copy.deepcopy(metric).compute(), expected)


@pytest.mark.parametrize("module", MODULES)
def test_merged_states_give_what_one_call_gives(module):
    preds, target = make_maps(4)
    whole, first, second = module(), module(), module()
    whole.update(preds, target)
    first.update(preds[:1], target[:1])
    second.update(preds[1:], target[1:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute())


@pytest.mark.parametrize("metric", [BestIoU, IoUCurve, IoUCurveArea])
def test_state_keeps_its_size_and_stays_out_of_checkpoints(metric):
    metric = metric(**FIELDS)
    sizes = []
    for seed in range(3):
        preds, target = make_maps(5, seed=seed)
        metric.update(ImageBatch(image=torch.zeros(5, 3, 9, 11), anomaly_map=preds, gt_mask=target))
        assert all(state.dtype == torch.int64 for state in metric.metric_state.values())
        sizes.append(len(pickle.dumps(metric)))
    assert sizes[0] == sizes[1] == sizes[2]
    assert metric.state_dict() == {}
    assert (metric.normal + metric.anomalous).sum() == 3 * 5 * 9 * 11


def test_update_never_waits_for_the_device(count_operations):
    preds, target = make_maps()
    metric = BinaryBestIoU()
    with count_operations() as counter:
        metric.update(preds, target)
    assert counter.operations > 0
    assert counter.synchronisations == 0


def test_gradients_are_not_kept():
    preds, target = make_maps()
    metric = BinaryBestIoU()
    metric.update(preds.requires_grad_(), target)
    assert not metric.compute().requires_grad


def test_scores_outside_go_to_the_nearer_end_and_nan_is_never_anomalous():
    strange = torch.tensor([-3.0, -torch.inf, 2.0, torch.inf, torch.nan])
    plain = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])
    target = torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(binary_iou_curve(strange, target), binary_iou_curve(plain, target))


def test_the_default_dtype_changes_nothing():
    preds, target = make_maps()
    expected = binary_iou_curve(preds, target)
    torch.set_default_dtype(torch.bfloat16)
    try:
        curve = binary_iou_curve(preds, target)
    finally:
        torch.set_default_dtype(torch.float32)
    for value, same in zip(curve, expected, strict=True):
        assert torch.equal(value, same)


def test_target_may_be_an_8_bit_mask():
    preds, target = make_maps()
    torch.testing.assert_close(
        binary_iou_curve(preds, target.byte() * 255, BINS), binary_iou_curve(preds, target, BINS)
    )


@pytest.mark.parametrize("module", [BinaryBestIoU, BinaryIoUCurveArea])
def test_nothing_anomalous_in_truth_is_undefined(module):
    metric = module()
    metric.update(torch.rand(10), torch.zeros(10, dtype=torch.bool))
    assert metric.compute().isnan()
    metric.update(torch.tensor([0.9]), torch.tensor([True]))
    assert not metric.compute().isnan()


def test_all_scores_equal():
    target = torch.arange(10) < 3
    assert binary_best_iou(torch.ones(10), target).item() == pytest.approx(0.3)
    assert binary_iou_curve_area(torch.ones(10), target).item() == pytest.approx(0.3, abs=1e-3)
    assert binary_best_iou(torch.zeros(10), target) == 0


@pytest.mark.parametrize("bins", [-4, 0, 1, 3, 1000])
def test_bins_must_be_a_power_of_two(bins):
    with pytest.raises(ValueError, match=f"bins must be a power of two, 2 or more, such as 1024; got {bins}"):
        binary_iou_curve(*make_maps(), bins)
    with pytest.raises(ValueError, match="bins must be a power of two"):
        BinaryBestIoU(bins=bins)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (torch.rand(2, 3), torch.zeros(3, 2).bool(), r"same shape, got \(2, 3\) and \(3, 2\)"),
        (
            torch.zeros(2).bool(),
            torch.zeros(2).bool(),
            "preds must be floating-point scores, got torch.bool; for masks",
        ),
        (torch.rand(2), torch.rand(2), "target must be boolean or integer, got torch.float32"),
    ],
)
def test_wrong_tensors_get_a_clear_error(preds, target, message):
    with pytest.raises(ValueError, match=message):
        BinaryIoUCurve().update(preds, target)


def test_curve_plots_itself():
    mpl.use("Agg")
    metric = BinaryIoUCurve(bins=BINS)
    metric.update(*make_maps())
    _, axes = metric.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Threshold", "IoU")
    torch.testing.assert_close(torch.tensor(axes.lines[0].get_ydata()), metric.compute()[0])


@pytest.mark.parametrize("module", [BinaryBestIoU, BinaryIoUCurveArea])
def test_values_plot_themselves(module):
    mpl.use("Agg")
    metric = module(bins=BINS)
    metric.update(*make_maps())
    _, axes = metric.plot()
    assert axes.lines[0].get_ydata() == [metric.compute()]


def test_masks_over_all_images():
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
