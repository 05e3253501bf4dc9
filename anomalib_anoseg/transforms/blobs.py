"""Patches of irregular outline: ellipses whose distance from the centre is disturbed by noise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.transforms._tensors import per_image
from anomalib_anoseg.transforms.perlin import perlin_noise
from anomalib_anoseg.transforms.random_stream import RandomStream

# Cells of the noise's lattice along the side of the image: at least, and how many choices.
FEWEST_CELLS, CELLS = 3, 8
# How far the noise moves an outline, in radii.
ROUGHNESS = 0.6
# Longest over shortest radius, at most.
STRETCH = 2.5


def draw_blobs(
    count: int, area: tuple[float, float], softness: tuple[float, float], stream: RandomStream
) -> dict[str, Tensor]:
    """Draw the parameters of one patch for each of ``count`` images, see :func:`blob_weights`."""
    lines = FEWEST_CELLS + CELLS
    return {
        "area": stream.uniform((count,), *(math.log(bound) for bound in area)).exp(),
        "softness": stream.uniform((count,), *softness),
        "stretch": stream.uniform((count,), 0.0, math.log(STRETCH)).exp(),
        "angle": stream.uniform((count,), 0.0, math.pi),
        "cells": FEWEST_CELLS + stream.choice((count, 2), CELLS),
        "gradients": stream.uniform((count, lines, lines), 0.0, 2 * math.pi),
    }


def blob_radius(params: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    """Compute the radius in pixels of a disc of the drawn area, ``(B,)``."""
    return (params["area"] * size[0] * size[1] / math.pi).sqrt()


def blob_weights(params: dict[str, Tensor], center: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute how much each pixel belongs to the patch of its image.

    Args:
        params: Those of :func:`draw_blobs`.
        center: ``(B, 2)``, x first, in pixels.
        size: ``(H, W)``.

    Returns:
        ``(B, 1, H, W)`` float32 in ``[0, 1]``: 0 outside of the outline, 1 further inside than the softness.

    Example:
        >>> drawn = draw_blobs(2, (0.1, 0.1), (0.0, 0.0), RandomStream())
        >>> weights = blob_weights(drawn, torch.full((2, 2), 32.0), (64, 64))
        >>> weights.shape, weights.unique().tolist()
        (torch.Size([2, 1, 64, 64]), [0.0, 1.0])
    """
    x, y = offsets(center, size)
    cos, sin = per_image(params["angle"].cos(), x), per_image(params["angle"].sin(), x)
    ratio = per_image(params["stretch"].sqrt(), x)
    distance = ((x * cos + y * sin) / ratio).hypot((y * cos - x * sin) * ratio) / per_image(
        blob_radius(params, size), x
    )
    depth = 1 - distance + ROUGHNESS * perlin_noise(params["gradients"], params["cells"], size)[:, None]
    rise = (depth / per_image(params["softness"], x).clamp(min=1e-6)).clamp(0, 1)
    return rise * rise * (3 - 2 * rise)


def offsets(center: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Compute how far pixels lie from centres ``(B, 2)``: x ``(B, 1, 1, W)`` and y ``(B, 1, H, 1)``, in pixels."""
    rows = torch.arange(size[0], device=center.device, dtype=center.dtype)
    columns = torch.arange(size[1], device=center.device, dtype=center.dtype)
    return columns - per_image(center[:, 0], center), rows[:, None] - per_image(center[:, 1], center)
