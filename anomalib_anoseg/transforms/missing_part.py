"""Broken and missing parts: what lies at the border of an image shows in their place."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.transforms.altered import AlteredBlob
from anomalib_anoseg.transforms.blobs import offsets
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.saliency import Saliency


class MissingPart(AlteredBlob):
    """Cover a part of each image, along an irregular edge, with what lies at a random place of its border.

    The border shows the background by the assumption of :class:`~.saliency.BorderContrast`, so that a piece of the
    object seems to have broken off; in a picture of a texture a piece of it is out of place. Cut-and-paste with an
    irregular edge (compare CutPaste, arXiv 2104.04015); that it takes away instead of adding is our choice.

    Args:
        area: Range of the part's area, as a fraction of the image's, log-uniform, within ``[0.0001, 1]``.
        softness: Range of the width of its edge, as a fraction of its radius, within ``[0, 1]``.
        strength: Range of the cover's opacity, within ``[0.01, 1]``.
        saliency: Where parts are missing, see :class:`CutPaste`.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If a range or probability is out of bounds.

    Convention:
        - ``_params``: those of :class:`LocalShade` without its colours, and ``origin`` ``(B,)``, the place on the
          border, clockwise from the upper left corner, as a fraction of the way around.
        - Mask, visibility and container as :class:`LocalShade`.

    Example:
        >>> import torch
        >>> image = torch.rand(4, 3, 64, 64)
        >>> forged, mask = MissingPart().manual_seed(0).forge(image)
        >>> bool(torch.equal(torch.where(mask == 1, image, forged), image))
        True
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.003, 0.08),
        softness: tuple[float, float] = (0.0, 0.15),
        strength: tuple[float, float] = (0.8, 1.0),
        saliency: Saliency | str = "none",
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        super().__init__(area, softness, strength, saliency, p, keepdim)

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw place, patch, opacity and the place of its cover for every image."""
        return super().draw_parameters(shape, stream) | {"origin": stream.uniform((shape[0],), 0.0, 1.0)}

    def alter(self, image: Tensor, center: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Cover a patch with the border's surroundings, mirrored where they leave the image."""
        height, width = image.shape[-2:]
        way = params["origin"] * 4
        x, y = ((1.5 - (way - corner).abs()).clamp(0, 1) for corner in (1.5, 2.5))
        origin = torch.stack((x * (width - 1), y * (height - 1)), -1).round()
        dx, dy = offsets(center.round() - origin, (height, width))
        grid_x, grid_y = 2 * dx / (width - 1) - 1, 2 * dy / (height - 1) - 1
        grid = torch.stack(torch.broadcast_tensors(grid_x, grid_y), -1).squeeze(1)
        cover = F.grid_sample(image, grid, padding_mode="reflection", align_corners=True)
        weight = self.weigh(image, center, params) * params["strength"].view(-1, 1, 1, 1)
        return torch.lerp(image, cover, weight)
