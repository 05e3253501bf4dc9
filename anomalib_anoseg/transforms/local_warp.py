"""Deformed parts: bent, dented or stretched."""

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.transforms._tensors import per_image
from anomalib_anoseg.transforms.altered import AlteredBlob
from anomalib_anoseg.transforms.blobs import blob_radius, offsets
from anomalib_anoseg.transforms.saliency import Saliency


class LocalWarp(AlteredBlob):
    """Push a part of each image in a random direction, so that it is compressed ahead and stretched behind.

    This is the local translation of Gustafsson, *Interactive image warping* (1993), with an irregular outline.

    Args:
        area: Range of the area that is warped, as a fraction of the image's, log-uniform, within ``[0.0001, 1]``.
        softness: Range of the fraction of the way from outline to centre over which the push rises, within ``[0, 1]``;
            little tears the image.
        strength: Range of the push at the centre, in radii of a disc of that area, within ``[0.01, 1]``.
        saliency: Where the image is warped, see :class:`CutPaste`.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If a range or probability is out of bounds.

    Convention:
        - ``_params``: those of :class:`LocalShade` without its colours; the push goes along ``angle``.
        - Pixels are sampled bilinearly. Mask, visibility and container as :class:`LocalShade`: a plain surface shows no
          warp, and keeps an empty mask.

    Example:
        >>> import torch
        >>> forged, mask = LocalWarp().manual_seed(0).forge(torch.rand(4, 3, 64, 64))
        >>> mask.shape
        torch.Size([4, 1, 64, 64])
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.01, 0.12),
        softness: tuple[float, float] = (0.5, 1.0),
        strength: tuple[float, float] = (0.2, 0.7),
        saliency: Saliency | str = "none",
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        super().__init__(area, softness, strength, saliency, p, keepdim)

    def alter(self, image: Tensor, center: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Sample every pixel from where it was pushed from."""
        height, width = image.shape[-2:]
        weight = self.weigh(image, center, params)
        push = weight * per_image(params["strength"] * blob_radius(params, (height, width)), image)
        x, y = offsets(torch.zeros_like(center), (height, width))
        from_x, from_y = (
            at - push * per_image(way, image) for at, way in ((x, params["angle"].cos()), (y, params["angle"].sin()))
        )
        grid = torch.stack((2 * from_x / (width - 1) - 1, 2 * from_y / (height - 1) - 1), -1).squeeze(1)
        warped = F.grid_sample(image, grid, padding_mode="border", align_corners=True)
        return torch.where(weight > 0, warped, image)
