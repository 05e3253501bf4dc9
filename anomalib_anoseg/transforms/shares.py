"""Work on the share of a batch that chance chose, where nobody may ask the device which images that is.

Independent draws can choose all images of a batch, so whatever costs time would have to be computed for all of them.
Systematic sampling chooses each image with the same probability but never more of a batch than the share says, rounded
up: these many places are worked on, some of which may stay unused.
"""

import math

import torch
from torch import Tensor

from anomalib_anoseg.transforms.base import SeededAugmentation

EPSILON = 2.0**-24  # below 1 the next number in float32


def draw_spread(transform: SeededAugmentation, count: int) -> Tensor:
    """Draw a number for each image, ``(B,)`` float32, uniform in ``[0, 1)``, such that each ``B``-th part holds one.

    So an interval of length ``q`` holds ``q * B`` of them, rounded up or down.
    """
    order = transform.uniform((count,), 0.0, 1.0).argsort()
    # Rounding could make a 1 of the last one.
    return ((order + transform.uniform((1,), 0.0, 1.0)) / count).clamp(max=1 - EPSILON)


def most(share: float, count: int) -> int:
    """Tell how many of ``count`` numbers of :func:`draw_spread` an interval of length ``share`` can hold."""
    return math.ceil(round(share * count, 6))


def assign_places(is_chosen: Tensor, count: int) -> Tensor:
    """Assign the images that were chosen for something, ``(B, N)`` bool for ``N`` things, to places.

    Returns:
        ``(B, N, K)`` bool, which of ``K = count`` places, which must suffice, works on which image. Any part of a batch
        can be replayed with its rows of it.
    """
    images = is_chosen.int().argsort(0, descending=True)[:count].T
    number = torch.arange(len(is_chosen), device=is_chosen.device)[:, None, None]
    return (number == images) & is_chosen[..., None]


def images_at(places: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which image is at each place, int64, those of one thing all different, and whether it was chosen, bool.

    Args:
        places: ``(B, N, K)``, see :func:`assign_places`.

    Returns:
        Both ``(N, K)``, ``K`` no larger than ``B``.
    """
    is_chosen, images = places.any(2).int().sort(0, descending=True)
    return images[: places.shape[2]].T, is_chosen[: places.shape[2]].T.bool()
