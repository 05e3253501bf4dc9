"""DRAEM's augmentation of foreign textures: three of ten distortions per image, on the device and in batch.

Rotation, sharpness and colours change a random subset of the images (:mod:`.subsets`). All other distortions map single
values: they are composed in a table of the 256 values, in which the images look up their values once.
"""

from itertools import combinations, groupby
from operator import itemgetter

import torch
from torch import Tensor

from anomalib_anoseg.transforms._tensors import constant, in_parts, per_image
from anomalib_anoseg.transforms.color_jitter import LUMA, color_matrix
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.rotation import rotate
from anomalib_anoseg.transforms.subsets import assign_places, max_selected, selected_images, stratified_uniform

# In the order in which they are applied; the last seven map single values.
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
COSTLY = DISTORTIONS[:3]
CHOSEN = 3
# All sets of three, ordered such that, as far as possible, those with the same costly distortion are adjacent.
_KINDS = ["R", "RC", "RSC", "RS", "S", "SC", "C", ""]
SETS = sorted(
    ([name in names for name in DISTORTIONS] for names in combinations(DISTORTIONS, CHOSEN)),
    key=lambda members: _KINDS.index("".join(kind for kind, member in zip("RSC", members, strict=False) if member)),
)
# Ranges of strengths: degrees; sharpness as a factor (0 blurs, 1 keeps); full circles; a factor; brightness as a factor
# and an offset; the threshold of solarize, in [0, 1].
RANGES = {
    "rotation": (-45.0, 45.0),
    "sharpness": (0.0, 3.0),
    "hue": (-50 / 255, 50 / 255),
    "saturation": (0.5, 1.5),
    "factor": (0.8, 1.2),
    "offset": (-30 / 255, 30 / 255),
    "solarize": (32 / 255, 128 / 255),
}
LEVELS = 256
# Histograms are taken from a grid of about this many pixels per side: a few thousand values suffice for 256 levels.
HISTOGRAM_SIDE = 64


def draw_distortions(stream: RandomStream, count: int, channels: int = 3) -> dict[str, Tensor]:
    """Choose three of the ten distortions for each image, and draw the strength of each.

    All sets of three are equally likely. The ranges are those of DRAEM (arXiv 2108.07610) as published with its code;
    where that code uses a library's defaults, they are our choice.

    Args:
        stream: Random stream.
        count: Number of images ``B``.
        channels: Number of channels ``C``.

    Returns:
        ``chosen`` ``(B, 10)`` bool, in the order of :data:`DISTORTIONS`; ``places`` ``(B, 3, K)`` bool, see
        :func:`~.subsets.assign_places`, for the :data:`COSTLY` ones; each of :data:`RANGES`, float32 ``(B,)``;
        ``gamma`` ``(B, C)``; ``posterize`` (bits kept), int64 ``(B,)``.
    """
    device, spread = stream.device, stratified_uniform(stream, count)
    chosen = constant(SETS, device, torch.bool)[(spread * len(SETS)).long().clamp(max=len(SETS) - 1)]
    low, high = constant(list(zip(*RANGES.values(), strict=True)), device)[..., None]
    strengths = torch.lerp(low, high, stream.uniform((len(RANGES), count), 0.0, 1.0))
    return dict(zip(RANGES, strengths, strict=True)) | {
        "chosen": chosen,
        "places": assign_places(
            chosen[:, : len(COSTLY)], max(_max_distorted(number, count) for number in range(len(COSTLY)))
        ),
        "gamma": stream.uniform((count, channels), 0.5, 2.0),
        "posterize": 1 + stream.choice((count,), 7),
    }


def _max_distorted(number: int, count: int) -> int:
    """Count how many of ``count`` images can have a distortion, over all runs of sets that have it."""
    runs = (sum(1 for _ in run) for has_it, run in groupby(SETS, key=itemgetter(number)) if has_it)
    return min(count, sum(max_selected(length / len(SETS), count) for length in runs))


