"""SGSF's loss: focal for the anomaly map, squared error and structural similarity for the reconstruction."""

from typing import Literal, NamedTuple

import torch
from kornia.metrics import ssim
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from anomalib_anoseg.models.pixel_loss import pixel_loss

SegmentationLoss = Literal["focal", "balanced_cross_entropy"]
# Side in pixels of the window of the structural similarity; kornia's Gaussian has a sigma of 1.5 [choice].
SSIM_WINDOW = 11


class SGSFLosses(NamedTuple):
    """The terms, unweighted, and their weighted sum; all float32 scalars."""

    total: Tensor
    segmentation: Tensor
    reconstruction: Tensor


class SGSFLoss(nn.Module):
    """Loss of the map plus ``lambda`` times the loss of the reconstruction; the settings check all arguments.

    Args:
        segmentation: Form of the loss of the map; the focal one is the paper's.
        reconstruction_weight: The paper's lambda, ``>= 0``.
        focal_gamma: How much the focal loss concentrates on wrong pixels, ``>= 0``; 0 is plain cross-entropy.

    Example:
        >>> import torch
        >>> image, mask = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
        >>> sure = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1).expand(2, 2, 32, 32)
        >>> abs(round(SGSFLoss()(sure, mask, image, image).total.item(), 4))
        0.0
    """

    def __init__(
        self,
        segmentation: SegmentationLoss = "focal",
        reconstruction_weight: float = 1.0,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.segmentation: SegmentationLoss = segmentation
        self.reconstruction_weight, self.focal_gamma = reconstruction_weight, focal_gamma

    def forward(
        self, logits: Tensor, mask: Tensor, reconstruction: Tensor | None = None, reference: Tensor | None = None
    ) -> SGSFLosses:
        """Compute the loss, in float32 whatever the precision of the networks.

        Args:
            logits: ``(B, 2, H, W)``, of normal and anomalous.
            mask: ``(B, 1, H, W)``, 1 = anomalous.
            reconstruction: ``(B, 3, H, W)``, or ``None`` to leave the term out.
            reference: ``(B, 3, H, W)`` in ``[0, 1]``, the target of the reconstruction.

        Raises:
            ValueError: If there is a reconstruction and no reference.
        """
        if self.segmentation == "focal":
            segmentation = focal_loss(logits, mask, self.focal_gamma)
        else:
            segmentation = pixel_loss(logits[:, 1:] - logits[:, :1], mask, self.segmentation)
        if reconstruction is None:
            return SGSFLosses(segmentation, segmentation, segmentation.new_zeros(()))
        if reference is None:
            raise ValueError("reference is missing: the loss of a reconstruction needs its target.")
        reconstructed = reconstruction_loss(reconstruction, reference)
        total = self.reconstruction_weight * reconstructed + segmentation
        return SGSFLosses(total, segmentation, reconstructed)


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0) -> Tensor:
    """Average ``(1 - p)^gamma * -log(p)`` over all pixels; p is the softmax probability of the true class.

    A softmax over two classes is a sigmoid of the difference of their logits. Both classes have equal weight.

    Args:
        logits: ``(B, 2, H, W)``, of normal and anomalous.
        mask: ``(B, 1, H, W)``, 1 = anomalous.
        gamma: ``>= 0``.

    Returns:
        A float32 scalar.
    """
    logits = logits.float()
    with torch.autocast(logits.device.type, enabled=False):
        return sigmoid_focal_loss(logits[:, 1:] - logits[:, :1], mask.float(), alpha=-1, gamma=gamma, reduction="mean")


def reconstruction_loss(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Compute the mean squared error plus one minus the mean structural similarity (``L_N``).

    Args:
        reconstruction: ``(B, 3, H, W)``, sides of 6 pixels or more.
        reference: ``(B, 3, H, W)`` in ``[0, 1]``.

    Returns:
        A float32 scalar.
    """
    reconstruction, reference = reconstruction.float(), reference.float()
    with torch.autocast(reference.device.type, enabled=False):
        similarity = ssim(reconstruction, reference, SSIM_WINDOW).mean()
        return F.mse_loss(reconstruction, reference) + 1 - similarity
