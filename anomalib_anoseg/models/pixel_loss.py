"""Losses that compare an anomaly map with its mask, pixel by pixel, and may balance the two classes."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

PixelLoss = Literal["l1", "balanced_l1", "cross_entropy", "balanced_cross_entropy"]
# Keeps the quotients finite for a batch without normal, or without anomalous, pixels.
EPSILON = 1e-6


def pixel_loss(logits: Tensor, mask: Tensor, form: PixelLoss = "balanced_cross_entropy") -> Tensor:
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
        >>> [round(pixel_loss(normal, mask, form).item(), 2) for form in forms]
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
