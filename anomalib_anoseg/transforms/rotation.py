"""Rotation, the first step of AnoSeg's hard augmentation."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.transforms._tensors import constant, in_parts, move_pixels
from anomalib_anoseg.transforms.base import SeededAugmentation
from anomalib_anoseg.transforms.random_stream import RandomStream

QUARTER, HALF = 90, 180
ANGLES = (QUARTER, HALF, 270)


class RandomQuarterRotation(SeededAugmentation):
    """Rotate each image by 90, 180 or 270 degrees, counter-clockwise, exactly: pixels move, none is interpolated.

    AnoSeg (arXiv 2110.03396, Sec. 3.1 and Fig. 3) rotates before it permutes and jitters; the figure shows 180
    degrees, the set of angles is our choice.

    Args:
        angles: Angles to choose from, in degrees, a subset of ``(90, 180, 270)``.
        p: Probability of rotating an image.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If ``angles`` is empty or holds another angle.

    Convention:
        - ``_params["angle"]``: ``(B,)`` int64, index into ``angles``.
        - An image that is not square keeps its shape, so it is rotated by 180 degrees whatever was drawn.
        - A mask is rotated with its image.

    Example:
        >>> import torch
        >>> image = torch.arange(4.0).view(1, 1, 2, 2) / 4
        >>> torch.equal(RandomQuarterRotation(angles=(90,), p=1.0)(image), image.rot90(1, (-2, -1)))
        True
    """

    def __init__(self, angles: tuple[int, ...] = ANGLES, p: float = 0.5, keepdim: bool = False) -> None:
        if not angles or not set(angles) <= set(ANGLES):
            raise ValueError(f"angles must be a non-empty subset of {ANGLES}, got {tuple(angles)}.")
        super().__init__(p=p, keepdim=keepdim)
        self.flags = {"angles": tuple(angles)}

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw one of the angles for every image."""
        return {"angle": stream.choice((shape[0],), len(self.flags["angles"]))}

    def change(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Rotate ``(B, C, H, W)`` images."""
        height, width = image.shape[-2:]
        if height != width:
            return image.flip((-2, -1))
        angle = constant(self.flags["angles"], image.device, torch.int64)[params["angle"]][:, None, None]
        columns, last = torch.arange(width, device=image.device), width - 1
        rows = columns[:, None]
        # Where does the pixel that ends up at (row, column) come from? 180 degrees mirror both; 90 and 270 swap them.
        from_row = torch.where(angle == HALF, last - rows, torch.where(angle == QUARTER, columns, last - columns))
        from_column = torch.where(angle == HALF, last - columns, torch.where(angle == QUARTER, last - rows, rows))
        return move_pixels(image, from_row, from_column)

    change_mask = change


def rotate(image: Tensor, degrees: Tensor, padding: str, mode: str = "bilinear") -> Tensor:
    """Rotate images about their centre.

    kornia's ``rotate`` does the same but inverts a matrix on the way, so that the host waits for a GPU.

    Args:
        image: ``(B, C, H, W)``, floating point.
        degrees: ``(B,)``, counter-clockwise, on the device of ``image``.
        padding: Values outside the image: ``"zeros"``, ``"border"`` or ``"reflection"``.
        mode: Interpolation between pixels: ``"bilinear"`` or ``"nearest"``.

    Returns:
        ``(B, C, H, W)``, dtype of ``image``.
    """
    height, width = image.shape[-2:]
    sides = ((side, torch.arange(side, dtype=torch.float32, device=image.device)) for side in (width, height))
    columns, rows = (numbers + 0.5 - side / 2 for side, numbers in sides)
    radians = degrees.deg2rad()[:, None, None]
    cos, sin = radians.cos(), radians.sin()
    # The positions to sample, in halves of a side: a column's part plus a row's part, by broadcasting, which is several
    # times as fast as `affine_grid`.
    by_column = torch.stack((cos * columns * (2 / width), sin * columns * (2 / height)), 1)
    by_row = torch.stack((-sin * rows[:, None] * (2 / width), cos * rows[:, None] * (2 / height)), 1)
    grids = (
        (by_column + row.movedim(0, 2)).movedim(1, -1).to(image.dtype)
        for (row,) in in_parts((height, width), by_row.movedim(2, 0))
    )
    with torch.autocast(image.device.type, enabled=False):
        return torch.cat([F.grid_sample(image, grid, mode, padding, align_corners=False) for grid in grids], 2)
