"""Uneven light and stains: soft areas that are darker, lighter or tinted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.transforms._tensors import per_image
from anomalib_anoseg.transforms.altered import AlteredBlob
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.saliency import Saliency


class LocalShade(AlteredBlob):
    """Darken or lighten a patch of irregular outline in each image.

    Wide and soft it is uneven light or polish, small it is a stain. The idea is from the uneven illumination of the
    magnetic tiles of Huang et al. (*Surface defect saliency of magnetic tile*, 2018) and from MVTec AD's stains;
    the form is ours.

    Args:
        area: Range of the patch's area, as a fraction of the image's, log-uniform, within ``[0.0001, 1]``.
        softness: Range of the fraction of the way from outline to centre over which the change rises, within
            ``[0, 1]``; 0 is a hard rim.
        strength: Range of the change at the centre, within ``[0.01, 1]``; 1 is black or white.
        tint: Largest fraction of the strength that a channel may lack, drawn anew, within ``[0, 1]``; 0 keeps greys.
        light_p: Probability of light in place of darkness.
        saliency: Where patches lie, see :class:`CutPaste`.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If a range or probability is out of bounds.

    Convention:
        - ``_params``: ``area``, ``softness``, ``stretch``, ``angle`` (radians), ``strength`` and ``light`` ``(B,)``;
          ``cells`` ``(B, 2)`` and ``gradients`` ``(B, 11, 11)`` of the outline's noise; ``tint`` ``(B, C)``; ``center``
          ``(B, 2)``, x first, as fractions of the side, uniform; ``saliency`` moves it, see :class:`CutPaste`.
        - The mask marks the pixels that changed by more than 3/255 in any channel, which is just visible; all others
          are bit-identical. An image in which nothing changes visibly keeps an empty mask.
        - A mask ``(B, 1, H, W)`` gets 1 on marked pixels. In a container give the keys as ``["input", "mask"]``, in
          this order. No loop over the batch, no host synchronisation (except to read a folder of saliency maps).

    Example:
        >>> import torch
        >>> image = torch.full((1, 3, 64, 64), 0.5)
        >>> forged, mask = LocalShade(light_p=0.0).manual_seed(0).forge(image)
        >>> bool((forged[mask.expand_as(forged) == 1] < 0.5).all())
        True
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.01, 0.3),
        softness: tuple[float, float] = (0.3, 1.0),
        strength: tuple[float, float] = (0.08, 0.4),
        tint: float = 0.2,
        light_p: float = 0.5,
        saliency: Saliency | str = "none",
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        check_value("tint", tint, 0.0, 1.0)
        check_value("light_p", light_p, 0.0, 1.0)
        super().__init__(area, softness, strength, saliency, p, keepdim)
        self.flags |= {"tint": tint, "light_p": light_p}

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw place, patch, strength and colour for every image."""
        params = super().draw_parameters(shape, stream)
        params["light"] = (stream.uniform((shape[0],), 0.0, 1.0) < self.flags["light_p"]).float()
        params["tint"] = 1 - self.flags["tint"] * stream.uniform((shape[0], shape[1]), 0.0, 1.0)
        return params

    def alter(self, image: Tensor, center: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Blend a patch with black or white."""
        amount = (params["strength"][:, None] * params["tint"])[:, :, None, None]
        return torch.lerp(image, per_image(params["light"], image), amount * self.weigh(image, center, params))
