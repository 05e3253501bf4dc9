"""Building blocks of this package's networks."""

from torch import Tensor
from torch.nn import functional as F


def scale_channels(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Scale channel counts, rounded to multiples of 8 (vector units), at least 8.

    Example:
        >>> scale_channels((64, 128, 512), 0.25)
        (16, 32, 128)
    """
    return tuple(max(8, round(count * width / 8) * 8) for count in channels)


def crop(padded: Tensor, like: Tensor) -> Tensor:
    """Crop ``(B, C, H, W)`` to the height and width of ``like``: remove padding below and to the right."""
    # Older exporters lose the sizes of slices that depend on the image.
    return padded.narrow(-2, 0, like.shape[-2]).narrow(-1, 0, like.shape[-1])


def smoothed_maximum(anomaly_map: Tensor, window: int) -> Tensor:
    """Average ``(B, 1, H, W)`` maps over a square window and take the maximum of each, ``(B,)``.

    Averages over rows, then over columns: the cost grows with the window's side, not with its area.
    """
    rows = F.avg_pool2d(anomaly_map, (window, 1), stride=1, padding=(window // 2, 0))
    return F.avg_pool2d(rows, (1, window), stride=1, padding=(0, window // 2)).amax((1, 2, 3))
