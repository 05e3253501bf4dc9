"""AnoSeg's losses against values worked out by hand."""

import math

import pytest
import torch

from anomalib_anoseg.models.anoseg.loss import AnoSegLoss, discriminator_loss, masked_reconstruction_loss


def logit(*probabilities):
    return torch.logit(torch.tensor(probabilities)).view(1, 1, 2, 2)


MASK = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)


def test_reconstruction_counts_normal_values_alone():
    image = torch.zeros(1, 3, 2, 2)
    reconstruction = torch.tensor([0.9, 0.1, 0.2, 0.3]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert masked_reconstruction_loss(reconstruction, image, MASK).item() == pytest.approx(0.2, abs=1e-5)


def test_reconstruction_without_normal_pixels_is_finite():
    image = torch.rand(1, 3, 2, 2)
    assert masked_reconstruction_loss(image + 1, image, torch.ones(1, 1, 2, 2)).item() == pytest.approx(0.0)


def test_adversarial_terms():
    real, fake = torch.logit(torch.tensor([0.9])), torch.logit(torch.tensor([0.2]))
    expected = -math.log(0.9) - math.log(1 - 0.2)
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, abs=1e-5)
    terms = AnoSegLoss()(logit(0.5, 0.5, 0.5, 0.5), None, torch.zeros(1, 3, 2, 2), MASK, fake)
    assert terms.adversarial.item() == pytest.approx(-math.log(0.2), abs=1e-5)


def test_total_is_the_weighted_sum():
    loss = AnoSegLoss("l1", segmentation_weight=2.0, reconstruction_weight=3.0, adversarial_weight=5.0)
    image = torch.zeros(1, 3, 2, 2)
    terms = loss(logit(0.6, 0.1, 0.2, 0.3), image + 0.5, image, MASK, torch.zeros(1))
    assert terms.total.item() == pytest.approx(2 * 0.25 + 3 * 0.5 + 5 * math.log(2), abs=1e-4)


def test_missing_networks_leave_their_terms_out():
    terms = AnoSegLoss("l1")(logit(0.6, 0.1, 0.2, 0.3), None, torch.zeros(1, 3, 2, 2), MASK)
    assert terms.reconstruction.item() == terms.adversarial.item() == 0
    assert terms.total.item() == pytest.approx(50 * 0.25, abs=1e-4)


def test_losses_are_float32_under_low_precision():
    half = logit(0.6, 0.1, 0.2, 0.3).bfloat16()
    image = torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)
    terms = AnoSegLoss()(half, image, image, MASK.bfloat16(), torch.zeros(1, dtype=torch.bfloat16))
    assert {term.dtype for term in terms} == {torch.float32}
