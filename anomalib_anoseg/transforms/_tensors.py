"""Small functions on tensors that several transforms need."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# See `in_parts`: the number of parts, and the smallest number of pixels of an image for which they are faster.
PARTS, WORTH_PARTS = 8, 128 * 128
# A larger difference of a pixel is just visible.
VISIBLE = 3 / 255


def as_batch(image: Tensor) -> Tensor:
    """Make a batch of one from a single image, ``(C, H, W)``; a batch stays as it is."""
    return image if image.ndim == 4 else image[None]  # noqa: PLR2004


def with_channel(mask: Tensor) -> Tensor:
    """Give masks ``(B, H, W)`` a channel, ``(B, 1, H, W)``; masks that have one stay as they are."""
    return mask if mask.ndim == 4 else mask.unsqueeze(1)  # noqa: PLR2004


def find_changed(after: Tensor, before: Tensor) -> Tensor:
    """Find the pixels of ``(B, C, H, W)`` images that changed by more than :data:`VISIBLE`: bool ``(B, 1, H, W)``."""
    return ((after - before).abs() > VISIBLE).any(1, keepdim=True)


def constant(
    values: Sequence[float] | Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Copy numbers to a device without making the host wait, as ``torch.tensor(..., device=device)`` would."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def on_device(params: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy parameters to a device, except kornia's shape of the input, which stays on the host."""
    return {
        name: value if name.endswith("forward_input_shape") else value.to(device, non_blocking=True)
        for name, value in params.items()
    }


def under_prefix(prefix: str, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the parameters of a nested transform, whose names start with ``prefix``, and remove the prefix."""
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def add_prefix(prefix: str, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put ``prefix`` before the names of parameters, see :func:`under_prefix`."""
    return {f"{prefix}{name}": value for name, value in params.items()}


def check_images(input: Tensor) -> Tensor:
    """Reshape images to ``(B, C, H, W)``.

    Raises:
        ValueError: If they have another shape or no floating point dtype.
    """
    if input.ndim not in {3, 4} or not input.is_floating_point():
        raise ValueError(
            "Images must be floating point of shape (B, C, H, W) or (C, H, W), with values in [0, 1], got "
            f"{input.dtype} {tuple(input.shape)}; divide 8-bit values by 255."
        )
    return as_batch(input)


def rows_of(params: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Take the parameters of some images by their indices, ``(K,)`` int64."""
    return {
        name: value if name.endswith("forward_input_shape") else value.to(images.device).index_select(0, images)
        for name, value in params.items()
    }


def in_parts(image_size: tuple[int, int], *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split values along their first dimension, each into the same number of parts, whatever the batch size.

    On a CPU, parts are faster for large images: intermediate results reuse the memory of the previous part, so
    the system need not provide new pages. Otherwise there is one part.
    """
    is_worth_it = values[0].device.type == "cpu" and math.prod(image_size) >= WORTH_PARTS
    return zip(*(value.tensor_split(PARTS if is_worth_it else 1) for value in values), strict=True)


def per_image(values: Tensor, image: Tensor) -> Tensor:
    """Reshape one value per image, ``(B,)``, to ``(B, 1, 1, 1)`` on the image's device, so that it broadcasts."""
    return values.to(image.device, non_blocking=True).view(-1, 1, 1, 1)


def move_pixels(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Fill each pixel of ``(B, C, H, W)`` images from the row and column given for it, each ``(B, H, W)`` int64."""
    index = (rows * image.shape[-1] + columns).flatten(1)
    moved = image.flatten(2).gather(2, index[:, None].expand(-1, image.shape[1], -1))
    return moved.view_as(image)
