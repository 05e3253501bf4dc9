"""AnoSeg's anomaly detector: a second GAN, which turns image and anomaly map into an image score.

After arXiv 2110.03396, Sec. 3.4. Its generator reconstructs an image from the image and AnoSeg's map of it. Its
discriminator learns what pairs of a normal image and its map look like. The score is the distance between the original
and the reconstructed pair, in the discriminator's features and in the images themselves.

Everything here uses anomalib's polarity, also in the inputs of both networks: the map of a normal image is 0 everywhere
(the paper's is 1).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomalib_anoseg.models.anoseg.networks import MIN_TRAINING_SIDE, Decoder, Discriminator
from anomalib_anoseg.models.encoder import CoordinateEncoder
from anomalib_anoseg.models.network_parts import crop


class DiscriminatorOutput(NamedTuple):
    """What the discriminator computes for pairs of image and map.

    Attributes:
        features: ``(B, C, 2, 2)``, its penultimate layer, the paper's ``f``: 512 values at width 1.
        logits: ``(B,)``, positive for real.
    """

    features: Tensor
    logits: Tensor


class DetectorModel(nn.Module):
    """The detector's generator and discriminator, and the score that comes from them.

    Args:
        backbone: timm encoder of the generator; sees no coordinates and starts from random weights.
        width: Factor on all channels; 1 is the published size.
        side: Shorter side of the images in pixels. It limits the discriminator's number of layers, see
            :class:`~anomalib_anoseg.models.anoseg.networks.Discriminator`; larger images work as well.
        beta: Weight of the image difference in the score; that of the features has weight 1.

    Attributes:
        min_side: Shortest side of an image in pixels that the discriminator can take.

    Example:
        >>> import torch
        >>> detector = DetectorModel(width=0.125, side=64).eval()
        >>> image, anomaly_map = torch.rand(2, 3, 64, 96), torch.rand(2, 1, 64, 96)
        >>> detector(image, anomaly_map).shape, detector.score(image, anomaly_map).shape
        (torch.Size([2, 3, 64, 96]), torch.Size([2]))
    """

    def __init__(self, backbone: str = "resnet18", width: float = 1.0, side: int = 256, beta: float = 0.1) -> None:
        super().__init__()
        self.encoder = CoordinateEncoder(backbone, width, coordinates=False, extra_channels=1)
        self.decoder = Decoder(self.encoder.channels, 3, width)
        self.discriminator = Discriminator(width, side=side)
        self.min_side = max(MIN_TRAINING_SIDE, 2 ** len(self.discriminator.layers))
        self.beta = beta

    def forward(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        """Reconstruct ``(B, 3, H, W)`` images with the help of their maps ``(B, 1, H, W)``, in ``[0, 1]``, float32."""
        inputs = torch.cat((image, anomaly_map), 1)
        return crop(self.decoder(self.encoder(inputs)), inputs).float().sigmoid()

    def features(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        """Compute the discriminator's penultimate features ``(B, C, 2, 2)`` of pairs.

        Raises:
            ValueError: If the images are too small for its layers.
        """
        # During export only bounds of the sizes are known.
        if not torch.compiler.is_compiling() and min(image.shape[-2:]) < self.min_side:
            raise ValueError(
                f"AnoSeg's detector takes images with sides of {self.min_side} pixels or more, got "
                f"{tuple(image.shape)}. Set image_size to the size of the images."
            )
        return self.discriminator.features(torch.cat((image, anomaly_map), 1))

    def judge(self, image: Tensor, anomaly_map: Tensor) -> DiscriminatorOutput:
        """Judge pairs of ``(B, 3, H, W)`` and ``(B, 1, H, W)``."""
        features = self.features(image, anomaly_map)
        return DiscriminatorOutput(features, self.discriminator.judge(features))

    def score(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        """Score images by their distance from a normal reconstruction.

        ``MSE(f(x, 0), f(x^, A^)) + beta MSE(x, x^)`` with an image ``x``, its reconstruction ``x^`` and its map ``A^``.

        Args:
            image: ``(B, 3, H, W)`` in ``[0, 1]``.
            anomaly_map: ``(B, 1, H, W)`` in ``[0, 1]``, 1 = anomalous.

        Returns:
            ``(B,)``, ``>= 0``, in float32 whatever the precision of the networks.
        """
        reconstruction = self(image, anomaly_map)
        normal = self.features(image, torch.zeros_like(anomaly_map))
        found = self.features(reconstruction, anomaly_map)
        return _mean_square(normal, found) + self.beta * _mean_square(image, reconstruction)

    def generator_parameters(self) -> list[nn.Parameter]:
        """List the parameters of the generator's optimiser."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def drop_training_parts(self) -> None:
        """Keep what :meth:`score` needs and nothing else, for export."""
        del self.discriminator.head


def _mean_square(first: Tensor, second: Tensor) -> Tensor:
    return (first.float() - second.float()).square().mean((1, 2, 3))
