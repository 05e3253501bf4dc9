"""Smeared or unfocused parts."""

import torch
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from torch import Tensor

from anomalib_anoseg.transforms.altered import AlteredBlob
from anomalib_anoseg.transforms.saliency import Saliency

# Standard deviation of the blur at strength 1, as a fraction of the shorter side.
LARGEST = 1 / 32


class LocalBlur(AlteredBlob):
    """Blur a patch of irregular outline in each image, as a smear or a worn relief does.

    Args:
        area: Range of the patch's area, as a fraction of the image's, log-uniform, within ``[0.0001, 1]``.
        softness: Range of the fraction of the way from outline to centre over which the blur rises, within ``[0, 1]``.
        strength: Range of the standard deviation of the Gaussian, in 32nds of the shorter side, within ``[0.01, 1]``.
        saliency: Where patches lie, see :class:`CutPaste`.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If a range or probability is out of bounds.

    Convention:
        - ``_params``: those of :class:`LocalShade` without its colours.
        - Mask, visibility and container as :class:`LocalShade`: a plain surface shows no blur, and keeps an empty mask.

    Example:
        >>> import torch
        >>> forged, mask = LocalBlur().manual_seed(0).forge(torch.rand(4, 3, 64, 64))
        >>> mask.shape
        torch.Size([4, 1, 64, 64])
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.01, 0.15),
        softness: tuple[float, float] = (0.1, 0.7),
        strength: tuple[float, float] = (0.4, 1.0),
        saliency: Saliency | str = "none",
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        super().__init__(area, softness, strength, saliency, p, keepdim)

    def alter(self, image: Tensor, center: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Blend a patch with the blurred image."""
        side = min(image.shape[-2:])
        reach = min(max(1, round(2 * side * LARGEST * self.flags["strength"][1])), side - 1)
        # Not `gaussian_blur2d`, which waits for the device to check that the deviations are positive.
        kernel = get_gaussian_kernel1d(2 * reach + 1, (params["strength"] * side * LARGEST)[:, None])
        blurred = filter2d_separable(image, kernel, kernel)
        return torch.lerp(image, blurred, self.weigh(image, center, params))
