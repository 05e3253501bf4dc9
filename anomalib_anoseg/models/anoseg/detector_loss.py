"""Losses of AnoSeg's detector: adversarial, classification, feature matching and reconstruction (Sec. 3.4)."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.anoseg.detector import DiscriminatorOutput
from anomalib_anoseg.models.anoseg.loss import discriminator_loss


class DetectorGeneratorLoss(NamedTuple):
    """The generator's terms, unweighted, and their weighted sum; all scalars."""

    adversarial: Tensor
    reconstruction: Tensor
    feature: Tensor
    total: Tensor


class DetectorDiscriminatorLoss(NamedTuple):
    """The discriminator's terms, unweighted, and their weighted sum; all scalars."""

    discriminator: Tensor
    classification: Tensor
    total: Tensor


class DetectorLoss(nn.Module):
    """Weighted sums of the detector's losses.

    Real pairs are (normal image, normal map). Fake pairs are (reconstruction, predicted map) in the adversarial loss
    and (forged image, its mask) in the classification loss: synthetic anomalies are no class of their own. The paper
    gives no weights and does not show its reconstruction loss: all weights, and l1 as its form, are our choice. The
    settings check them.

    Args:
        adversarial_weight: Weight of the adversarial loss, ``>= 0``.
        reconstruction_weight: Weight of the mean absolute error of the reconstruction, ``>= 0``.
        feature_weight: Weight of the squared l2 distance of features, ``>= 0``.
        classification_weight: Weight of the classification loss, ``>= 0``.

    Example:
        >>> import torch
        >>> undecided = torch.zeros(2)
        >>> round(DetectorLoss().discriminator(undecided, undecided, undecided).total.item(), 3)  # 4 log 2
        2.773
    """

    def __init__(
        self,
        adversarial_weight: float = 1.0,
        reconstruction_weight: float = 50.0,
        feature_weight: float = 1.0,
        classification_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = {
            "adversarial": adversarial_weight,
            "reconstruction": reconstruction_weight,
            "feature": feature_weight,
            "classification": classification_weight,
        }

    def generator(
        self, image: Tensor, reconstruction: Tensor, real_features: Tensor, fake: DiscriminatorOutput
    ) -> DetectorGeneratorLoss:
        """Compute the generator's loss, in float32 whatever the precision of the networks.

        Args:
            image: ``(B, 3, H, W)``, normal, in ``[0, 1]``.
            reconstruction: ``(B, 3, H, W)`` in ``[0, 1]``.
            real_features: Of (image, normal map), ``(B, C, 2, 2)``, the target of the feature matching.
            fake: DiscriminatorOutput of (reconstruction, predicted map).
        """
        # Non-saturating, as in the first stage: the generator maximises log D of its pair.
        adversarial = F.softplus(-fake.logits.float()).mean()
        absolute = (reconstruction.float() - image.float()).abs().mean()
        feature = (real_features.float() - fake.features.float()).square().flatten(1).sum(1).mean()
        total = (
            self.weights["adversarial"] * adversarial
            + self.weights["reconstruction"] * absolute
            + self.weights["feature"] * feature
        )
        return DetectorGeneratorLoss(adversarial, absolute, feature, total)

    def discriminator(
        self, real_logits: Tensor, fake_logits: Tensor, forged_logits: Tensor
    ) -> DetectorDiscriminatorLoss:
        """Compute the discriminator's loss from logits ``(B,)``; the real pairs count in both of its terms.

        Args:
            real_logits: Of (normal image, normal map).
            fake_logits: Of (reconstruction, predicted map).
            forged_logits: Of (forged image, its mask).
        """
        adversarial = discriminator_loss(real_logits, fake_logits)
        classification = discriminator_loss(real_logits, forged_logits)
        total = self.weights["adversarial"] * adversarial + self.weights["classification"] * classification
        return DetectorDiscriminatorLoss(adversarial, classification, total)
