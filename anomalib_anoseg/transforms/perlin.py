"""Gradient (Perlin) noise of a whole batch as two small batched matrix products.

Perlin's noise (*An image synthesizer*, SIGGRAPH 1985, with the fade of *Improving noise*, SIGGRAPH 2002) looks up four
lattice gradients at every pixel. On an upright lattice this is not needed: the weight of a lattice point at a pixel is
its row's weight times its column's weight. So the lattice is multiplied by the weights of all rows from the left and of
all columns from the right. Lattice lines out of a pixel's reach have weight 0, so lattices of any frequency share one
shape, and a batch needs no loop.
"""

import math

import torch
from torch import Tensor

from anomalib_anoseg.transforms.rotation import rotate

# DRAEM's numbers of lattice cells along an axis, 2**k with k in {0, ..., 5} (arXiv 2108.07610).
FREQUENCIES = (1, 2, 4, 8, 16, 32)
LATTICE_LINES = max(FREQUENCIES) + 1


def perlin_noise(gradients: Tensor, frequency: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute gradient noise of any height and width, each image and axis with its own frequency.

    A pure function: the same lattice gives the same noise at any size, sampled more finely or coarsely.

    Args:
        gradients: ``(B, L, L)`` float32, directions of the lattice's gradients in radians, from the rows' axis towards
            the columns'. An image uses the upper left part of its lattice, as far as its frequency reaches: one line
            more than cells.
        frequency: ``(B, 2)`` int64, cells of the lattice along rows and columns, each in ``{1, ..., L - 1}``. This is
            not checked, because a check would make the host wait.
        size: ``(H, W)``.

    Returns:
        ``(B, H, W)`` float32 in ``[-1, 1]``, 0 wherever a pixel lies on a point of the lattice: the noise times
        ``sqrt(2)``, as in DRAEM.

    Example:
        >>> lattice = 2 * torch.pi * torch.rand(2, LATTICE_LINES, LATTICE_LINES)
        >>> noise = perlin_noise(lattice, torch.tensor([[4, 8], [1, 32]]), (64, 96))
        >>> noise.shape, bool((noise[0, ::16, ::12] == 0).all())
        (torch.Size([2, 64, 96]), True)
    """
    lines = gradients.shape[-1]
    with torch.autocast(gradients.device.type, enabled=False):  # it would round the products
        row_weights, row_slopes = _line_weights(frequency[:, 0], size[0], lines)
        column_weights, column_slopes = _line_weights(frequency[:, 1], size[1], lines)
        directions = torch.stack((gradients.cos(), gradients.sin()), 1)
        across = directions @ torch.stack((column_weights, column_slopes), 1).mT
        down = torch.cat((row_slopes, row_weights), -1) * math.sqrt(2)
        return down @ across.flatten(1, 2)


def rotate_noise(noise: Tensor, angle: Tensor) -> Tensor:
    """Rotate noise about the centre of its image, bilinearly, with 0 outside, as in DRAEM.

    Args:
        noise: ``(B, H, W)`` float32.
        angle: ``(B,)`` in degrees, counter-clockwise; DRAEM draws it from ``U(-90, 90)``.

    Returns:
        ``(B, H, W)`` float32.

    Example:
        >>> noise = torch.rand(1, 8, 8)
        >>> torch.allclose(rotate_noise(noise, torch.tensor([90.0])), noise.rot90(1, (-2, -1)), atol=1e-5)
        True
    """
    return rotate(noise[:, None], angle, "zeros")[:, 0]


def _line_weights(frequency: Tensor, length: int, lines: int) -> tuple[Tensor, Tensor]:
    """Compute the weights of all lattice lines at all pixels along one axis, ``(B, length, lines)``.

    Returns:
        The fade between the two lines next to a pixel, 0 for all others, and the same times the distance from the line
        to the pixel, in cells.
    """
    # Only one division, of whole numbers, so that the position of a pixel on a line is exact.
    position = torch.arange(length, dtype=torch.float32, device=frequency.device) * frequency[:, None] / length
    line = position.floor()
    # The lines before and after a pixel, and the pixel's distance beyond them.
    lines_near = torch.stack((line, line + 1), -1)
    distance = position[..., None] - lines_near
    reach = 1 - distance.abs()
    near = reach**3 * (10 + reach * (6 * reach - 15))
    weight = position.new_zeros(*position.shape, lines)
    index = lines_near.long()
    return weight.scatter(2, index, near), weight.scatter(2, index, near * distance)
