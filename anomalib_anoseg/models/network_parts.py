"""Parts of which the networks of this package are made."""

from torch import Tensor
from torch.nn import functional as F


def scale_channels(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Scale numbers of channels, to multiples of 8 (vector units), at least 8.

    Example:
        >>> scale_channels((64, 128, 512), 0.25)
        (16, 32, 128)
    """
    return tuple(max(8, round(count * width / 8) * 8) for count in channels)


def crop(padded: Tensor, like: Tensor) -> Tensor:
    """Cut off what padding added below and to the right of ``(B, C, H, W)``."""
    # Older exporters lose track of the sizes of slices where they depend on the image.
    return padded.narrow(-2, 0, like.shape[-2]).narrow(-1, 0, like.shape[-1])


def smoothed_maximum(anomaly_map: Tensor, window: int) -> Tensor:
    """Average ``(B, 1, H, W)`` maps over a square window and take the maximum of each, ``(B,)``.

    Over rows first and columns then: as many operations as the window has sides, instead of pixels.
    """
    rows = F.avg_pool2d(anomaly_map, (window, 1), stride=1, padding=(window // 2, 0))
    return F.avg_pool2d(rows, (1, window), stride=1, padding=(0, window // 2)).amax((1, 2, 3))
