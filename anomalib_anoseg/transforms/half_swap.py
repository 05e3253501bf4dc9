"""Swapping the halves of an image ("perm"), the second step of AnoSeg's hard augmentation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.transforms._tensors import move_pixels
from anomalib_anoseg.transforms.base import SeededAugmentation
from anomalib_anoseg.transforms.random_stream import RandomStream

# Values of `swap`; 2 swaps both.
ROWS, COLUMNS = 0, 1


class RandomHalfSwap(SeededAugmentation):
    """Swap the upper with the lower half of each image, the left with the right, or both.

    AnoSeg's "perm" (arXiv 2110.03396, Sec. 3.1) permutes the four quarters of an image; Fig. 3 shows both swaps at
    once. It breaks the global layout and keeps the local appearance. kornia's ``RandomJigsaw`` draws any of the 24
    orders of the quarters, including the identity. It needs sides that divide evenly and several host synchronisations.

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

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw which halves of every image are swapped."""
        return {"swap": stream.choice((shape[0],), 3)}

    def change(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Swap halves of ``(B, C, H, W)`` images."""
        swap = params["swap"][:, None]
        rows = _roll_half(image.shape[-2], swap != COLUMNS)
        columns = _roll_half(image.shape[-1], swap != ROWS)
        return move_pixels(image, rows[:, :, None], columns[:, None, :])

    change_mask = change


def _roll_half(side: int, is_swapped: Tensor) -> Tensor:
    """Compute the index that swaps the halves of a side in the images selected, ``(B, 1)``: ``(B, side)``."""
    index = torch.arange(side, device=is_swapped.device)
    return torch.where(is_swapped, index.roll(side // 2), index)
