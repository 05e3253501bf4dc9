"""The networks of SGSF's guidance: an auto-encoder of normal images and a U-Net that its features guide.

After NIGSF (IEEE TCSVT 34(6), 2024), the journal version of arXiv 2209.12440: the decoder of an auto-encoder that
reconstructs a *normal* image shows the segmentation network at four scales what the image should look like. Inference
uses only convolutions, normalisations, activations, pooling and padding, so that it exports unchanged.

The paper convolves the concatenated features of reference and image. Here each has its own convolution, and the results
are added: the same function with the same number of weights. The reference's part can be computed before the image is
known and stored, which saves a part of the inference.
"""

from itertools import pairwise, starmap
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.network_parts import crop, scale_channels

# Channels of both networks, finest first; the last are the bottleneck's.
CHANNELS = (64, 128, 256, 512, 1024)
# Scales above the bottleneck, at which features of image and reference meet; each halves its input for the next.
SCALES = 4
REDUCTION = 2**SCALES
# Smaller images have a single pixel at the coarsest scale: no normalisation statistics can be computed in training.
MIN_SIDE = 32

Passes = Literal["fused", "concatenated"]


class Convolution(nn.Module):
    """A 3x3 convolution of an image's features plus one of a reference's, if any; normalisation and ReLU.

    Args:
        in_channels: Of the image's features.
        out_channels: Of the result.
        reference_channels: Of the reference's features; 0 for none.
    """

    def __init__(self, in_channels: int, out_channels: int, reference_channels: int = 0) -> None:
        super().__init__()
        self.from_image = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.from_reference = (
            nn.Conv2d(reference_channels, out_channels, 3, padding=1, bias=False) if reference_channels else None
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU(inplace=True)

    def prepare(self, reference: Tensor) -> Tensor:
        """Convolve the reference's features ``(B, reference_channels, h, w)``: ``(B, out_channels, h, w)``.

        Raises:
            ValueError: If it was built without ``reference_channels``.
        """
        if self.from_reference is None:
            raise ValueError("This convolution takes no reference; build it with reference_channels > 0.")
        return self.from_reference(reference)

    def forward(self, features: Tensor, prepared: Tensor | None = None) -> Tensor:
        """Convolve ``(B, in_channels, h, w)``; add the prepared reference of each image, or ``(1, ...)`` of all."""
        convolved = self.from_image(features)
        if prepared is not None:
            # Stored references may have another precision than this image.
            convolved += prepared.to(convolved.dtype)
        return self.activation(self.norm(convolved))


class Block(nn.Module):
    """Two convolutions; the first may take a reference.

    Args:
        in_channels: Of the image's features.
        out_channels: Of the result.
        reference_channels: Of the reference's features; 0 for none.
    """

    def __init__(self, in_channels: int, out_channels: int, reference_channels: int = 0) -> None:
        super().__init__()
        self.first = Convolution(in_channels, out_channels, reference_channels)
        self.second = Convolution(out_channels, out_channels)

    def forward(self, features: Tensor, prepared: Tensor | None = None) -> Tensor:
        """Map ``(B, in_channels, h, w)`` to ``(B, out_channels, h, w)``."""
        return self.second(self.first(features, prepared))


class AutoEncoder(nn.Module):
    """The self-supervised module: compresses a normal image to 1/16 of its size and reconstructs it.

    There are no skip connections, which would let it copy, and no activation after the last convolution [choice].

    Args:
        width: Factor on the channels; 1 is the published size.

    Example:
        >>> import torch
        >>> reconstruction, features = AutoEncoder(width=0.125)(torch.rand(2, 3, 48, 64))
        >>> reconstruction.shape
        torch.Size([2, 3, 48, 64])
        >>> [tuple(feature.shape) for feature in features]
        [(2, 8, 48, 64), (2, 16, 24, 32), (2, 32, 12, 16), (2, 64, 6, 8)]
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = scale_channels(CHANNELS, width)
        self.encoder = nn.ModuleList(starmap(Block, pairwise((3, *channels))))
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for coarse, fine in pairwise(reversed(channels)):
            self.ups.append(nn.ConvTranspose2d(coarse, fine, 2, 2))
            self.decoder.append(Block(fine, fine))
        self.head = nn.Conv2d(channels[0], 3, 3, padding=1)
        self.apply(initialize)

    def forward(self, reference: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Reconstruct normal images.

        Args:
            reference: ``(B, 3, H, W)`` in ``[0, 1]``, sides of 32 pixels or more.

        Returns:
            The reconstruction ``(B, 3, H, W)`` and the decoder's features at 1, 1/2, 1/4 and 1/8 of the size, whose
            sides stay padded to multiples of 16, 8, 4 and 2.
        """
        features = pad(reference)
        for index, block in enumerate(self.encoder):
            features = block(F.max_pool2d(features, 2) if index else features)
        scales: list[Tensor] = []
        for up, block in zip(self.ups, self.decoder, strict=True):
            features = block(up(features))
            scales.insert(0, features)
        return crop(self.head(features), reference), scales


class GuidedUNet(nn.Module):
    """The segmentation module: a U-Net whose features are fused with a reference's before they skip to the decoder.

    Args:
        width: Factor on the channels; 1 is the published size.
        guidance: Whether there is a reference; otherwise this is a plain U-Net.
        passes: What the next encoder block gets: the ``"fused"`` features, which fit the paper's parameter count
            [choice], or the ``"concatenated"`` ones of image and reference, as it prints.

    Example:
        >>> import torch
        >>> reference, image = torch.rand(2, 2, 3, 48, 64)
        >>> _, features = AutoEncoder(width=0.125)(reference)
        >>> GuidedUNet(width=0.125)(image, features).shape
        torch.Size([2, 2, 48, 64])
    """

    def __init__(self, width: float = 1.0, guidance: bool = True, passes: Passes = "fused") -> None:
        super().__init__()
        self.is_concatenated = guidance and passes == "concatenated"
        channels = scale_channels(CHANNELS, width)
        scales = channels[:-1]
        seen = (0, *scales) if self.is_concatenated else (0,) * len(channels)
        self.encoder = nn.ModuleList(starmap(Block, zip((3, *scales), channels, seen, strict=True)))
        self.fusions = nn.ModuleList(Convolution(count, count, count) for count in scales if guidance)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for coarse, fine in pairwise(reversed(channels)):
            self.ups.append(nn.ConvTranspose2d(coarse, fine, 2, 2))
            self.decoder.append(Block(2 * fine, fine))
        self.head = nn.Conv2d(channels[0], 2, 3, padding=1)
        self.apply(initialize)

    def prepare(self, features: list[Tensor]) -> list[Tensor]:
        """Compute what :meth:`segment` needs of a reference, before the image is known.

        Args:
            features: The reference's, from :class:`AutoEncoder`.

        Returns:
            One tensor per scale, of the features' shapes; with concatenated features four more, with half the sides and
            twice the channels.
        """
        convolutions: list[Any] = list(self.fusions)
        if self.is_concatenated:
            convolutions += [block.first for block in self.encoder][1:]
            features = [*features, *(F.max_pool2d(feature, 2) for feature in features)]
        return [convolution.prepare(feature) for convolution, feature in zip(convolutions, features, strict=True)]

    def segment(self, image: Tensor, prepared: list[Tensor]) -> Tensor:
        """Mark what differs from normal.

        Args:
            image: ``(B, 3, H, W)`` in ``[0, 1]``, sides of 32 pixels or more.
            prepared: From :meth:`prepare`, of one reference per image or, ``(1, ...)``, of one for all; empty without
                guidance.

        Returns:
            Logits ``(B, 2, H, W)`` of normal and anomalous.
        """
        fused, passed = prepared[:SCALES], prepared[SCALES:]
        features, skips = self.encoder[0](pad(image)), []
        for scale, block in enumerate(list(self.encoder)[1:]):
            skips.append(self.fusions[scale](features, fused[scale]) if self.fusions else features)
            onwards = features if self.is_concatenated else skips[-1]
            features = block(F.max_pool2d(onwards, 2), passed[scale] if self.is_concatenated else None)
        for up, block in zip(self.ups, self.decoder, strict=True):
            features = block(torch.cat((up(features), skips.pop()), 1))
        return crop(self.head(features), image)

    def forward(self, image: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Mark in ``(B, 3, H, W)`` images what differs from references of these features: logits ``(B, 2, H, W)``."""
        return self.segment(image, [] if features is None else self.prepare(features))


def pad(image: Tensor) -> Tensor:
    """Repeat the last row and column of ``(B, C, H, W)`` images until both sides are multiples of 16."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % REDUCTION, 0, -height % REDUCTION), mode="replicate")


def initialize(module: nn.Module) -> None:
    """Draw a layer's initial weights as DRAEM does [choice]: convolutions from N(0, 0.02), scales from N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
