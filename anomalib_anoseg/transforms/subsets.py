"""Apply an operation to a random subset of a batch without synchronising host and device.

Independent draws can select all images of a batch, so a costly operation would have to run on all of them. Stratified
draws select each image with the same probability, but never more of a batch than the share, rounded up. The operation
runs at that many places, some of which may stay unused.
"""

import math

import torch
from torch import Tensor

from anomalib_anoseg.transforms.random_stream import RandomStream

EPSILON = 2.0**-24  # 1 - EPSILON is the largest float32 below 1


def stratified_uniform(stream: RandomStream, count: int) -> Tensor:
    """Draw a number for each image, ``(B,)`` float32, uniform in ``[0, 1)``, one in each ``B``-th part of it.

    So an interval of length ``q`` holds ``q * B`` of them, rounded up or down.
    """
    order = stream.uniform((count,), 0.0, 1.0).argsort()
    # Rounding could turn the last one into 1.
    return ((order + stream.uniform((1,), 0.0, 1.0)) / count).clamp(max=1 - EPSILON)


def max_selected(share: float, count: int) -> int:
    """Count how many of ``count`` numbers of :func:`stratified_uniform` an interval of length ``share`` can hold."""
    return math.ceil(round(share * count, 6))


def assign_places(is_selected: Tensor, count: int) -> Tensor:
    """Assign the images that were selected for some operations, ``(B, N)`` bool for ``N`` operations, to places.

    Returns:
        ``(B, N, K)`` bool: which image is at which of ``K = count`` places; ``count`` must suffice. Any part of a batch
        can be replayed with its rows.
    """
    images = is_selected.int().argsort(0, descending=True)[:count].T
    number = torch.arange(len(is_selected), device=is_selected.device)[:, None, None]
    return (number == images) & is_selected[..., None]


def selected_images(places: Tensor) -> tuple[Tensor, Tensor]:
    """Find the image at each place, int64, all different for one operation, and whether it was selected, bool.

    Args:
        places: ``(B, N, K)``, see :func:`assign_places`.

    Returns:
        Both ``(N, K)``, ``K`` no larger than ``B``.
    """
    is_selected, images = places.any(2).int().sort(0, descending=True)
    return images[: places.shape[2]].T, is_selected[: places.shape[2]].T.bool()
