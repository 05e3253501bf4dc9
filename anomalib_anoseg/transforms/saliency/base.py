"""Base of all sources of saliency maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A map with a smaller mean counts as empty.
EMPTY = 1e-3


class Saliency(nn.Module):
    """Estimates how salient the pixels of images are; subclasses implement :meth:`estimate`.

    It has no weights, passes no gradient on and computes in float32 even under autocast.

    Convention:
        - 1 = salient, 0 = background.
        - A map without anything salient is 0 everywhere; a mean below :data:`EMPTY` counts as such, too.
    """

    def forward(self, image: Tensor, paths: Sequence[str] | None = None) -> Tensor:
        """Estimate saliency.

        Args:
            image: ``(B, 3, H, W)``, floating point, in ``[0, 1]``.
            paths: Files of the images, one for each; only folders of maps need them.

        Returns:
            ``(B, 1, H, W)`` float32 in ``[0, 1]``.
        """
        return resize_saliency(self.small(image, paths), image.shape[-2:])

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check that each image has a map, if maps are looked up by file; by default, check nothing.

        Raises:
            FileNotFoundError: If an image has no map.
            ValueError: If two images have the same map.
        """

    def small(self, image: Tensor, paths: Sequence[str] | None = None) -> Tensor:
        """Estimate saliency as :meth:`forward`, but at the resolution of :meth:`estimate`: ``(B, 1, h, w)``.

        Raises:
            ValueError: If the images are not RGB.
        """
        if image.shape[1] != 3:  # noqa: PLR2004
            raise ValueError(
                f"Saliency is estimated from RGB images, (B, 3, H, W), got {tuple(image.shape)}: repeat their channel, "
                "or use saliency='none'."
            )
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            return self.estimate(image.float(), paths)

    def estimate(self, image: Tensor, paths: Sequence[str] | None) -> Tensor:
        """Estimate the saliency of float32 images, at any resolution, see :meth:`forward`."""
        raise NotImplementedError


class NoSaliency(Saliency):
    """Finds nothing salient: anomalies go anywhere.

    Example:
        >>> NoSaliency()(torch.rand(2, 3, 32, 48)).shape
        torch.Size([2, 1, 32, 48])
    """

    def estimate(self, image: Tensor, paths: Sequence[str] | None) -> Tensor:
        """Return zeros."""
        del paths
        return torch.zeros_like(image[:, :1])


def resize_saliency(salient: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge maps ``(B, 1, h, w)`` to the size of their images."""
    return salient if salient.shape[-2:] == tuple(size) else F.interpolate(salient, tuple(size), mode="bilinear")
