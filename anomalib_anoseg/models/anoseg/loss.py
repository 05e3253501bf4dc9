"""AnoSeg's losses: pixel-wise, masked reconstruction, and adversarial (arXiv 2110.03396, Sec. 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.pixel_loss import EPSILON, PixelLoss, pixel_loss


class GeneratorLoss(NamedTuple):
    """The generator's terms, unweighted, and their weighted sum; all scalars."""

    segmentation: Tensor
    reconstruction: Tensor
    adversarial: Tensor
    total: Tensor


class AnoSegLoss(nn.Module):
    """Weighted sum of AnoSeg's generator losses.

    The paper prints the three terms and leaves their weights open: 50, 50 and 1 are our choice. It prints plain ``l1``
    for the first; see :func:`~anomalib_anoseg.models.pixel_loss.pixel_loss` for its effect and the alternatives. The
    settings check all arguments.

    Args:
        segmentation: Form of the pixel-wise term.
        segmentation_weight: Weight of the pixel-wise term, ``>= 0``.
        reconstruction_weight: Weight of the masked reconstruction term, ``>= 0``.
        adversarial_weight: Weight of the adversarial term, ``>= 0``.

    Example:
        >>> import torch
        >>> loss = AnoSegLoss("l1")
        >>> image, mask = torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
        >>> loss(torch.full_like(mask, -100.0), image, image, mask).total.item()
        0.0
    """

    def __init__(
        self,
        segmentation: PixelLoss = "balanced_cross_entropy",
        segmentation_weight: float = 50.0,
        reconstruction_weight: float = 50.0,
        adversarial_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.segmentation: PixelLoss = segmentation
        self.segmentation_weight = segmentation_weight
        self.reconstruction_weight = reconstruction_weight
        self.adversarial_weight = adversarial_weight

    def forward(
        self,
        logits: Tensor,
        reconstruction: Tensor | None,
        image: Tensor,
        mask: Tensor,
        fake_logits: Tensor | None = None,
    ) -> GeneratorLoss:
        """Compute the generator's loss, in float32 whatever the precision of the networks.

        Args:
            logits: ``(B, 1, H, W)``, the anomaly map before its sigmoid.
            reconstruction: ``(B, 3, H, W)`` in ``[0, 1]``, or ``None`` to leave the term out.
            image: ``(B, 3, H, W)`` in ``[0, 1]``, as the networks saw it.
            mask: ``(B, 1, H, W)``, 1 = anomalous.
            fake_logits: The discriminator's judgement of (reconstruction, anomaly map), or ``None`` without one.
        """
        zero = logits.new_zeros((), dtype=torch.float32)
        segmentation = pixel_loss(logits, mask, self.segmentation)
        masked = zero if reconstruction is None else masked_reconstruction_loss(reconstruction, image, mask)
        # Non-saturating: the generator maximises log D of its pair, as is usual, instead of minimising log(1 - D).
        adversarial = zero if fake_logits is None else F.softplus(-fake_logits.float()).mean()
        total = (
            self.segmentation_weight * segmentation
            + self.reconstruction_weight * masked
            + self.adversarial_weight * adversarial
        )
        return GeneratorLoss(segmentation, masked, adversarial, total)


def masked_reconstruction_loss(reconstruction: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean absolute error of the reconstruction over the normal pixels alone (``L_Re``).

    Args:
        reconstruction: ``(B, 3, H, W)``.
        image: ``(B, 3, H, W)``.
        mask: ``(B, 1, H, W)``, 1 = anomalous.

    Returns:
        A float32 scalar, averaged over the colour values of normal pixels.
    """
    normal = 1 - mask.float()
    error = ((reconstruction.float() - image.float()) * normal).abs().sum()
    return error / (normal.sum() * image.shape[1] + EPSILON)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Compute the discriminator's cross-entropy: real pairs are (image, mask), fakes (reconstruction, map).

    Args:
        real_logits: ``(B,)``.
        fake_logits: ``(B,)``.

    Returns:
        A float32 scalar, the sum of both halves, ``2 log 2`` for logits of 0.
    """
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()
