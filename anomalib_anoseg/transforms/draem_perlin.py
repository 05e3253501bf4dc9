"""DRAEM's synthetic anomalies, for anomalib's ``Draem`` and any other model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.transforms.perlin import FREQUENCIES
from anomalib_anoseg.transforms.perlin_anomaly import PerlinAnomaly
from anomalib_anoseg.transforms.textures import NoiseTextures, Textures


class DraemPerlin(PerlinAnomaly):
    """DRAEM's synthetic anomalies (arXiv 2108.07610): foreign textures in the shape of noise, anywhere in the image.

    Draws from the distribution of anomalib's ``PerlinAnomalyGenerator``, in batch and without waiting for the device.
    It can replace that generator in anomalib's ``Draem``::

        model = Draem()
        model.augmenter = DraemPerlin(textures="dtd").with_masks()

    As in anomalib, noise that stays below the threshold is stretched to ``[-1, 1]`` before it is rotated.

    Args:
        textures: Source of textures: a folder of pictures, a module such as :class:`BatchTextures`, ``"patterns"`` for
            :class:`PatternTextures`, or ``None`` for the noise itself, as in anomalib's generator.
        threshold: The noise must exceed this, within ``[0, 1]``.
        opacity: Range of the texture's weight over the image, within ``[0.01, 1]``.
        frequencies: See :class:`SaliencyPerlin`.
        redraws: How often to draw again if a mask is empty, ``0 <= redraws <= 20``; with stretched noise it rarely is.
        p: Probability of an anomaly.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If an argument is out of bounds.

    Convention:
        As :class:`SaliencyPerlin`, but without saliency and without rotation of images.

    Example:
        >>> import torch
        >>> forged, mask = DraemPerlin().with_masks()(torch.rand(4, 3, 64, 64))
        >>> mask.shape
        torch.Size([4, 1, 64, 64])
    """

    def __init__(
        self,
        textures: Textures | str | Path | None = None,
        threshold: float = 0.5,
        opacity: tuple[float, float] = (0.1, 1.0),
        frequencies: Sequence[int] = FREQUENCIES,
        redraws: int = 0,
        p: float = 0.5,
        keepdim: bool = False,
    ) -> None:
        check_value("threshold", threshold, 0.0, 1.0)
        textures = NoiseTextures() if textures is None else textures
        super().__init__(
            saliency="none",
            threshold=(threshold, 0.0),
            textures=textures,
            opacity=opacity,
            mark="noise",
            rotation_p=0.0,
            frequencies=frequencies,
            redraws=redraws,
            p=p,
            keepdim=keepdim,
        )

    def shape_noise(self, noise: Tensor) -> Tensor:
        """Stretch noise ``(B, H, W)``, in place, to ``[-1, 1]`` where none of it exceeds the threshold."""
        low, high = noise.amin((1, 2), keepdim=True), noise.amax((1, 2), keepdim=True)
        is_low = (high <= self.flags["threshold"][0]).float()
        scale = torch.lerp(torch.ones_like(high), 2 / (high - low).clamp(min=1e-6), is_low)
        return noise.mul_(scale).sub_(is_low * (low * scale + 1))
