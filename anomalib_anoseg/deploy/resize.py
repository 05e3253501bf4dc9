"""One resize for all: what torchvision computes with antialiasing, in operations that every runtime computes alike.

anomalib resizes with antialiasing in training, validation, test and prediction. For ``forward()`` and exported files it
turns antialiasing off, because runtimes disagree about that operation. A file then sees other pixels than the model
that was tested, and decides differently. Here files resize by matrix products, the rows in groups, with weights that
follow from the sizes.
"""

from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Resize

GROUPS = 16  # of rows, in which pictures are resized


class MatrixResize(nn.Module):
    """Resize as torchvision's bilinear ``Resize`` with antialiasing does.

    Args:
        size: Height and width in pixels; or the shorter side alone.

    Example:
        >>> image = torch.rand(2, 3, 50, 70)
        >>> expected = Resize((32, 48), antialias=True)(image)
        >>> torch.allclose(MatrixResize((32, 48))(image), expected, atol=1e-6)
        True
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """Resize ``(..., H, W)`` images, in float32 whatever the precision around."""
        height, width = self._find_size(image)
        # Sides that are dynamic in an export are no int, and cannot be compared.
        if all(isinstance(side, int) for side in image.shape[-2:]) and image.shape[-2:] == (height, width):
            return image
        with torch.autocast(image.device.type, enabled=False):
            rows = triangle_weights(image.shape[-2], height, image)
            columns = triangle_weights(image.shape[-1], width, image)
            # Transposed: OpenVINO does not compile a product before a normalisation with weights in float16.
            return (columns @ _resize_rows(rows, image.float()).mT).mT

    def _find_size(self, image: Tensor) -> tuple[int, int]:
        if len(self.size) > 1:
            return self.size[0], self.size[1]
        height, width = image.shape[-2:]
        (short,) = self.size
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)


def _resize_rows(weights: Tensor, image: Tensor) -> Tensor:
    """Multiply ``(..., H, W)`` images by weights ``(h, H)``, a group of rows at a time.

    Nearly all weights are 0: a group is made of the rows that it sees, which are few of a large picture's.
    """
    after, before = weights.shape[0], image.shape[-2]
    length = -(-after // GROUPS)
    reach = before // after + 2  # of a triangle beyond the group, and what rounding takes
    parts = []
    for first in range(0, after, length):
        start: Any = first * before // after - reach
        start = start.clamp(min=0) if isinstance(start, Tensor) else torch.sym_max(start, 0)  # a tensor in a trace
        stop = (first + length) * before // after + reach
        parts.append(weights[first : first + length, start:stop] @ image[..., start:stop, :])
    return torch.cat(parts, -2)


def triangle_weights(before: int, after: int, like: Tensor) -> Tensor:
    """Compute with which weights pixels make the pixels of a resized row or column.

    A pixel is the mean of those around its place, weighted by a triangle as wide as it is, or as they are if that is
    more.

    Args:
        before: Number of pixels there are.
        after: Number of pixels there shall be.
        like: Tensor on whose device the weights are.

    Returns:
        ``(after, before)`` float32, rows with a sum of 1.

    Example:
        >>> triangle_weights(4, 2, torch.zeros(1))
        tensor([[0.4286, 0.4286, 0.1429, 0.0000],
                [0.0000, 0.1429, 0.4286, 0.4286]])
    """
    # Places in whole numbers, of a half pixel of each scale's: a runtime that computes in bfloat16 has no 1001.5.
    places = (2 * torch.arange(before, device=like.device) + 1) * after
    centres = (2 * torch.arange(after, device=like.device) + 1) * before
    reach = 2 * (torch.ones((), dtype=torch.int64, device=like.device) * before).clamp(min=after)
    weights = (reach - (places - centres[:, None]).abs()).clamp(min=0) / reach
    return weights / weights.sum(1, keepdim=True)


def use_matrix_resize(pre_processor: Any) -> None:  # noqa: ANN401 - anomalib's PreProcessor, or none
    """Let a pre-processor resize in ``forward()`` and exports as it does in training, if it antialiases there."""
    transform, exported = (getattr(pre_processor, name, None) for name in ("transform", "export_transform"))
    if isinstance(transform, Resize) and isinstance(exported, Resize):
        pre_processor.export_transform = _replace(transform, exported)
    elif isinstance(transform, Compose) and isinstance(exported, Compose):
        pairs = zip(transform.transforms, exported.transforms, strict=True)
        exported.transforms = list(starmap(_replace, pairs))


def _replace(transform: Any, exported: Any) -> Any:  # noqa: ANN401
    if not isinstance(transform, Resize) or not isinstance(exported, Resize):
        return exported
    mode = getattr(transform.interpolation, "value", transform.interpolation)  # newer versions keep plain text
    is_like_ours = mode == "bilinear" and transform.antialias and transform.max_size is None
    return MatrixResize(tuple(transform.size)) if is_like_ours else exported
