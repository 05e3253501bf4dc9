"""AnoSeg's detector: its networks, losses and score, against published sizes and values worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from anomalib_anoseg.models.anoseg.detector import DetectorModel, DiscriminatorOutput
from anomalib_anoseg.models.anoseg.detector_loss import DetectorLoss
from anomalib_anoseg.models.anoseg.networks import Discriminator
from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def tiny(side=64, **arguments):
    return DetectorModel(width=0.125, side=side, **arguments)


def batch(*size):
    return torch.rand(2, 3, *size), torch.rand(2, 1, *size)


# ---------------------------------------------------------------------------------------------------------- networks


def test_published_sizes():
    detector = DetectorModel()
    assert count(detector.encoder, detector.decoder) == pytest.approx(11.18e6 + 10.3e6, rel=0.005)
    assert count(detector.discriminator) == pytest.approx(12.2e6, rel=0.01)
    assert next(detector.encoder.parameters()).shape[1] == 4, "colours and map, no coordinates"
    with torch.no_grad():
        features = detector.eval().features(torch.rand(1, 3, 256, 256), torch.rand(1, 1, 256, 256))
    assert features.flatten(1).shape == (1, 512)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (128, 200)])
def test_any_size(size):
    detector, (image, anomaly_map) = tiny(), batch(*size)
    reconstruction = detector(image, anomaly_map)
    assert reconstruction.shape == image.shape
    assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
    judged = detector.judge(image, anomaly_map)
    assert (judged.features.shape[2:], judged.logits.shape) == ((2, 2), (2,))
    assert detector.eval().score(image, anomaly_map).shape == (2,)


def test_every_parameter_gets_a_gradient():
    detector, (image, anomaly_map) = tiny(side=128), batch(128, 128)
    detector.judge(detector(image, anomaly_map), anomaly_map).logits.sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("side", "layers", "least"), [(64, 5, 64), (127, 5, 64), (128, 6, 64), (256, 7, 128)])
def test_layers_follow_from_the_size(side, layers, least):
    detector = tiny(side)
    assert (len(detector.discriminator.layers), detector.min_side) == (layers, least)
    detector.features(*batch(least, least))
    with pytest.raises(ValueError, match=rf"sides of {least} pixels or more, got \(2, 3, {least}, {least - 1}\)"):
        detector.features(*batch(least, least - 1))


@pytest.mark.parametrize("size", [(128, 128), (160, 224), (264, 328)])
def test_features_of_larger_images_are_pooled(size):
    fixed, adaptive = Discriminator(0.125, side=64).eval(), Discriminator(0.125).eval()
    adaptive.layers = fixed.layers
    adaptive.is_fixed = True
    pair = torch.rand(2, 4, *size)
    maps = pair
    for layer in fixed.layers:
        maps = layer(maps)
    torch.testing.assert_close(fixed.features(pair), F.adaptive_avg_pool2d(maps, 2))


# ------------------------------------------------------------------------------------------------------------- score


def test_score(monkeypatch):
    detector, (image, anomaly_map) = tiny(beta=0.5), batch(64, 64)
    image[1] = 0
    anomaly_map[0], anomaly_map[1] = 0.2, 0.6
    # The reconstruction is black, and the features are the mean of the map and twice that of the image.
    monkeypatch.setattr(detector, "forward", lambda image, _: torch.zeros_like(image))
    means = lambda x: x.mean((1, 2, 3))  # noqa: E731
    monkeypatch.setattr(detector, "features", lambda x, a: torch.stack((means(a), 2 * means(x)), 1)[..., None, None])
    mean, square = image[0].mean(), image[0].square().mean()
    first = (0.2**2 + (2 * mean) ** 2) / 2 + 0.5 * square
    assert detector.score(image, anomaly_map).tolist() == pytest.approx([first.item(), 0.6**2 / 2], rel=1e-5)


def test_perfect_reconstruction_of_a_normal_image_scores_zero(monkeypatch):
    detector, (image, _) = tiny().eval(), batch(64, 64)
    monkeypatch.setattr(detector, "forward", lambda image, _: image)
    assert detector.score(image, torch.zeros(2, 1, 64, 64)).tolist() == [0, 0]


def test_score_is_float32_and_finite_under_low_precision():
    model = AnoSegModel(width=0.125)
    model.detector, model.image_score = tiny(), "detector"
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        score = model.eval()(torch.rand(2, 3, 64, 64)).pred_score
    assert score.dtype == torch.float32
    assert score.isfinite().all() and score.min() > 0


def test_image_score_is_a_choice():
    model, image = AnoSegModel(width=0.125, averaging=0.9), torch.rand(2, 3, 64, 64)
    model.detector = tiny()
    by_map = model.eval()(image)
    model.image_score = "detector"
    by_detector = model(image)
    assert torch.equal(by_map.anomaly_map, by_detector.anomaly_map)
    assert torch.equal(by_detector.pred_score, model.detector.score(image, by_map.anomaly_map))
    assert not torch.allclose(by_map.pred_score, by_detector.pred_score)


@pytest.mark.parametrize(
    ("score", "parts"), [("map", {"segmenter", "region"}), ("detector", {"segmenter", "region", "detector"})]
)
def test_export_keeps_what_the_score_needs(score, parts):
    model, image = AnoSegModel(width=0.125, averaging=0.9), torch.rand(2, 3, 64, 64)
    model.detector, model.image_score = tiny(), score
    before = model.eval()(image)
    model.drop_training_parts()
    assert {name for name, child in model.named_children() if child is not None} == parts
    assert not [name for name in model.state_dict() if "head" in name and "discriminator" in name]
    assert torch.equal(model(image).pred_score, before.pred_score)


def test_frozen_networks_stay_in_evaluation_mode():
    model = AnoSegModel(width=0.125, averaging=0.9)
    model.detector = tiny()
    model.update_average(torch.rand(4, 3, 64, 64), 1)
    model.freeze(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert {name for name, part in model.named_children() if part.training} == {"detector"}
    assert torch.equal(model.predict_map(torch.ones(2, 3, 64, 64)), model.eval()(torch.ones(2, 3, 64, 64)).anomaly_map)
    model.train()
    assert {name for name, part in model.named_children() if part.training} == {"detector"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.freeze(False)
    assert all(part.training for part in model.children())


# ------------------------------------------------------------------------------------------------------------ losses


def logits(*probabilities):
    return torch.logit(torch.tensor(probabilities))


def test_discriminator_takes_reconstructions_and_forgeries_for_fakes():
    terms = DetectorLoss(adversarial_weight=2, classification_weight=3).discriminator(
        logits(0.9), logits(0.2), logits(0.4)
    )
    adversarial, classification = -math.log(0.9) - math.log(0.8), -math.log(0.9) - math.log(0.6)
    assert terms.discriminator.item() == pytest.approx(adversarial, abs=1e-5)
    assert terms.classification.item() == pytest.approx(classification, abs=1e-5)
    assert terms.total.item() == pytest.approx(2 * adversarial + 3 * classification, abs=1e-5)


def test_generator_terms():
    loss = DetectorLoss(adversarial_weight=2, reconstruction_weight=3, feature_weight=5)
    image = torch.zeros(2, 3, 4, 4)
    reconstruction = torch.stack((torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.3)))
    features = torch.zeros(2, 6, 2, 2)
    found = torch.stack((torch.full((6, 2, 2), 0.5), torch.full((6, 2, 2), 1.0)))
    terms = loss.generator(image, reconstruction, features, DiscriminatorOutput(found, logits(0.2, 0.5)))
    adversarial = -(math.log(0.2) + math.log(0.5)) / 2
    # Squared distances of 24 values each: 24 * 0.25 and 24.
    expected = {"adversarial": adversarial, "reconstruction": 0.2, "feature": (6 + 24) / 2}
    assert {name: getattr(terms, name).item() for name in expected} == pytest.approx(expected, abs=1e-5)
    assert terms.total.item() == pytest.approx(2 * adversarial + 3 * 0.2 + 5 * 15, abs=1e-4)


def test_losses_are_float32_under_low_precision():
    half = torch.zeros(2, dtype=torch.bfloat16)
    image, features = torch.rand(2, 3, 4, 4).bfloat16(), torch.rand(2, 6, 2, 2).bfloat16()
    terms = (
        *DetectorLoss().discriminator(half, half, half),
        *DetectorLoss().generator(image, image, features, DiscriminatorOutput(features, half)),
    )
    assert {term.dtype for term in terms} == {torch.float32}
