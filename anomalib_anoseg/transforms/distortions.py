"""DRAEM's augmentation of foreign textures: three of ten distortions an image, all on the device and in batch.

Every distortion has parameters that change nothing, so all images go through the same few passes whatever was chosen
for them: one rotation, one 3x3 kernel, one colour matrix and one table of 256 values a channel. That table is the
product of all distortions that change each value for itself, so that these cost next to nothing.
"""

import torch
from torch import Tensor

from anomalib_anoseg.transforms.base import SeededAugmentation, per_image
from anomalib_anoseg.transforms.color_jitter import LUMA, color_matrix

DISTORTIONS = (
    "rotation",
    "sharpness",
    "color",
    "gamma",
    "brightness",
    "solarize",
    "posterize",
    "invert",
    "autocontrast",
    "equalize",
)
CHOSEN = 3
LEVELS = 256
# Histograms are taken from a grid of about this many pixels a side: a few thousand values suffice for 256 levels.
HISTOGRAM_SIDE = 64


def draw_distortions(transform: SeededAugmentation, count: int, channels: int = 3) -> dict[str, Tensor]:
    """Choose three of the ten distortions for each image, and draw the strength of each.

    All sets of three are equally likely. The ranges are those of DRAEM (arXiv 2108.07610) as published with its code;
    where that leaves them to a library's defaults they are our choice.

    Args:
        transform: Whose random stream to draw from.
        count: Number of images ``B``.
        channels: Number of channels ``C``.

    Returns:
        ``chosen`` ``(B, 10)`` bool, in the order of :data:`DISTORTIONS`; ``rotation`` in degrees, ``sharpness`` (0
        blurs, 1 keeps), ``hue`` in full circles, ``saturation``, ``factor`` and ``offset`` of the brightness,
        ``solarize`` (the threshold), all float32 ``(B,)``; ``gamma`` ``(B, C)``; ``posterize`` (bits kept), int64
        ``(B,)``.
    """
    one = (count,)
    return {
        # Any three places of a random permutation are as likely to hold 0, 1 and 2 as any others.
        "chosen": transform.uniform((count, len(DISTORTIONS)), 0.0, 1.0).argsort(1) < CHOSEN,
        "rotation": transform.uniform(one, -45.0, 45.0),
        "sharpness": transform.uniform(one, 0.0, 3.0),
        "hue": transform.uniform(one, -50 / 255, 50 / 255),
        "saturation": transform.uniform(one, 0.5, 1.5),
        "gamma": transform.uniform((count, channels), 0.5, 2.0),
        "factor": transform.uniform(one, 0.8, 1.2),
        "offset": transform.uniform(one, -30 / 255, 30 / 255),
        "solarize": transform.uniform(one, 32 / 255, 128 / 255),
        "posterize": 1 + transform.choice(one, 7),
    }


def is_chosen(params: dict[str, Tensor], name: str) -> Tensor:
    """Tell which images get a distortion, bool ``(B,)``."""
    return params["chosen"][:, DISTORTIONS.index(name)]


