"""What SGSF's and DRAEM's irregular anomalies share: textures in the shape of thresholded noise."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.common.checks import check_interval, check_value
from anomalib_anoseg.transforms.base import (
    constant,
    find_changed,
    per_image,
    under_prefix,
)
from anomalib_anoseg.transforms.perlin import LATTICE_LINES, perlin_noise, rotate_noise
from anomalib_anoseg.transforms.rotation import turn
from anomalib_anoseg.transforms.saliency import Saliency, enlarged
from anomalib_anoseg.transforms.salient_anomaly import EMPTY, SalientAnomaly
from anomalib_anoseg.transforms.shares import assign_places, draw_spread, images_at, most
from anomalib_anoseg.transforms.textures import Textures, create_textures

# Whether a mask is empty is looked up on a grid of at most this many pixels a side; the noise's finest cells, of which
# there are 32, must not have all these on their edges, where there is none.
PROBE_SIDE = 48
# Both the noise and, if at all, the images are turned by up to this many degrees, as in DRAEM.
TURN = 90.0


class PerlinAnomaly(SalientAnomaly):
    """What SGSF's and DRAEM's anomalies share: a texture shows through wherever noise exceeds a threshold.

    Args:
        saliency: Where anomalies may lie: a kind of :func:`~.saliency_folder.create_saliency`, or a module.
        threshold: ``(a, b)``: the noise, times the saliency, must exceed ``a + b * mean(saliency)``; each within
            ``[0, 1]``.
        textures: What shows: a folder of pictures, a module, or ``None`` for other images of the batch.
        opacity: Range of the texture's weight over the image, within ``[0.01, 1]``.
        mark: What the mask marks: ``"noise"``, wherever it exceeds the threshold, or those of its pixels that are
            ``"changed"``.
        rotation_p: Probability of turning the whole image by ``U(-90, 90)`` degrees before.
        frequencies: Numbers of cells of the noise's lattice along an axis, to choose from, each within ``[1, 32]``.
        redraws: How often an empty mask is drawn again, ``0 <= redraws <= 20``.
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

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw noise, all its redraws, texture, opacity and rotation for every image."""
        flags, count, rotation_p = self.flags, batch_shape[0], self.flags["rotation_p"]
        shape = (count, 1 + flags["redraws"])
        frequencies = constant(flags["frequencies"], self.device)
        params = {
            "frequency": frequencies[self.choice((*shape, 2), len(frequencies))],
            "gradients": self.uniform((*shape, LATTICE_LINES, LATTICE_LINES), 0.0, 2 * torch.pi),
            "angle": self.uniform(shape, -TURN, TURN),
            "opacity": self.uniform((count,), *flags["opacity"]),
            "degrees": self.uniform((count,), -TURN, TURN),
            "turned": assign_places(draw_spread(self, count)[:, None] < rotation_p, most(rotation_p, count)),
            "attempt": torch.zeros(count, dtype=torch.int64, device=self.device),
            "marked": torch.zeros(count, 1, *batch_shape[-2:], device=self.device),
        }
        drawn = self.textures.generate_parameters(self, batch_shape)
        return params | {f"texture.{name}": value for name, value in drawn.items()}

    def turn(self, image: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """Turn images as those that anomalies were planted in; bit-identical wherever an image was not turned."""
        turned = self._turn_some(image, self._params if params is None else params)
        return image if turned is None else image.index_copy(0, turned[0], turned[1].to(image.dtype))

    def make_mask(self, image: Tensor) -> Tensor:
        """Mark the anomalies planted last, ``(B, 1, H, W)``."""
        return self._params["marked"].to(image.device, image.dtype, non_blocking=True, copy=True)

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Turn ``(B, C, H, W)`` images and let textures show through where the noise says so."""
        del transform
        output = self._show_through(input, params, flags)
        if flags["mark"] == "changed":
            params["marked"].mul_(find_changed(output, self.turn(input, params)).to(params["marked"].device))
        return output

    def _show_through(self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]) -> Tensor:
        exact = input.to(torch.promote_types(input.dtype, torch.float32))
        noise, threshold = self._draw_noise(self.estimate_saliency(input, params), params, flags, input)
        texture = self.textures(input, under_prefix("texture.", params) | {"noise": noise}).to(exact.dtype)
        # In place, so that it stays floating point: what follows wants that, and comparing takes half as long.
        marked = noise.gt_(threshold)
        params["marked"].copy_(marked, non_blocking=True)
        # An image's weight of 1 leaves a pixel bit-identical. All is done in the memory of the mask and of the texture.
        weight = marked.to(exact.dtype).mul_(-per_image(params["opacity"], exact)).add_(1)
        turned = self._turn_some(exact, params)
        if turned is None:
            return _blend(texture, exact, weight).to(input.dtype)
        images, normal = turned
        forged = _blend(texture.index_select(0, images), normal, weight.index_select(0, images))
        return _blend(texture, exact, weight).index_copy_(0, images, forged).to(input.dtype)

    def apply_transform_mask(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Turn ``(B, 1, H, W)`` masks with their images and mark the anomalies in them."""
        del flags, transform
        marked = params["marked"].to(input.device, non_blocking=True).bool()
        mask = self.turn(input, params)
        return (mask if mask is input else mask.round()).masked_fill(marked, 1)

    def shape_noise(self, noise: Tensor) -> Tensor:
        """Change noise ``(B, H, W)``, which may be overwritten, before it is turned; as it is by default."""
        return noise

    def _turn_some(self, image: Tensor, params: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Turn the images that may be turned: their numbers ``(K,)`` and ``(K, C, H, W)``; nothing if none may."""
        if not self.flags["rotation_p"]:
            return None
        places, degrees = (params[name].to(image.device, non_blocking=True) for name in ("turned", "degrees"))
        images, is_chosen = (at_place[0] for at_place in images_at(places))
        part = image.index_select(0, images).to(torch.promote_types(image.dtype, torch.float32))
        turned = turn(part, degrees[images], "zeros")
        return images, torch.lerp(part, turned, per_image(is_chosen.to(part.dtype), part))

    def estimate_saliency(self, image: Tensor, params: dict[str, Tensor]) -> Tensor | None:
        """Estimate the saliency of images, or take it from ``params``, and turn it with them: ``(B, 1, h, w)``."""
        saliency = super().estimate_saliency(image, params)
        return None if saliency is None else self.turn(saliency, params)

    def _draw_noise(
        self, saliency: Tensor | None, params: dict[str, Tensor], flags: dict[str, Any], image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Choose each image's first noise that exceeds the threshold anywhere.

        Returns:
            The noise, ``(B, 1, H, W)``, and what it must exceed to be an anomaly, ``(B, 1, 1, 1)``.
        """
        device, (height, width) = image.device, image.shape[-2:]
        names = ("frequency", "gradients", "angle")
        frequency, gradients, angle = (params[name].to(device, non_blocking=True) for name in names)
        weight, threshold = _weigh(saliency, flags["threshold"])
        attempt = params["attempt"].to(device, non_blocking=True)
        if flags["redraws"]:
            size = (min(height, PROBE_SIDE), min(width, PROBE_SIDE))
            noise = self._noise(gradients.flatten(0, 1), frequency.flatten(0, 1), angle.flatten(), size)
            noise = noise.unflatten(0, angle.shape)
            if weight is not None:
                noise *= F.interpolate(weight, size)
            attempt = (noise > threshold).flatten(2).any(2).int().argmax(1)
            # In place: a container hands the very same tensors to the mask.
            params["attempt"].copy_(attempt, non_blocking=True)
        batch = torch.arange(len(attempt), device=device)
        noise = self._noise(
            gradients[batch, attempt], frequency[batch, attempt], angle[batch, attempt], (height, width)
        )
        noise = noise[:, None] if weight is None else noise[:, None] * enlarged(weight, (height, width))
        is_forged = per_image(params["batch_prob"] > 0.5, image)  # noqa: PLR2004
        return noise, torch.where(is_forged, threshold, math.inf)

    def _noise(self, gradients: Tensor, frequency: Tensor, angle: Tensor, size: tuple[int, int]) -> Tensor:
        return rotate_noise(self.shape_noise(perlin_noise(gradients, frequency, size)), angle)

    @staticmethod
    def _gate_by(params: dict[str, Tensor], transformed: Tensor, untouched: Tensor) -> Tensor:
        """Keep what is turned: the gate decides about the anomaly alone, and is part of its mask."""
        del params, untouched
        return transformed


def _blend(texture: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Mix images into their textures, in the memory of these if they have as many channels."""
    return texture.lerp_(image, weight) if texture.shape == image.shape else texture.lerp(image, weight)


def _weigh(saliency: Tensor | None, threshold: tuple[float, float]) -> tuple[Tensor | None, Tensor | float]:
    """Find what the noise is multiplied by, ``(B, 1, h, w)``, and what it must exceed, ``(B, 1, 1, 1)``."""
    start, slope = threshold
    if saliency is None:
        return None, start
    mean = saliency.mean((1, 2, 3), keepdim=True)
    is_empty = (mean < EMPTY).float()
    return torch.lerp(saliency, torch.ones_like(saliency), is_empty), start + slope * mean * (1 - is_empty)
