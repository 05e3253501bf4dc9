"""Drawn patterns as textures, where no pictures of any are at hand."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.textures.base import Textures

# Two patterns are drawn for a texture, one over the other.
LAYERS = 2
# Numbers that are drawn for each of them, in [0, 1).
NUMBERS = (
    "angle",
    "frequency",
    "ratio",
    "bend",
    "bend_frequency",
    "x_phase",
    "y_phase",
    "kind",
    "width",
    "sharpness",
    "share",
)
LEVELS = 2  # of brightness, between which it varies
FREQUENCIES = (2.0, 40.0)  # waves along the longer side; in small images the finest show as coarser ones
COLOUR = 0.15  # a channel's largest distance from a level


class PatternTextures(Textures):
    """Draw stripes, checks, dots and rings, bent, between two muted colours, two patterns over each other.

    They need no folder of pictures.

    Example:
        >>> import torch
        >>> from anomalib_anoseg.transforms import SaliencyPerlin
        >>> forged, mask = SaliencyPerlin(textures=PatternTextures()).forge(torch.rand(2, 3, 64, 64))
    """

    padding = "reflection"

    def draw(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw as for any texture, and what the patterns look like.

        Returns:
            Beside those of any texture ``pattern`` ``(B, L, N)``, ``levels`` ``(B, L, 2)`` and ``colour``
            ``(B, L, C)``, in ``[0, 1)``.
        """
        sizes = {"pattern": len(NUMBERS), "levels": LEVELS, "colour": shape[1]}
        drawn = {name: stream.uniform((shape[0], LAYERS, size), 0.0, 1.0) for name, size in sizes.items()}
        return super().draw(shape, stream) | drawn

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Paint a texture for each of ``(B, C, H, W)`` images."""
        height, width = image.shape[-2:]
        turn = 2 * math.pi / max(height, width)
        y = turn * torch.arange(height, device=image.device)[:, None]
        x = turn * torch.arange(width, device=image.device)
        colour = COLOUR * (2 * params["colour"] - 1)
        ends = params["levels"][..., None] + torch.stack((colour, -colour), 2)
        texture = torch.zeros((), device=image.device)
        for layer in range(LAYERS):
            drawn = dict(zip(NUMBERS, params["pattern"][:, layer, :, None, None].unbind(1), strict=True))
            start, end = ends[:, layer, :, :, None, None].unbind(1)
            painted = start.lerp(end, _draw_pattern(x, y, drawn)[:, None])
            texture = texture.lerp(painted, drawn["share"][:, None] / 2) if layer else painted
        return texture.clamp(0, 1).mul(255).add(0.5).to(torch.uint8).contiguous()


def _draw_pattern(x: Tensor, y: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """Draw a pattern ``(B, H, W)`` in ``[0, 1]`` at places that run from 0 to a full turn, ``(W,)`` and ``(H, 1)``."""
    x_phase, y_phase = (2 * math.pi * drawn[name] for name in ("x_phase", "y_phase"))
    bend, waves = 0.8 * drawn["bend"] ** 2, 1 + 5 * drawn["bend_frequency"]
    x, y = x + bend * (waves * y + x_phase).sin(), y + bend * (waves * x + y_phase).sin()
    wave = _draw_wave(x, y, x_phase, y_phase, drawn)
    return (2 ** (5 * drawn["sharpness"] - 1) * (wave + drawn["width"] - 0.5)).tanh() / 2 + 0.5


def _draw_wave(x: Tensor, y: Tensor, x_phase: Tensor, y_phase: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """Draw stripes, checks, dots or rings at places ``(B, H, W)``, in ``[-1, 1]``."""
    low, high = FREQUENCIES
    frequency = low * (high / low) ** drawn["frequency"]
    cosine, sine = (math.pi * drawn["angle"]).cos(), (math.pi * drawn["angle"]).sin()
    stripes = (frequency * (cosine * x + sine * y) + x_phase).sin()
    crossing = (2 ** (2 * drawn["ratio"] - 1) * frequency * (cosine * y - sine * x) + y_phase).sin()
    rings = (frequency * torch.hypot(x - x_phase, y - y_phase)).sin()
    kinds = torch.stack((stripes, stripes * crossing, (stripes + crossing) / 2, rings))
    kind = (len(kinds) * drawn["kind"]).long().expand_as(stripes)
    return kinds.gather(0, kind[None])[0]
