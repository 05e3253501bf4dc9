"""Swapping the halves of an image ("perm"), the second step of AnoSeg's hard augmentation."""

from typing import Any

import torch
from torch import Tensor

from anomalib_anoseg.transforms.base import SeededAugmentation, move_pixels

# What a draw swaps; a third value swaps both.
ROWS, COLUMNS = 0, 1


class RandomHalfSwap(SeededAugmentation):
    """Swap the upper with the lower half of each image, the left with the right, or both.

    AnoSeg's "perm" (arXiv 2110.03396, Sec. 3.1) permutes the four quarters of an image; Fig. 3 shows both swaps at
    once. It breaks the global layout and keeps the local appearance. kornia's ``RandomJigsaw`` draws any of the 24
    orders of the quarters, the identity too, and needs sides that divide evenly and several host synchronisations.

    Args:
        p: Probability of swapping in an image.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Convention:
        - ``_params["swap"]``: ``(B,)`` int64; 0 swaps rows (top and bottom), 1 columns (left and right), 2 both.
        - The halves of an odd side differ by one pixel; every pixel still lands in exactly one place.
        - A mask is swapped with its image.

    Example:
        >>> import torch
        >>> image = torch.rand(4, 3, 32, 32)
        >>> swapped = RandomHalfSwap(p=1.0)(image)
        >>> torch.equal(swapped.flatten(2).sort().values, image.flatten(2).sort().values)
        True
    """

    def __init__(self, p: float = 0.5, keepdim: bool = False) -> None:
        super().__init__(p=p, keepdim=keepdim)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw for every image which halves change places."""
        return {"swap": self.choice((batch_shape[0],), 3)}

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Swap halves of ``(B, C, H, W)`` images."""
        del flags, transform
        swap = params["swap"].to(input.device, non_blocking=True)[:, None]
        rows = _roll_half(input.shape[-2], swap != COLUMNS)
        columns = _roll_half(input.shape[-1], swap != ROWS)
        return move_pixels(input, rows[:, :, None], columns[:, None, :])

    apply_transform_mask = apply_transform


def _roll_half(side: int, is_swapped: Tensor) -> Tensor:
    """Index that exchanges the halves of a side for the images ``(B, 1)`` that swap them: ``(B, side)``."""
    index = torch.arange(side, device=is_swapped.device)
    return torch.where(is_swapped, index.roll(side // 2), index)
