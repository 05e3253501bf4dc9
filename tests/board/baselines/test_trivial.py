"""Trivial models: what they measure, and that they run wherever a model runs."""

import pytest
import torch
from anomalib.engine import Engine

from anomalib_anoseg.board.baselines.trivial import (
    ConstantMap,
    ConstantMapModel,
    FixedThreshold,
    ImageStatistics,
    ImageStatisticsModel,
)

STATISTICS = ["mean", "contrast", "edge_energy"]


def make_images(level=0.5, spread=0.1, count=6, size=16, seed=0):
    """Noise around grey levels that differ a little from image to image."""
    generator = torch.Generator().manual_seed(seed)
    levels = level + 0.01 * torch.randn(count, 1, 1, 1, generator=generator)
    return levels + spread * (1 + 0.05 * levels) * torch.randn(count, 3, size, size, generator=generator)


def make_model(statistic="mean", side="both", window=5, **arguments):
    model = ImageStatisticsModel(statistic, side, window)
    model.learn(make_images(**arguments))
    return model


@pytest.mark.parametrize(
    ("statistic", "reference"),
    [
        ("mean", lambda grey: grey.mean((1, 2))),
        ("contrast", lambda grey: grey.flatten(1).std(1, correction=0)),
        (
            "edge_energy",
            lambda grey: (grey.diff(dim=1).square().sum((1, 2)) + grey.diff(dim=2).square().sum((1, 2))) / 256,
        ),
    ],
)
def test_image_score_is_the_distance_in_standard_deviations(statistic, reference):
    known, new = make_images(count=20), make_images(level=0.6, spread=0.2, seed=1)
    model = ImageStatisticsModel(statistic, "high")
    for part in known.split(7):
        model.learn(part)
    values = reference(known.mean(1))
    torch.testing.assert_close(model.mean[0], values.mean())
    distance = (reference(new.mean(1)) - values.mean()) / values.std(correction=0)
    expected = 0.5 + 0.5 * (distance - 3) / (1 + (distance - 3).abs())
    torch.testing.assert_close(model(new).pred_score, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_map_marks_the_window_that_differs(statistic):
    model = make_model(statistic, side="high")
    image = make_images(count=1, seed=2)
    image[..., 3:10, 3:10] = 0.9 + 2 * (image[..., 3:10, 3:10] - 0.5)
    anomaly_map = model(image).anomaly_map
    assert anomaly_map.shape == (1, 1, 16, 16)
    assert anomaly_map[..., 5:8, 5:8].min() > anomaly_map[..., 12:, 12:].max()


def test_windows_at_the_edge_know_only_the_image():
    model = ImageStatisticsModel("mean", window=7)
    model.learn(torch.linspace(0.4, 0.6, 6).view(6, 1, 1, 1).expand(6, 3, 9, 9))
    anomaly_map = model(torch.full((1, 3, 9, 9), 0.5)).anomaly_map
    torch.testing.assert_close(anomaly_map, torch.full_like(anomaly_map, anomaly_map[0, 0, 4, 4].item()))


def test_sides():
    dark, same, bright = (make_images(level, count=1, seed=3) for level in (0.3, 0.5, 0.7))
    for side, expected in {"both": [1, 0, 1], "high": [0, 0, 1], "low": [1, 0, 0]}.items():
        model = make_model(side=side)
        assert [int(model(image).pred_score > 0.5) for image in (dark, same, bright)] == expected


def test_scores_stay_different_however_far_out():
    model = make_model(side="high")
    scores = torch.cat([model(make_images(level, count=1, seed=4)).pred_score for level in torch.linspace(0, 1, 9)])
    assert ((scores > 0) & (scores < 1)).all()
    assert (scores.diff() > 0).all()


def test_parts_of_the_data_add_up():
    images, whole, parts = make_images(count=7), ImageStatisticsModel(), ImageStatisticsModel()
    whole.learn(images)
    for part in images.split((1, 4, 2)):
        parts.learn(part)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())


def test_images_all_alike_are_no_division_by_zero():
    model = ImageStatisticsModel()
    model.learn(torch.full((3, 3, 16, 16), 0.5))
    score, anomaly_map = (model(torch.full((1, 3, 16, 16), level)) for level in (0.5, 0.6))
    assert score.pred_score < 0.5 < anomaly_map.pred_score


def test_constant_map():
    prediction = ConstantMapModel(0.3)(torch.rand(2, 3, 4, 5))
    assert prediction.pred_score.tolist() == pytest.approx([0.3, 0.3])
    torch.testing.assert_close(prediction.anomaly_map, torch.full((2, 1, 4, 5), 0.3))


@pytest.mark.parametrize(
    "model",
    [lambda: ImageStatistics("mean", window=5, **SMALL), lambda: ConstantMap(**SMALL)],
    ids=["ImageStatistics", "ConstantMap"],
)
def test_a_normal_training_set_is_enough(model, tiny_data, tmp_path):
    model = model()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    engine = Engine(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    engine.fit(model, datamodule=tiny_data)
    (values,) = engine.test(model, datamodule=tiny_data, verbose=False)
    if isinstance(model, ImageStatistics):
        assert model.model.seen.tolist() == [6, 6 * 64 * 64]  # one epoch of six images
        assert values["image_AUROC"] == 1  # bright squares leak
        assert values["pixel_AUROC"] > 0.9
    else:
        assert (values["image_AUROC"], values["pixel_AUROC"]) == (0.5, 0.5)
        share = 16 * 16 / (64 * 64) / 2  # of anomalous pixels
        assert values["pixel_IoU"] == values["pixel_BestIoU"] == pytest.approx(share)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    restored = type(model).load_from_checkpoint(checkpoint, weights_only=True)
    image = torch.rand(2, 3, 64, 64)
    for one, other in zip(model.eval()(image), restored.eval()(image), strict=True):
        assert torch.equal(one, other)


SMALL = {"image_size": (64, 64), "visualizer": False}


def test_threshold_is_fixed_and_scores_stay_as_they_are():
    model = ConstantMap(score=0.6, **SMALL)
    assert isinstance(model.post_processor, FixedThreshold)
    prediction = model.eval()(torch.rand(1, 3, 64, 64))
    assert prediction.pred_score.item() == pytest.approx(0.6)
    assert bool(prediction.pred_label)
    assert prediction.pred_mask.all()
    assert (model.post_processor.pixel_threshold, model.post_processor.image_threshold) == (0.5, 0.5)
    assert not ConstantMap(score=0.5, **SMALL).eval()(torch.rand(1, 3, 64, 64)).pred_label


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageStatistics("median"), "statistic must be one of mean, contrast, edge_energy; got 'median'"),
        (lambda: ImageStatistics(side="left"), "side must be one of both, high, low; got 'left'"),
        (lambda: ImageStatistics(window=4), "window must be an odd number of pixels, 1 or more, got 4"),
        (lambda: ImageStatistics(window=-1), "window must be an odd number of pixels, 1 or more, got -1"),
        (lambda: ImageStatistics(image_size=(0, 9)), r"image_size must be \(height, width\) .* got \(0, 9\)"),
        (lambda: ConstantMap(image_size=(9,)), r"image_size must be \(height, width\) .* got \(9,\)"),
        (lambda: ConstantMap(score=1.5), r"score must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_arguments_get_a_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
