"""AnoSeg's networks behind the encoder: decoder, segmenter and discriminator.

After arXiv 2110.03396, Sec. 3 and Table 6. Inference uses only convolutions, normalisations, activations, pooling and
padding, so that it exports unchanged.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.encoder import CoordinateEncoder
from anomalib_anoseg.models.light_decoder import LightDecoder
from anomalib_anoseg.models.network_parts import crop, scale_channels

# Table 6 of the paper, for 256x256 images.
DECODER_CHANNELS = (512, 256, 128, 128, 128)
DISCRIMINATOR_CHANNELS = (64, 128, 256, 512, 512, 512, 128)
# The discriminator halves its input eight times; two of its layers can be left out, so six times at least.
MIN_TRAINING_SIDE = 2**6

DecoderKind = Literal["published", "light"]


class Decoder(nn.Module):
    """Five pairs of a convolution and a doubling transposed convolution, then two convolutions (Table 6).

    Args:
        channels: Of the encoder's feature maps, finest first.
        out_channels: 1 for an anomaly map, 3 for an image.
        width: Factor on the decoder's channels.
        skip_connections: Whether the encoder's finer features are appended after each doubling; not in the paper.
    """

    def __init__(
        self, channels: Sequence[int], out_channels: int, width: float = 1.0, skip_connections: bool = False
    ) -> None:
        super().__init__()
        *finer, in_channels = channels
        self.skip_connections = skip_connections
        skipped = [*reversed(finer), 0] if skip_connections else [0] * len(DECODER_CHANNELS)
        self.stages = nn.ModuleList()
        for middle, skip in zip(scale_channels(DECODER_CHANNELS, width), skipped, strict=True):
            convolution = (nn.Conv2d(in_channels, middle, 3, padding=1, bias=False), *_norm_relu(middle))
            doubling = (nn.ConvTranspose2d(middle, middle, 4, 2, 1, bias=False), *_norm_relu(middle))
            self.stages.append(nn.Sequential(*convolution, *doubling))
            in_channels = middle + skip
        convolution = (nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False), *_norm_relu(in_channels))
        self.head = nn.Sequential(*convolution, nn.Conv2d(in_channels, out_channels, 3, padding=1))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode the encoder's features to logits ``(B, out_channels, 32 * h, 32 * w)``."""
        *finer, decoded = features
        for stage in self.stages:
            decoded = stage(decoded)
            if self.skip_connections and finer:
                decoded = torch.cat((decoded, finer.pop()), 1)
        return self.head(decoded)


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


class Segmenter(nn.Module):
    """Encoder and map decoder: all that inference needs.

    Args:
        backbone: See :class:`~anomalib_anoseg.models.encoder.CoordinateEncoder`.
        width: Factor on the channels of both.
        coordinates: See :class:`~anomalib_anoseg.models.encoder.CoordinateEncoder`.
        skip_connections: See :class:`Decoder`.
        normalize: See :class:`~anomalib_anoseg.models.encoder.CoordinateEncoder`.
        frozen: See :class:`~anomalib_anoseg.models.encoder.CoordinateEncoder`.
        decoder: ``"published"``, :class:`Decoder`, or ``"light"``,
            :class:`~anomalib_anoseg.models.light_decoder.LightDecoder`, which always has skip connections.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        width: float = 1.0,
        coordinates: bool = True,
        skip_connections: bool = False,
        normalize: bool = False,
        frozen: bool = False,
        decoder: DecoderKind = "published",
    ) -> None:
        super().__init__()
        self.encoder = CoordinateEncoder(
            backbone=backbone, width=width, coordinates=coordinates, normalize=normalize, frozen=frozen
        )
        channels = self.encoder.channels
        self.decoder: Decoder | LightDecoder = (
            LightDecoder(channels, 1, width) if decoder == "light" else Decoder(channels, 1, width, skip_connections)
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map ``(B, 3 or 5, H, W)`` inputs to logits ``(B, 1, H, W)``, and to the encoder's features, finest first."""
        features = self.encoder(inputs)
        return crop(self.decoder(features), inputs), features


class Discriminator(nn.Module):
    """Tells pairs of image and mask from pairs of reconstruction and anomaly map (Table 6).

    Each layer halves its input. If the shorter side has fewer than 256 pixels, one of the three layers with equal
    channels is left out; below 128 pixels, two. Features of larger inputs are averaged to the published 2x2 before the
    last layer.

    Args:
        width: Factor on the channels.
        slope: Of the leaky ReLU for negative values.
        side: Shorter side of the images in pixels, by which layers are left out at construction, so that features mean
            the same at every size and every layer is trained. ``None`` leaves them out by the size of each batch.
    """

    def __init__(self, width: float = 1.0, slope: float = 0.2, side: int | None = None) -> None:
        super().__init__()
        in_channels = 4
        self.has_fixed_layers = side is not None
        *first, last = scale_channels(DISCRIMINATOR_CHANNELS, width)
        used = len(first) - (0 if side is None else count_spare_layers(side))
        self.layers = nn.ModuleList()
        for index, channels in enumerate([*first[:used], last]):
            norm = [nn.BatchNorm2d(channels)] if index else []
            convolution = nn.Conv2d(in_channels, channels, 4, 2, 1, bias=not index)
            self.layers.append(nn.Sequential(convolution, *norm, nn.LeakyReLU(slope, inplace=True)))
            in_channels = channels
        self.head = nn.Conv2d(in_channels, 1, 4, 2, 1)

    def features(self, pair: Tensor) -> Tensor:
        """Compute the penultimate features ``(B, C, 2, 2)`` of ``(B, 4, H, W)`` pairs, sides of 64 or more."""
        *first, last = self.layers
        spare = 0 if self.has_fixed_layers else count_spare_layers(min(pair.shape[-2:]))
        for layer in (*first[: len(first) - spare], last):
            pair = layer(pair)
        return _average_quarters(pair) if self.has_fixed_layers else F.adaptive_avg_pool2d(pair, 2)

    def judge(self, features: Tensor) -> Tensor:
        """Judge by features ``(B, C, 2, 2)``: logits ``(B,)``, positive for real."""
        return self.head(features).flatten()

    def forward(self, pair: Tensor) -> Tensor:
        """Judge ``(B, 4, H, W)`` pairs: logits ``(B,)``, positive for real."""
        return self.judge(self.features(pair))


def count_spare_layers(side: int) -> int:
    """Count the discriminator's layers that images of this shorter side cannot fill: 0, 1 or 2."""
    return max(0, 8 - (side.bit_length() - 1))


def _average_quarters(maps: Tensor) -> Tensor:
    """Average ``(B, C, H, W)`` to ``(B, C, 2, 2)`` as adaptive pooling does, in operations that export at any size."""
    for dim in (-2, -1):
        size = maps.shape[dim]
        index = torch.arange(size, device=maps.device)
        # If the size is odd, both halves share the middle. Torch 2.10 cannot export slices of dynamic size, so weights
        # are used.
        halves = torch.stack((index < (size + 1) // 2, index >= size // 2), 1).to(maps.dtype)
        maps = (maps.movedim(dim, -1) @ (halves / halves.sum(0))).movedim(-1, dim)
    return maps
