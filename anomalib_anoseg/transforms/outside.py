"""Anomalies everywhere but in a region of the picture."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.transforms._tensors import add_prefix, as_batch, under_prefix
from anomalib_anoseg.transforms.base import ForgedBatch, SyntheticAnomaly
from anomalib_anoseg.transforms.random_stream import RandomStream

INNER = "inner."


class Outside(SyntheticAnomaly):
    """Plant the anomalies of another transform, and restore a region where none may be.

    What is cut off is lost: an anomaly that lies within the region leaves an image as it was, with an empty mask.
    Without ``fill``, the anomalies elsewhere are the same as without the region.

    Args:
        anomaly: The transform. It keeps its own probability of an anomaly, but draws from the random stream of
            ``Outside``.
        region: ``(H, W)`` bool, true where nothing may be forged. For images of another size it is resized; a pixel
            that it touches belongs to it.
        fill: Value in ``[0, 1]`` that all channels get within the region, also by :meth:`rotate`, so that a network
            does not see what is there. Nor does the transform: it copies nothing out of the region, and of the saliency
            that it looks up, what lies there is 0. ``None`` keeps the pixels.
        p: Probability of an anomaly, multiplied by that of the transform.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If the region is not ``(H, W)`` bool, or ``fill`` is outside ``[0, 1]``.

    Convention:
        - The parameters of the transform are under ``inner.<name>``.
        - The region rotates with images that the transform rotates. A mask ``(B, 1, H, W)`` follows its image. In a
          container give the keys as ``["input", "mask"]``, in this order.

    Example:
        >>> import torch
        >>> from anomalib_anoseg.transforms import HardCutPaste
        >>> left = (torch.arange(64) < 32).expand(64, 64)
        >>> image = torch.rand(4, 3, 64, 64)
        >>> forged, mask = Outside(HardCutPaste(hard_p=1.0), left).manual_seed(0).forge(image)
        >>> bool(mask[..., :32].any()), bool(mask.any()), torch.equal(forged[..., :32], image[..., :32])
        (False, True, True)
    """

    region: Tensor

    def __init__(
        self,
        anomaly: SyntheticAnomaly,
        region: Tensor,
        fill: float | None = None,
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        if region.ndim != 2 or region.dtype != torch.bool:  # noqa: PLR2004
            raise ValueError(f"region must be bool of shape (H, W), got {region.dtype} {tuple(region.shape)}.")
        if fill is not None:
            check_value("fill", fill, 0.0, 1.0)
        super().__init__(p=p, keepdim=keepdim)
        self.anomaly, self.fill = anomaly, fill
        self.register_buffer("region", region, persistent=False)
        self.set_rng_device_and_dtype(anomaly.device, anomaly.dtype)

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw the parameters of the transform."""
        return add_prefix(INNER, self.anomaly.draw(shape, stream))

    def look_up(self, image: Tensor, paths: Sequence[str] | None) -> dict[str, Tensor]:
        """Let the transform look up what depends on the images or their files."""
        found = self.anomaly.look_up(self._hide(image, self._fit(image)), paths)
        if self.fill is not None:
            found |= {
                name: value.masked_fill(self._fit(value), 0)
                for name, value in found.items()
                if name.endswith("saliency")
            }
        return add_prefix(INNER, found)

    def name_kinds(self, params: dict[str, Tensor] | None = None) -> list[str]:
        """Name the kinds of the transform, see :meth:`SyntheticAnomaly.name_kinds`."""
        return self.anomaly.name_kinds(under_prefix(INNER, self._params if params is None else params))

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check the files for the transform, see :meth:`SyntheticAnomaly.check_paths`."""
        self.anomaly.check_paths(paths)

    def plant(self, image: Tensor, params: dict[str, Tensor]) -> ForgedBatch:
        """Plant anomalies outside of the region, see :meth:`SyntheticAnomaly.plant`."""
        inner, image = under_prefix(INNER, params), self._hide(image, self._fit(image))
        forged, mask = self.anomaly.plant(image, inner)
        normal, region = self.anomaly.rotate(image, inner), self._find_region(image, inner)
        is_kept = region | ~self.is_chosen(params, image)
        forged = torch.where(is_kept, normal, forged)
        return ForgedBatch(self._hide(forged, region), mask.masked_fill(is_kept, 0))

    def rotate(self, image: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Rotate images as the transform does, and fill the region, see :meth:`SyntheticAnomaly.rotate`."""
        image, inner = as_batch(image), under_prefix(INNER, self._params if params is None else params)
        rotated = self.anomaly.rotate(image, inner)
        return rotated if self.fill is None else self._hide(rotated, self._find_region(image, inner))

    def _find_region(self, image: Tensor, inner: dict[str, Tensor]) -> Tensor:
        """Find the region in rotated images: bool, ``(B, 1, H, W)``."""
        upright = self._fit(image).to(image.dtype).expand(len(image), 1, -1, -1)
        return self.anomaly.rotate(upright, inner) > 0

    def _fit(self, image: Tensor) -> Tensor:
        """Resize the region to ``(..., H, W)`` images, on their device."""
        return resize_region(self.region, image.shape[-2:]).to(image.device, non_blocking=True)

    def _hide(self, image: Tensor, region: Tensor) -> Tensor:
        return image if self.fill is None else image.masked_fill(region, self.fill)


def resize_region(region: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a region such that a resized pixel belongs to it as soon as one of its pixels counts there.

    A pixel of a bilinear resize, in either direction, is a mean of those around its place. So an image, or a map, that
    is 0 in the resized region is also 0 in the whole region when it is resized back.

    Args:
        region: ``(H, W)`` bool.
        size: Height and width.

    Example:
        >>> corner = torch.zeros(8, 8, dtype=torch.bool)
        >>> corner[0, 0] = True
        >>> resize_region(corner, (4, 4)).int().tolist()
        [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    """
    if region.shape == torch.Size(size):
        return region
    return F.interpolate(region[None, None].float(), tuple(size), mode="bilinear", antialias=True)[0, 0] > 0
