"""How pictures look to the networks: light, contrast and sharpness, by which a change of any is noticed."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["PROPERTIES", "grey_of", "measure", "summarize"]

PROPERTIES = ("grey", "contrast", "sharpness")
# Share of good pictures beyond each end of a range.
OUTER = 0.1
ROUNDING = 1e-9  # of products that are whole numbers
DIGITS = 6


def grey_of(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """Shrink an RGB picture as networks see it, in grey levels ``(H, W)`` from 0 to 255.

    It is resized as torch resizes, bilinearly and antialiased, in floating point: both agree to 0.001 grey levels.

    Args:
        picture: Of any size.
        size: Height and width in pixels.

    Example:
        >>> grey_of(Image.new("RGB", (40, 30), (100, 0, 0)), (1, 2))
        array([[29.9, 29.9]], dtype=float32)
    """
    return np.asarray(picture.convert("F").resize(size[::-1], Image.Resampling.BILINEAR))


def measure(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Measure the properties of pictures.

    Args:
        grey: ``(N, H, W)``, grey levels.

    Returns:
        ``(N, 3)``: the mean, the standard deviation, and the mean difference of neighbouring pixels in parts of that,
        which depends on neither light nor contrast.

    Example:
        >>> measure(np.array([[[10.0, 30.0], [10.0, 30.0]]], np.float32))
        array([[20., 10.,  1.]])
    """
    levels = grey.astype(np.float64)
    contrast = levels.std(axis=(1, 2))
    steps = [np.abs(np.diff(levels, axis=axis)).sum(axis=(1, 2)) for axis in (1, 2)]
    with np.errstate(divide="ignore", invalid="ignore"):
        sharpness = np.where(contrast > 0, sum(steps) / contrast, 0.0) / math.prod(levels.shape[1:])
    return np.stack((levels.mean(axis=(1, 2)), contrast, sharpness), axis=1)


def summarize(looks: NDArray[np.float64], size: tuple[int, int]) -> dict[str, Any]:
    """Describe good pictures by few numbers: of each property the ends of a range that most keep to, and the median.

    Args:
        looks: ``(N, 3)``, what :func:`measure` returns.
        size: Height and width in pixels at which they were measured.

    Returns:
        Plain values: ``size``, ``good_images``, how many of them lie ``outside`` at each end, and for each property the
        lower end, the median and the upper end.

    Example:
        >>> summarize(np.arange(1.0, 20.0)[:, None] * [1, 2, 3], (128, 128))["contrast"]
        [4.0, 20.0, 36.0]
    """
    images = len(looks)
    # As many new pictures lie below the n-th lowest as n / (images + 1), on average.
    outside = max(1, math.floor(OUTER * (images + 1) + ROUNDING))
    ranks = np.sort(looks, axis=0)
    ends = np.stack((ranks[outside - 1], np.median(looks, axis=0), ranks[-outside]), axis=1)
    ranges = dict(zip(PROPERTIES, ends.round(DIGITS).tolist(), strict=True))
    return {"size": list(size), "good_images": images, "outside": outside, **ranges}
