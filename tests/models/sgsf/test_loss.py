"""SGSF's loss against values worked out by hand, and against the papers' formulas written out."""

import math

import pytest
import torch
from torch.nn import functional as F

from anomalib_anoseg.models.sgsf.loss import SGSFLoss, focal_loss, reconstruction_loss

MASK = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
# Probabilities of "anomalous", as softmax logits with a shift that must not matter.
PROBABILITIES = torch.tensor([0.6, 0.1, 0.2, 0.3]).view(1, 1, 2, 2)
LOGITS = torch.cat((1 - PROBABILITIES, PROBABILITIES), 1).log() + 3


def reference_focal_loss(logits, mask, gamma):
    """Lin et al., arXiv 1708.02002, Eq. 4, with the two classes of a softmax."""
    probabilities = logits.double().softmax(1)
    true = torch.where(mask.bool(), probabilities[:, 1:], probabilities[:, :1])
    return (-((1 - true) ** gamma) * true.log()).mean()


def reference_ssim(first, second, window=11, sigma=1.5):
    """Wang et al. 2004, Eq. 13: constants for values in [0, 1], means under a Gaussian window, edges mirrored."""
    taps = torch.exp(-(torch.arange(window).double() - window // 2).square() / (2 * sigma**2))
    kernel = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, -1, -1)

    def mean(image):
        return F.conv2d(F.pad(image, (window // 2,) * 4, mode="reflect"), kernel, groups=3)

    first, second = first.double(), second.double()
    mean1, mean2 = mean(first), mean(second)
    variance1, variance2 = mean(first**2) - mean1**2, mean(second**2) - mean2**2
    covariance = mean(first * second) - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    return (numerator / ((mean1**2 + mean2**2 + c1) * (variance1 + variance2 + c2))).mean()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_by_hand(gamma):
    expected = -sum((1 - p) ** gamma * math.log(p) for p in (0.6, 0.9, 0.8, 0.7)) / 4
    assert focal_loss(LOGITS, MASK, gamma).item() == pytest.approx(expected, abs=1e-6)


def test_focal_loss_as_published():
    logits, mask = torch.randn(3, 2, 9, 11) * 5, (torch.rand(3, 1, 9, 11) < 0.2).float()
    assert focal_loss(logits, mask).item() == pytest.approx(reference_focal_loss(logits, mask, 2).item(), rel=1e-5)


def test_reconstruction_by_hand():
    # Constant images have no structure: only the luminance term remains.
    first, second = torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.6)
    similarity = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert reconstruction_loss(first, second).item() == pytest.approx(0.04 + 1 - similarity, abs=1e-4)


def test_reconstruction_as_published():
    first, second = torch.rand(2, 2, 3, 21, 33)
    expected = F.mse_loss(first, second) + 1 - reference_ssim(first, second)
    assert reconstruction_loss(first, second).item() == pytest.approx(expected.item(), rel=1e-4)
    assert reconstruction_loss(first, first).item() == pytest.approx(0, abs=1e-5)


def test_balanced_cross_entropy_by_hand():
    terms = SGSFLoss("balanced_cross_entropy")(LOGITS, MASK)
    expected = -(math.log(0.6) + (math.log(0.9) + math.log(0.8) + math.log(0.7)) / 3) / 2
    assert terms.segmentation.item() == pytest.approx(expected, abs=1e-5)


def test_total_is_the_weighted_sum():
    image = torch.rand(1, 3, 16, 16)
    terms = SGSFLoss(reconstruction_weight=0.5, focal_gamma=1.0)(LOGITS, MASK, image.flip(-1), image)
    assert terms.segmentation == focal_loss(LOGITS, MASK, 1.0)
    assert terms.reconstruction == reconstruction_loss(image.flip(-1), image)
    assert terms.total.item() == pytest.approx((terms.segmentation + 0.5 * terms.reconstruction).item())


def test_without_reconstruction_its_term_is_zero():
    terms = SGSFLoss()(LOGITS, MASK)
    assert terms.reconstruction.item() == 0
    assert terms.total == terms.segmentation


def test_extreme_logits_keep_finite_gradients():
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone().requires_grad_()
    loss = focal_loss(logits, MASK)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_losses_are_float32_under_low_precision():
    image = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        terms = SGSFLoss()(LOGITS.bfloat16(), MASK, image.flip(-1).bfloat16(), image)
    assert {term.dtype for term in terms} == {torch.float32}
    exact = SGSFLoss()(LOGITS.bfloat16(), MASK, image.flip(-1).bfloat16(), image)
    assert terms == exact, "autocast must not reach the windows of the structural similarity"


def test_a_reconstruction_needs_its_target():
    with pytest.raises(ValueError, match="reference is missing"):
        SGSFLoss()(LOGITS, MASK, torch.rand(1, 3, 2, 2))
