"""Building blocks of this package's networks."""

from torch import Tensor


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