def distort(image: Tensor, scratch: Tensor, params: dict[str, Tensor]) -> Tensor:
    """Apply what :func:`draw_distortions` chose, but for the rotation, which is part of looking a texture up.

    They follow each other in the order of :data:`DISTORTIONS`, where DRAEM draws the order, too: so the last seven
    share one look-up. The histograms of autocontrast and equalize are estimated from part of the pixels. No gradient.

    Args:
        image: ``(B, C, H, W)``, float32, in ``[0, 255]``, contiguous, sides of 3 pixels or more; overwritten.
        scratch: Memory of the same shape and dtype, overwritten, too: fresh memory of this size costs a CPU as much as
            several passes over it.
        params: What was drawn, on the device of ``image``.

    Returns:
        ``(B, C, H, W)``, float32, in ``[0, 1]``, of 256 levels, in the memory of ``image`` or ``scratch``.
    """
    shape, tables = image.shape[:2], image.shape[:2].numel()
    _sharpen(image, scratch, params["sharpness"].where(is_chosen(params, "sharpness"), 1.0))
    if shape[1] == len(LUMA):
        is_colored = is_chosen(params, "color")
        luma = image.new_tensor(LUMA)
        matrix = color_matrix(params["saturation"].where(is_colored, 1.0), params["hue"].where(is_colored, 0.0), luma)
        torch.bmm(matrix, image.flatten(2), out=scratch.view(*shape, -1))
        image, scratch = scratch, image
    # All tables lie behind each other, so that one look-up serves all; half a level makes the cast round.
    start = torch.arange(0.5, tables * LEVELS, LEVELS, device=image.device).view(*shape, 1, 1)
    index = scratch.view(torch.int32).copy_(image.clamp_(0, LEVELS - 1).add_(start))
    stride = max(1, min(image.shape[-2:]) // HISTOGRAM_SIDE)
    sample = index[..., ::stride, ::stride].flatten().long()
    histogram = image.new_zeros(tables * LEVELS).scatter_add_(0, sample, torch.ones_like(sample, dtype=image.dtype))
    table = _tone_table(histogram.view(*shape, LEVELS), params)
    torch.index_select(table.flatten(), 0, index.flatten(), out=image.view(-1))
    return image


def _sharpen(image: Tensor, scratch: Tensor, factor: Tensor) -> None:
    """Move each pixel away from the mean of its surroundings, or towards it; the outermost ones stay, as in Pillow.

    Sums of shifted images take a fraction of a convolution's time on a CPU. Those along the rows are taken as if all
    images were one row: what then runs from one row into the next belongs to the outermost pixels alone.
    """
    pixels = image.view(-1)
    torch.add(pixels[:-2], pixels[1:-1], out=scratch.view(-1)[1:-1]).add_(pixels[2:])
    # Pillow's kernel is (1, 1, 1; 1, 5, 1; 1, 1, 1) / 13, so that 4 of 13 parts are the pixel itself, and
    # smooth + factor * (pixel - smooth) is this sum.
    rest = per_image((1 - factor) / 13, image)
    inner, last = image[..., 1:-1, 1:-1].mul_(1 - 9 * rest), image.shape[-2] - 2
    for row in range(3):
        inner.addcmul_(scratch[..., row : row + last, 1:-1], rest)


def _tone_table(histogram: Tensor, params: dict[str, Tensor]) -> Tensor:
    """Compose the chosen distortions of single values into tables ``(B, C, 256)`` for images of that histogram."""
    factor, offset, threshold = (params[name][:, None, None] for name in ("factor", "offset", "solarize"))
    step = 2.0 ** (8 - params["posterize"][:, None, None]) / (LEVELS - 1)
    table = torch.linspace(0, 1, LEVELS, device=histogram.device).expand_as(histogram)

    def where_chosen(name: str, changed: Tensor) -> Tensor:
        return torch.where(is_chosen(params, name)[:, None, None], changed, table)

    table = where_chosen("gamma", table ** params["gamma"][..., None])
    table = where_chosen("brightness", (table * factor + offset).clamp(0, 1))
    table = where_chosen("solarize", torch.where(table < threshold, table, 1 - table))
    table = where_chosen("posterize", (table / step + 1e-4).floor() * step)
    table = where_chosen("invert", 1 - table)
    table = where_chosen("autocontrast", _autocontrast(table, histogram))
    return where_chosen("equalize", _equalize(table, histogram))


def _autocontrast(table: Tensor, histogram: Tensor) -> Tensor:
    """Stretch the values that occur to ``[0, 1]``; a single value stays."""
    darkest = table.where(histogram > 0, 1.0).amin(2, keepdim=True)
    brightest = table.where(histogram > 0, 0.0).amax(2, keepdim=True)
    span = brightest - darkest
    return torch.where(span > 0, ((table - darkest) / span).clamp(0, 1), table)


def _equalize(table: Tensor, histogram: Tensor) -> Tensor:
    """Give each value the share of the pixels below it, so that the brightest becomes 1; a single value stays."""
    level = (table * (LEVELS - 1)).round().long()
    occurring = torch.zeros_like(histogram).scatter_add_(2, level, histogram)
    below = occurring.cumsum(2) - occurring
    brightest = below.where(occurring > 0, 0.0).amax(2, keepdim=True)
    return torch.where(brightest > 0, (below / brightest).clamp(0, 1).gather(2, level), table)
