"""AnoSeg's losses: pixel-wise, masked reconstruction, and adversarial (arXiv 2110.03396, Sec. 3.2)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SegmentationLoss = Literal["l1", "balanced_l1", "cross_entropy", "balanced_cross_entropy"]
# Keeps the quotients finite for a batch without normal, or without anomalous, pixels.
EPSILON = 1e-6


class GeneratorLoss(NamedTuple):
    """The generator's terms, unweighted, and their weighted sum; all scalars."""

    segmentation: Tensor
    reconstruction: Tensor
    adversarial: Tensor
    total: Tensor


class AnoSegLoss(nn.Module):
    """Weighted sum of AnoSeg's generator losses.

    The paper prints the three terms and leaves their weights open: 50, 50 and 1 are our choice. It prints plain ``l1``
    for the first; see :func:`segmentation_loss` for its effect and the alternatives. The settings check all arguments.

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
        segmentation: SegmentationLoss = "balanced_cross_entropy",
        segmentation_weight: float = 50.0,
        reconstruction_weight: float = 50.0,
        adversarial_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.segmentation: SegmentationLoss = segmentation
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
        segmentation = segmentation_loss(logits, mask, self.segmentation)
        masked = zero if reconstruction is None else masked_reconstruction_loss(reconstruction, image, mask)
        # Non-saturating: the generator maximises log D of its pair, as is usual, instead of minimising log(1 - D).
        adversarial = zero if fake_logits is None else F.softplus(-fake_logits.float()).mean()
        total = (
            self.segmentation_weight * segmentation
            + self.reconstruction_weight * masked
            + self.adversarial_weight * adversarial
        )
        return GeneratorLoss(segmentation, masked, adversarial, total)


def segmentation_loss(logits: Tensor, mask: Tensor, form: SegmentationLoss = "balanced_cross_entropy") -> Tensor:
    """Compare the anomaly map with the mask, pixel by pixel.

    ``"l1"`` is the paper's: the mean of ``|mask - map|``. Synthetic anomalies cover a few per cent of the pixels, so
    the constant normal map is nearly as good as any. Close to it the sigmoid saturates: its slope, l1's only gradient,
    vanishes for anomalous pixels as well. ``"cross_entropy"`` keeps its gradient for every wrong pixel. The balanced
    forms average over normal and over anomalous pixels separately and take the mean of the two, so that no constant map
    is better than another.

    Args:
        logits: ``(B, 1, H, W)``.
        mask: ``(B, 1, H, W)``, 1 = anomalous.
        form: Which of the four.

    Returns:
        A float32 scalar.

    Example:
        >>> import torch
        >>> forms = "l1", "balanced_l1", "cross_entropy", "balanced_cross_entropy"
        >>> mask = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
        >>> normal = torch.full_like(mask, -100.0)
        >>> [round(segmentation_loss(normal, mask, form).item(), 2) for form in forms]
        [0.25, 0.5, 25.0, 50.0]
    """
    logits, mask = logits.float(), mask.float()
    if form.endswith("l1"):
        error = (logits.sigmoid() - mask).abs()
    else:
        error = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    if not form.startswith("balanced"):
        return error.mean()
    anomalous = (error * mask).sum() / (mask.sum() + EPSILON)
    normal = (error * (1 - mask)).sum() / ((1 - mask).sum() + EPSILON)
    return (anomalous + normal) / 2


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
