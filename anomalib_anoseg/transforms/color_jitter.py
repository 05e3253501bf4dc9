"""Colour jitter as one matrix per image, the third step of AnoSeg's hard augmentation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.transforms._tensors import constant, per_image
from anomalib_anoseg.transforms.base import SeededAugmentation
from anomalib_anoseg.transforms.random_stream import RandomStream

# Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601), as torchvision and kornia use them.
LUMA = (0.299, 0.587, 0.114)
# The largest amounts, in the order of the arguments.
MAX_JITTER = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}


class RandomColorJitter(SeededAugmentation):
    """Change brightness, contrast, saturation and hue of each image, in this order.

    AnoSeg (arXiv 2110.03396, Fig. 3) visibly shifts hue and saturation; the amounts are our choice. Brightness,
    contrast and saturation are torchvision's, without clamping in between; hue is a rotation of the colour about
    the grey axis. All four are linear in the colour, so one 3x3 matrix per image applies them in a single pass.
    kornia's ``ColorJitter`` converts to HSV and synchronises with the host.

    Args:
        brightness: Factor from ``U(1 - b, 1 + b)``, ``0 <= b <= 1``.
        contrast: Factor about the mean luma, from ``U(1 - c, 1 + c)``, ``0 <= c <= 1``.
        saturation: Factor about each pixel's luma, from ``U(1 - s, 1 + s)``, ``0 <= s <= 1``.
        hue: Change from ``U(-h, h)`` in full circles, ``0 <= h <= 0.5``.
        p: Probability of changing an image.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If an amount is out of range, or the images have neither 1 nor 3 channels.

    Convention:
        - ``_params``: ``brightness``, ``contrast``, ``saturation``, ``hue``, each ``(B,)`` float32.
        - The result is clamped to ``[0, 1]``; grey images of one channel change in brightness and contrast alone.
        - Masks pass through.

    Example:
        >>> import torch
        >>> image = torch.rand(2, 3, 16, 16)
        >>> bool((RandomColorJitter(0, 0, 0, 0, p=1.0)(image) - image).abs().max() < 1e-6)
        True
    """

    def __init__(
        self,
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.2,
        p: float = 0.5,
        keepdim: bool = False,
    ) -> None:
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, amount in amounts.items():
            check_value(name, amount, 0.0, MAX_JITTER[name])
        super().__init__(p=p, keepdim=keepdim)
        self.flags = amounts

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw the three factors and the change of hue for every image."""
        center = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
        return {
            name: stream.uniform((shape[0],), center[name] - amount, center[name] + amount)
            for name, amount in self.flags.items()
        }

    def change(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Change the colours of ``(B, C, H, W)`` images.

        Raises:
            ValueError: If the images have neither 1 nor 3 channels.
        """
        if image.shape[1] not in {1, 3}:
            raise ValueError(f"Colour jitter takes images of 1 or 3 channels, got shape {tuple(image.shape)}.")
        is_color = image.shape[1] == len(LUMA)
        luma = constant(LUMA if is_color else (1.0,), image.device)

        changed = image.float() * per_image(params["brightness"], image)
        mean = torch.einsum("bchw,c->b", changed, luma)[:, None, None, None] / (image.shape[-2] * image.shape[-1])
        changed = torch.lerp(mean, changed, per_image(params["contrast"], image))
        if is_color:
            matrix = color_matrix(params["saturation"], params["hue"], luma)
            changed = torch.einsum("bij,bjhw->bihw", matrix, changed)
        return changed.clamp(0, 1).to(image.dtype)


def color_matrix(saturation: Tensor, hue: Tensor, luma: Tensor) -> Tensor:
    """Compose saturation about the luma and rotation about the grey axis (Rodrigues' formula), ``(B, 3, 3)``."""
    identity = torch.eye(3, dtype=luma.dtype, device=luma.device)
    desaturation = torch.ones_like(identity) * luma
    saturate = torch.lerp(desaturation, identity, saturation[:, None, None])

    angle = 2 * math.pi * hue[:, None, None]
    grey_projection = torch.full_like(identity, 1 / 3)
    cross_product = constant(((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)), luma.device) / math.sqrt(3)
    rotate = angle.cos() * identity + angle.sin() * cross_product + (1 - angle.cos()) * grey_projection
    return rotate @ saturate
