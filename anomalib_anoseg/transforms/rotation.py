"""Rotation, the first step of AnoSeg's hard augmentation."""

from typing import Any

import torch
from kornia.geometry.transform import rotate
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.transforms.base import SeededAugmentation, constant, in_parts, move_pixels

QUARTER_TURN, HALF_TURN = 90, 180
QUARTER_TURNS = (QUARTER_TURN, HALF_TURN, 270)


class RandomQuarterTurn(SeededAugmentation):
    """Turn each image by 90, 180 or 270 degrees, counter-clockwise, exactly: pixels move, none is interpolated.

    AnoSeg (arXiv 2110.03396, Sec. 3.1 and Fig. 3) rotates before it permutes and jitters; the figure shows 180
    degrees, the set of angles is our choice.

    Args:
        angles: Angles to choose from, in degrees, a subset of ``(90, 180, 270)``.
        p: Probability of turning an image.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If ``angles`` is empty or holds another angle.

    Convention:
        - ``_params["turn"]``: ``(B,)`` int64, index into ``angles``.
        - An image that is not square keeps its shape, so it turns by 180 degrees whatever was drawn.
        - A mask turns with its image.

    Example:
        >>> import torch
        >>> image = torch.arange(4.0).view(1, 1, 2, 2) / 4
        >>> torch.equal(RandomQuarterTurn(angles=(90,), p=1.0)(image), image.rot90(1, (-2, -1)))
        True
    """

    def __init__(self, angles: tuple[int, ...] = QUARTER_TURNS, p: float = 0.5, keepdim: bool = False) -> None:
        if not angles or not set(angles) <= set(QUARTER_TURNS):
            raise ValueError(f"angles must be a non-empty subset of {QUARTER_TURNS}, got {tuple(angles)}.")
        super().__init__(p=p, keepdim=keepdim)
        self.flags = {"angles": tuple(angles)}

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw one of the angles for every image."""
        return {"turn": self.choice((batch_shape[0],), len(self.flags["angles"]))}

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Turn ``(B, C, H, W)`` images."""
        del transform
        height, width = input.shape[-2:]
        if height != width:
            return input.flip((-2, -1))
        angles = constant(flags["angles"], input.device)
        angle = angles[params["turn"].to(input.device, non_blocking=True)][:, None, None]
        rows = torch.arange(height, device=input.device)[:, None]
        columns = torch.arange(width, device=input.device)
        last = height - 1
        # Where does the pixel that ends up at (row, column) come from? A half turn mirrors both, a quarter swaps them.
        from_row = torch.where(
            angle == HALF_TURN, last - rows, torch.where(angle == QUARTER_TURN, columns, last - columns)
        )
        from_column = torch.where(
            angle == HALF_TURN, last - columns, torch.where(angle == QUARTER_TURN, last - rows, rows)
        )
        return move_pixels(input, from_row, from_column)

    apply_transform_mask = apply_transform


class RandomFreeTurn(SeededAugmentation):
    """Turn each image by any angle, bilinearly, and mirror it at its borders where it leaves corners empty.

    Our option beside :class:`RandomQuarterTurn`; interpolation softens the picture, which a network can learn to see.

    Args:
        degrees: The angle is drawn from ``U(-degrees, degrees)``, ``0 < degrees <= 180``.
        p: Probability of turning an image.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If ``degrees`` is out of range.

    Convention:
        - ``_params["degrees"]``: ``(B,)`` float32.
        - A mask turns with its image and is rounded to 0 or 1.

    Example:
        >>> import torch
        >>> RandomFreeTurn(45.0)(torch.rand(2, 3, 32, 48)).shape
        torch.Size([2, 3, 32, 48])
    """

    def __init__(self, degrees: float = 180.0, p: float = 0.5, keepdim: bool = False) -> None:
        if not 0 < degrees <= 180:  # noqa: PLR2004
            raise ValueError(f"degrees must lie within (0, 180], got {degrees}.")
        super().__init__(p=p, keepdim=keepdim)
        self.flags = {"degrees": degrees}

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw an angle for every image."""
        return {"degrees": self.uniform((batch_shape[0],), -self.flags["degrees"], self.flags["degrees"])}

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Turn ``(B, C, H, W)`` images."""
        del flags, transform
        angle = params["degrees"].to(input.device, torch.float32, non_blocking=True)
        return rotate(input.float(), angle, padding_mode="reflection").to(input.dtype)

    def apply_transform_mask(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Turn ``(B, 1, H, W)`` masks."""
        return torch.round(self.apply_transform(input, params, flags, transform))


def turn(image: Tensor, degrees: Tensor, padding: str, mode: str = "bilinear") -> Tensor:
    """Turn images about their centre.

    kornia's ``rotate`` does the same but inverts a matrix on the way, for which a GPU makes the host wait.

    Args:
        image: ``(B, C, H, W)``, floating point.
        degrees: ``(B,)``, counter-clockwise, on the device of ``image``.
        padding: What comes in from outside: ``"zeros"``, ``"border"`` or ``"reflection"``.
        mode: How values are taken between pixels: ``"bilinear"`` or ``"nearest"``.

    Returns:
        ``(B, C, H, W)``, dtype of ``image``.
    """
    height, width = image.shape[-2:]
    columns, rows = ((torch.arange(side, device=image.device) + 0.5 - side / 2) for side in (width, height))
    radians = degrees.deg2rad()[:, None, None]
    cos, sin = radians.cos(), radians.sin()
    # Where from, in halves of a side: the sum of what a pixel's column and its row give, made by broadcasting, which is
    # several times as fast as `affine_grid`.
    by_column = torch.stack((cos * columns * (2 / width), sin * columns * (2 / height)), 1)
    by_row = torch.stack((-sin * rows[:, None] * (2 / width), cos * rows[:, None] * (2 / height)), 1)
    grids = (
        (by_column + row.movedim(0, 2)).movedim(1, -1).to(image.dtype)
        for (row,) in in_parts((height, width), by_row.movedim(2, 0))
    )
    with torch.autocast(image.device.type, enabled=False):
        return torch.cat([F.grid_sample(image, grid, mode, padding, align_corners=False) for grid in grids], 2)
