"""Rotated rectangles that are cut from one place of an image and pasted at another."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Patches:
    """Rectangles to cut and paste, ``A`` for each of ``B`` images, in pixels of an ``H`` x ``W`` image.

    Args:
        size: ``(B, A, 2)``, width and height.
        center: ``(B, A, 2)``, where they are pasted, x first.
        shift: ``(B, A, 2)``, from there to where they are cut, in whole pixels.
        angle: ``(B, A)``, radians.
        opacity: ``(B, A)``, weight over the pixels that they cover.
        softness: ``(B, A)``, fraction of the way from rim to centre over which the opacity rises from 0.
        image_size: ``(H, W)``.
    """

    def __init__(
        self,
        size: Tensor,
        center: Tensor,
        shift: Tensor,
        angle: Tensor,
        opacity: Tensor,
        softness: Tensor,
        image_size: tuple[int, int],
    ) -> None:
        self.size, self.center, self.shift, self.angle = size, center, shift, angle
        self.opacity, self.softness = opacity, softness
        self.image_size = image_size

    @classmethod
    def from_params(cls, params: dict[str, Tensor], number: int, image: Tensor) -> "Patches":
        """Scale the drawn fractions of all attempts at patch ``number`` to the size of ``image``."""
        names = ("area", "aspect", "angle", "opacity", "softness", "center", "origin")
        area, aspect, angle, opacity, softness, center, origin = (params[name][:, number] for name in names)
        height, width = image.shape[-2:]
        canvas = torch.stack((torch.full_like(area, width), torch.full_like(area, height)), -1)
        size = torch.stack(((area * height * width * aspect).sqrt(), (area * height * width / aspect).sqrt()), -1)
        size = torch.minimum(size.clamp(min=2.0), canvas)
        pasted_at = center * (canvas - 1)
        cut_from = (size - 1) / 2 + origin * (canvas - size)
        return cls(size, pasted_at, (cut_from - pasted_at).round(), angle, opacity, softness, (height, width))

    def select(self, index: Tensor) -> "Patches":
        """Take one patch per image by its index ``(B,)``."""
        rows = torch.arange(index.shape[0], device=index.device)
        values = (self.size, self.center, self.shift, self.angle, self.opacity, self.softness)
        size, center, shift, angle, opacity, softness = (value[rows, index][:, None] for value in values)
        return Patches(size, center, shift, angle, opacity, softness, self.image_size)

    def sample(self, source: Tensor, stride: int = 1) -> tuple[Tensor, Tensor]:
        """Sample the patches at every ``stride``-th row and column.

        Args:
            source: ``(B, C, H, W)``, float32, the images from which they are cut.
            stride: Distance between sampled rows and columns, in pixels.

        Returns:
            Values ``(B, C, A, H, W)``, and their weights ``(B, A, H, W)`` over the image, in ``[0, 1]``, 0 outside the
            patches.
        """
        x, y = self._local_coordinates(stride)
        cut_from = self.center + self.shift
        half_height, half_width = ((side - 1) / 2 for side in self.image_size)
        grid_x = (x + (cut_from[..., 0] - half_width)[..., None, None]) / half_width
        grid_y = (y + (cut_from[..., 1] - half_height)[..., None, None]) / half_height
        # The patches are stacked in one grid, so that each image is sampled once.
        grid = torch.stack((grid_x, grid_y), -1).flatten(1, 2)
        values = F.grid_sample(source, grid, padding_mode="border", align_corners=True)
        return values.unflatten(2, x.shape[1:3]), self._weights(x, y)

    def mean_difference(self, image: Tensor, values: Tensor, weights: Tensor, stride: int = 1) -> Tensor:
        """Compute the mean absolute change of its image that each patch would cause, ``(B, A)``."""
        difference = (values - image[:, :, None, ::stride, ::stride]).abs().mean(1) * weights
        return difference.sum((-2, -1)) / (weights > 0).sum((-2, -1)).clamp(min=1)

    def _weights(self, x: Tensor, y: Tensor) -> Tensor:
        half_width, half_height = (self.size[..., axis, None, None] / 2 for axis in (0, 1))
        inside = (x.abs() <= half_width) & (y.abs() <= half_height)
        softness = self.softness[..., None, None]
        rise = 1 / softness.clamp(min=1e-6)
        rim = ((1 - x.abs() / half_width) * rise).clamp(0, 1) * ((1 - y.abs() / half_height) * rise).clamp(0, 1)
        return torch.where(softness > 0, rim, 1.0) * self.opacity[..., None, None] * inside

    def _local_coordinates(self, stride: int) -> tuple[Tensor, Tensor]:
        """Compute pixel positions relative to a patch's centre, rotated back by its angle: x, y, ``(B, A, H, W)``."""
        height, width = self.image_size
        rows = torch.arange(0, height, stride, device=self.size.device, dtype=torch.float32)
        columns = torch.arange(0, width, stride, device=self.size.device, dtype=torch.float32)
        dx = (columns - self.center[..., 0, None])[:, :, None, :]
        dy = (rows - self.center[..., 1, None])[:, :, :, None]
        cos, sin = self.angle.cos()[..., None, None], self.angle.sin()[..., None, None]
        return dx * cos + dy * sin, dy * cos - dx * sin
