"""One resize for all: what torchvision computes with antialiasing, in operations that every runtime computes alike.

anomalib resizes with antialiasing in training, validation, test and prediction. For ``forward()`` and exported files it
turns antialiasing off, because runtimes disagree about that operation. A file then sees other pixels than the model
that was tested, and decides differently. Here files resize by matrix products, with weights that follow from the
sizes.
"""

from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Resize

GROUPS = 16  # of rows or columns, in which pictures are resized


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
            # Transposed: OpenVINO does not compile a product before a normalisation with weights in float16.
            return _resize_rows(_resize_rows(image.float(), height).mT, width).mT

    def _find_size(self, image: Tensor) -> tuple[int, int]:
        if len(self.size) > 1:
            return self.size[0], self.size[1]
        height, width = image.shape[-2:]
        (short,) = self.size
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)


def _resize_rows(image: Tensor, after: int) -> Tensor:
    """Resize ``(..., H, W)`` images to ``(..., after, W)``, a group of rows at a time.

    Nearly all weights are 0: a group is made of the rows that it sees, which are few of a large picture's. All groups
    see equally many, by their indices: with slices of lengths of their own an export would take twice as long.
    """
    before, device = image.shape[-2], image.device
    length = -(-after // GROUPS)
    rows = torch.arange(GROUPS * length, device=device).clamp(max=after - 1).view(GROUPS, length)
    reach = before // after + 2  # of a triangle beyond the group, and what rounding takes
    first = (rows[:, :1] * before // after - reach).clamp(min=0)
    seen = first + torch.arange(length * before // after + 2 * reach + 1, device=device)
    # The last groups may repeat the last row, and see rows that are not there.
    weights = triangle_weights(rows, seen, before, after).to(image.dtype)
    groups = zip(weights, seen.clamp(max=before - 1), strict=True)
    return torch.cat([part @ image.index_select(-2, indices) for part, indices in groups], -2)[..., :after, :]


def triangle_weights(rows: Tensor, seen: Tensor, before: int, after: int) -> Tensor:
    """Compute with which weights pixels make the pixels of a resized row or column.

    A pixel is the mean of those around its place, weighted by a triangle as wide as it is, or as they are if that is
    more.

    Args:
        rows: ``(..., R)`` int64, pixels to make.
        seen: ``(..., S)`` int64, pixels to make them of; one that is not there has no weight.
        before: Number of pixels there are.
        after: Number of pixels there shall be.

    Returns:
        ``(..., R, S)`` float32, rows with a sum of 1.

    Example:
        >>> triangle_weights(torch.arange(2), torch.arange(4), before=4, after=2)
        tensor([[0.4286, 0.4286, 0.1429, 0.0000],
                [0.0000, 0.1429, 0.4286, 0.4286]])
    """
    # Places in whole numbers, of a half pixel of each scale's: a runtime that computes in bfloat16 has no 1001.5.
    places, centres = (2 * seen + 1) * after, (2 * rows + 1) * before
    reach = 2 * (torch.ones_like(seen[..., :1]) * before).clamp(min=after)[..., None]
    weights = (reach - (places[..., None, :] - centres[..., None]).abs()).clamp(min=0) / reach
    weights *= (seen < before)[..., None, :]
    return weights / weights.sum(-1, keepdim=True)


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
