"""Base of SGSF's and DRAEM's irregular anomalies: textures in the shape of thresholded noise."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.common.checks import check_interval, check_value
from anomalib_anoseg.transforms._tensors import (
    add_prefix,
    as_batch,
    constant,
    find_changed,
    on_device,
    per_image,
    rows_of,
    under_prefix,
)
from anomalib_anoseg.transforms.base import ForgedBatch
from anomalib_anoseg.transforms.perlin import LATTICE_LINES, perlin_noise, rotate_noise
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.rotation import rotate
from anomalib_anoseg.transforms.saliency import EMPTY, Saliency, SalientAnomaly, resize_saliency
from anomalib_anoseg.transforms.subsets import assign_places, max_selected, selected_images, stratified_uniform
from anomalib_anoseg.transforms.textures import Textures, create_textures

# A mask is tested for emptiness on a grid of at most this many pixels per side. They must not all lie on the lattice of
# the finest noise, which has 32 cells per side, because there the noise is 0.
PROBE_SIDE = 48
# Largest rotation of the noise, and of rotated images, in degrees, as in DRAEM.
MAX_DEGREES = 90.0


class PerlinAnomaly(SalientAnomaly):
    """Base of SGSF's and DRAEM's anomalies: a texture shows through wherever noise exceeds a threshold.

    Args:
        saliency: Where anomalies may lie: a name for :func:`~.saliency.create_saliency`, or a module.
        threshold: ``(a, b)``: the noise, times the saliency, must exceed ``a + b * mean(saliency)``; each within
            ``[0, 1]``.
        textures: Source of textures: a folder of pictures, a module, ``"patterns"``, which are drawn, or ``None`` for
            other images of the batch.
        opacity: Range of the texture's weight over the image, within ``[0.01, 1]``.
        mark: What the mask marks: all pixels whose ``"noise"`` exceeds the threshold, or only those of them that
            visibly ``"changed"``.
        rotation_p: Probability of first rotating the whole image by ``U(-90, 90)`` degrees.
        frequencies: Choices of the number of lattice cells of the noise along an axis, each within ``[1, 32]``.
        redraws: How often to draw again if a mask is empty, ``0 <= redraws <= 20``.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If an argument is out of bounds.
    """

    def __init__(
        self,
        saliency: Saliency | str,
        threshold: tuple[float, float],
        textures: Textures | str | Path | None,
        opacity: tuple[float, float],
        mark: Literal["noise", "changed"],
        rotation_p: float,
        frequencies: Sequence[int],
        redraws: int,
        p: float,
        keepdim: bool,
    ) -> None:
        if len(threshold) != 2:  # noqa: PLR2004
            raise ValueError(f"threshold must be (a, b), got {tuple(threshold)}.")
        for name, value in zip("ab", threshold, strict=True):
            check_value(f"threshold ({name})", value, 0.0, 1.0)
        check_interval("opacity", opacity, 0.01, 1.0)
        if mark not in {"noise", "changed"}:
            raise ValueError(f"mark must be 'noise' or 'changed', got {mark!r}.")
        check_value("rotation_p", rotation_p, 0.0, 1.0)
        check_value("redraws", redraws, 0, 20)
        if not frequencies or not set(frequencies) <= set(range(1, LATTICE_LINES)):
            raise ValueError(f"frequencies must be whole numbers from 1 to 32, got {tuple(frequencies)}.")
        super().__init__(saliency, p, keepdim)
        self.flags = {
            "threshold": tuple(threshold),
            "opacity": tuple(opacity),
            "mark": mark,
            "rotation_p": rotation_p,
            "frequencies": tuple(frequencies),
            "redraws": int(redraws),
        }
        self.textures = create_textures(textures)

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw noise, all its redraws, texture, opacity and rotation for every image."""
        flags, count, rotation_p = self.flags, shape[0], self.flags["rotation_p"]
        noises = (count, 1 + flags["redraws"])
        frequencies = constant(flags["frequencies"], stream.device, torch.int64)
        params = {
            "frequency": frequencies[stream.choice((*noises, 2), len(frequencies))],
            "gradients": stream.uniform((*noises, LATTICE_LINES, LATTICE_LINES), 0.0, 2 * torch.pi),
            "angle": stream.uniform(noises, -MAX_DEGREES, MAX_DEGREES),
            "opacity": stream.uniform((count,), *flags["opacity"]),
            "degrees": stream.uniform((count,), -MAX_DEGREES, MAX_DEGREES),
        }
        is_rotated = stratified_uniform(stream, count)[:, None] < rotation_p
        params["rotated"] = assign_places(is_rotated, max_selected(rotation_p, count))
        return params | add_prefix("texture.", self.textures.draw(shape, stream))

    def check_paths(self, paths: Sequence[str]) -> None:
        """Check saliency and textures, see :meth:`SyntheticAnomaly.check_paths`."""
        super().check_paths(paths)
        self.textures.check_files()

    def plant(self, image: Tensor, params: dict[str, Tensor]) -> ForgedBatch:
        """Rotate images; blend textures where the noise exceeds the threshold, see :meth:`SyntheticAnomaly.plant`."""
        return self._plant(image, params, image)

    def plant_some(self, image: Tensor, params: dict[str, Tensor], images: Tensor) -> ForgedBatch:
        """Plant in some images, whose textures may show any of the batch, see :meth:`SyntheticAnomaly.plant_some`."""
        return self._plant(image.index_select(0, images), rows_of(params, images), image)

    def _plant(self, image: Tensor, params: dict[str, Tensor], batch: Tensor) -> ForgedBatch:
        params = on_device(params, image.device)
        exact = image.to(torch.promote_types(image.dtype, torch.float32))
        noise, threshold = self._choose_noise(self.estimate_saliency(image, params), params, image)
        of_texture = under_prefix("texture.", params) | {"noise": noise, "batch": batch}
        texture = self.textures(image, of_texture).to(exact.dtype)
        # In place, so that it stays floating point, which the next steps need; the comparison also takes half as long.
        marked = noise.gt_(threshold)
        mask = marked.to(image.dtype, copy=True)
        # An image's weight of 1 leaves a pixel bit-identical. Everything reuses the memory of noise and texture.
        weight = marked.to(exact.dtype).mul_(-per_image(params["opacity"], exact)).add_(1)
        rotated = self._rotate_some(exact, params)
        if rotated is None:
            forged = _blend(texture, exact, weight).to(image.dtype)
        else:
            images, normal = rotated
            part = _blend(texture.index_select(0, images), normal, weight.index_select(0, images))
            forged = _blend(texture, exact, weight).index_copy_(0, images, part).to(image.dtype)
        if self.flags["mark"] == "changed":
            mask.mul_(find_changed(forged, self.rotate(image, params)))
        return ForgedBatch(forged, mask)

    def rotate(self, image: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Rotate images like those in which anomalies were planted; images that were not rotated stay bit-identical."""
        image = as_batch(image)
        rotated = self._rotate_some(image, on_device(self._params if params is None else params, image.device))
        return image if rotated is None else image.index_copy(0, rotated[0], rotated[1].to(image.dtype))

    def shape_noise(self, noise: Tensor) -> Tensor:
        """Change noise ``(B, H, W)``, which may be overwritten, before it is rotated; by default, not at all."""
        return noise

    def _rotate_some(self, image: Tensor, params: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Rotate the images at all places: their indices ``(K,)`` and ``(K, C, H, W)``; ``None`` without rotation."""
        if not self.flags["rotation_p"]:
            return None
        images, is_selected = (at_place[0] for at_place in selected_images(params["rotated"]))
        part = image.index_select(0, images).to(torch.promote_types(image.dtype, torch.float32))
        rotated = rotate(part, params["degrees"][images], "zeros")
        return images, torch.lerp(part, rotated, per_image(is_selected.to(part.dtype), part))

    def estimate_saliency(self, image: Tensor, params: dict[str, Tensor]) -> Tensor | None:
        """Estimate the saliency of images, or take it from ``params``, and rotate it with them: ``(B, 1, h, w)``."""
        saliency = super().estimate_saliency(image, params)
        return None if saliency is None else self.rotate(saliency, params)

    def _choose_noise(self, saliency: Tensor | None, params: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """Choose each image's first noise that exceeds the threshold anywhere.

        Returns:
            The noise, ``(B, 1, H, W)``, and the threshold above which it is an anomaly, ``(B, 1, 1, 1)``.
        """
        frequency, gradients, angle = params["frequency"], params["gradients"], params["angle"]
        weight, threshold = _weigh(saliency, self.flags["threshold"])
        height, width = image.shape[-2:]
        attempt = torch.zeros(len(angle), dtype=torch.int64, device=image.device)
        if self.flags["redraws"]:
            size = (min(height, PROBE_SIDE), min(width, PROBE_SIDE))
            noise = self._noise(gradients.flatten(0, 1), frequency.flatten(0, 1), angle.flatten(), size)
            noise = noise.unflatten(0, angle.shape)
            if weight is not None:
                noise *= F.interpolate(weight, size)
            attempt = (noise > threshold).flatten(2).any(2).int().argmax(1)
        chosen = torch.arange(len(attempt), device=image.device), attempt
        noise = self._noise(gradients[chosen], frequency[chosen], angle[chosen], (height, width))[:, None]
        if weight is not None:
            noise *= resize_saliency(weight, (height, width))
        return noise, torch.where(self.is_chosen(params, image), threshold, math.inf)

    def _noise(self, gradients: Tensor, frequency: Tensor, angle: Tensor, size: tuple[int, int]) -> Tensor:
        return rotate_noise(self.shape_noise(perlin_noise(gradients, frequency, size)), angle)


def _blend(texture: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Blend images with their textures, in the textures' memory if they have as many channels."""
    return texture.lerp_(image, weight) if texture.shape == image.shape else texture.lerp(image, weight)


def _weigh(saliency: Tensor | None, threshold: tuple[float, float]) -> tuple[Tensor | None, Tensor | float]:
    """Compute the factor of the noise, ``(B, 1, h, w)``, and the threshold that it must exceed, ``(B, 1, 1, 1)``."""
    start, slope = threshold
    if saliency is None:
        return None, start
    mean = saliency.mean((1, 2, 3), keepdim=True)
    is_empty = (mean < EMPTY).float()
    return torch.lerp(saliency, torch.ones_like(saliency), is_empty), start + slope * mean * (1 - is_empty)