def distort(image: Tensor, params: dict[str, Tensor], padding: str) -> Tensor:
    """Apply the distortions that :func:`draw_distortions` chose.

    They are applied in the order of :data:`DISTORTIONS`, so that the last seven share one look-up. DRAEM also draws the
    order. The histograms of autocontrast and equalize are estimated from part of the pixels.

    Args:
        image: ``(B, C, H, W)``, uint8, contiguous, sides of 3 pixels or more; overwritten.
        params: The drawn parameters, on the device of ``image``.
        padding: Values outside a rotated image, see :func:`~.rotation.rotate`.

    Returns:
        ``(B, C, H, W)``, float32, in ``[0, 1]``, of 256 levels.
    """
    (rotated, sharpened, colored), is_chosen = selected_images(params["places"])

    def strength(name: str, neutral: float, place: int, images: Tensor) -> Tensor:
        return params[name][images].where(is_chosen[place], neutral)

    # Nearest-neighbour sampling takes a third of the time, and the difference does not matter in a texture.
    part = image.index_select(0, rotated).float()
    part = rotate(part, strength("rotation", 0.0, 0, rotated), padding, mode="nearest")
    _replace(image, rotated, part.to(torch.uint8))
    part = _sharpen(image.index_select(0, sharpened).float(), strength("sharpness", 1.0, 1, sharpened))
    _replace(image, sharpened, _to_levels(part))
    if image.shape[1] == len(LUMA):
        saturation, hue = strength("saturation", 1.0, 2, colored), strength("hue", 0.0, 2, colored)
        part = image.index_select(0, colored).float()
        part = (color_matrix(saturation, hue, constant(LUMA, part.device)) @ part.flatten(2)).view_as(part)
        _replace(image, colored, _to_levels(part))
    return _look_up_tones(image, params)


def _replace(image: Tensor, images: Tensor, part: Tensor) -> None:
    """Replace some images by ``part``; eight pixels at a time if the width allows, which is faster."""
    width = torch.int64 if image.shape[-1] % 8 == 0 else torch.uint8
    image.view(width).index_copy_(0, images, part.view(width))


def _to_levels(image: Tensor) -> Tensor:
    """Round to 8 bits, overwriting ``image``."""
    return image.clamp_(0, LEVELS - 1).add_(0.5).to(torch.uint8)


def _look_up_tones(image: Tensor, params: dict[str, Tensor]) -> Tensor:
    """Map single values of ``(B, C, H, W)`` images, uint8 to float32 in ``[0, 1]``."""
    # All tables are concatenated, so that one look-up serves many.
    (*shape, height, width), tables = image.shape, image.shape[:2].numel()
    start = torch.arange(0, tables * LEVELS, LEVELS, device=image.device, dtype=torch.int32)[:, None, None]
    stride = max(1, min(height, width) // HISTOGRAM_SIDE)
    sample = (image[..., ::stride, ::stride].flatten(0, 1) + start).flatten().long()
    histogram = torch.zeros(tables * LEVELS, dtype=torch.float32, device=image.device)
    histogram.scatter_add_(0, sample, torch.ones_like(sample, dtype=torch.float32))
    table = _tone_table(histogram.view(*shape, LEVELS), params).flatten()
    output = torch.empty(image.shape, dtype=torch.float32, device=image.device)
    for levels, begin, looked_up in in_parts((height, width), image.flatten(0, 1), start, output.flatten(0, 1)):
        torch.index_select(table, 0, levels.int().add_(begin).flatten(), out=looked_up.view(-1))
    return output


def _sharpen(image: Tensor, factor: Tensor) -> Tensor:
    """Move each pixel away from the mean of its surroundings, or towards it; the outermost pixels stay, as in Pillow.

    Sums of shifted images take a fraction of a convolution's time on a CPU. Sums along the rows treat all
    images as one row: only at the outermost pixels do they mix one row with the next.
    """
    pixels, triple = image.view(-1), torch.empty_like(image)
    torch.add(pixels[:-2], pixels[1:-1], out=triple.view(-1)[1:-1]).add_(pixels[2:])
    # Pillow's kernel is (1, 1, 1; 1, 5, 1; 1, 1, 1) / 13, so that 4 of 13 parts are the pixel itself, and
    # smooth + factor * (pixel - smooth) is this sum.
    rest = per_image((1 - factor) / 13, image)
    inner, last = image[..., 1:-1, 1:-1].mul_(1 - 9 * rest), image.shape[-2] - 2
    for row in range(3):
        inner.addcmul_(triple[..., row : row + last, 1:-1], rest)
    return image


def _tone_table(histogram: Tensor, params: dict[str, Tensor]) -> Tensor:
    """Compose the chosen mappings of single values into tables ``(B, C, 256)`` for images with that histogram."""
    factor, offset, threshold = (params[name][:, None, None] for name in ("factor", "offset", "solarize"))
    step = 2.0 ** (8 - params["posterize"].float()[:, None, None]) / (LEVELS - 1)
    table = torch.linspace(0, 1, LEVELS, dtype=histogram.dtype, device=histogram.device).expand_as(histogram)

    def where_chosen(name: str, changed: Tensor) -> Tensor:
        return torch.where(params["chosen"][:, DISTORTIONS.index(name), None, None], changed, table)

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
