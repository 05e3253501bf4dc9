"""A decoder for short trainings: most of a step's time goes into the decoder where an encoder is frozen."""

from collections.abc import Sequence
from itertools import starmap

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.network_parts import scale_channels

# From 1/16 to 1/2 of the image's resolution, and at its own.
CHANNELS = (64, 48, 32, 24, 8)


class LightDecoder(nn.Module):
    """Decode features of five scales with one 3x3 convolution a scale; no paper's.

    Each scale is convolved to at most 64 channels, the coarser ones are doubled by repeating pixels, and both are
    convolved together. Only the last doubling, to the image's resolution, is learned.

    Args:
        channels: Of the features at 1/2, 1/4, ... 1/32 of the image's resolution.
        out_channels: 1 for a logit of anomalous, 2 for those of normal and anomalous.
        width: Factor on all channels.

    Example:
        >>> import torch
        >>> decoder = LightDecoder((16, 24, 40, 112, 320))
        >>> features = [torch.rand(2, c, 2**s, 2**s) for c, s in zip((16, 24, 40, 112, 320), (5, 4, 3, 2, 1))]
        >>> decoder(features).shape
        torch.Size([2, 1, 64, 64])
    """

    def __init__(self, channels: Sequence[int], out_channels: int = 1, width: float = 1.0) -> None:
        super().__init__()
        *wide, last = scale_channels(CHANNELS, width)
        narrowed = [min(count, wide[0]) for count in channels]
        self.narrow = nn.ModuleList(starmap(_convolution, zip(channels, narrowed, strict=True)))
        self.stages = nn.ModuleList()
        in_channels = narrowed[-1]
        for out, skipped in zip(wide, reversed(narrowed[:-1]), strict=True):
            self.stages.append(_convolution(in_channels + skipped, out))
            in_channels = out
        self.upsample = nn.ConvTranspose2d(in_channels, last, 2, 2)
        self.head = nn.Conv2d(last, out_channels, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode features, finest first, to logits ``(B, out_channels, 32 * h, 32 * w)``."""
        *finer, decoded = (narrow(feature) for narrow, feature in zip(self.narrow, features, strict=True))
        for stage in self.stages:
            doubled = F.interpolate(decoded, scale_factor=2.0, mode="nearest")
            decoded = stage(torch.cat((doubled, finer.pop()), 1))
        return self.head(self.upsample(decoded).relu())


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
