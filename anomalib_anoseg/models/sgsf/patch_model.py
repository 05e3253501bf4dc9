"""SGSF guided by patches: a frozen encoder, a memory of normal patches, and a network that segments what differs.

What stays of the paper: anomalies forged on the object, and segmentation guided by features of normal images. What is
ours: the features are an ImageNet encoder's, and each place is guided by the most similar patch of all references
instead of the same place of one reference, so that parts need not lie in one pose.
"""

from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.models.encoder import CoordinateEncoder
from anomalib_anoseg.models.ignored_region import IgnoredRegion
from anomalib_anoseg.models.image_score import score_map
from anomalib_anoseg.models.light_decoder import LightDecoder
from anomalib_anoseg.models.network_parts import crop
from anomalib_anoseg.models.sgsf.bank import NO_REFERENCES
from anomalib_anoseg.models.sgsf.patch_memory import PatchMemory, Standardisation, average_patches
from anomalib_anoseg.models.sgsf.torch_model import SGSFOutput
from anomalib_anoseg.training.averaging import AveragedModule

# Of the encoder's five scales, 1/2 to 1/32, those that have a memory: 1/4, 1/8 and 1/16.
GUIDED = (1, 2, 3)
# Images through the encoder at once.
CHUNK = 16


class PatchGuidedModel(nn.Module):
    """SGSF's networks with guidance by patches, in the place of :class:`SGSFModel`.

    Args:
        backbone: timm model with feature maps down to 1/32 of the image.
        weights: ``True`` for timm's download, a path, or ``False`` for random ones.
        width: Factor on the decoder's channels.
        vectors: Patches in the memory, for each of three scales.
        averaging: Decay of the averaged weights that evaluation uses, in ``[0, 1)``; 0 averages nothing.
        score_window: Of the image score, an odd number of pixels, see
            :func:`~anomalib_anoseg.models.image_score.score_map`.

    Attributes:
        region: Where nothing counts; it is grey in the images of the memory, too.

    Example:
        >>> import torch
        >>> model = PatchGuidedModel("mobilenetv3_small_050")
        >>> model.fill_memory(torch.randint(256, (3, 3, 64, 96), dtype=torch.uint8), torch.arange(3))
        >>> prediction = model.eval()(torch.rand(2, 3, 64, 96))
        >>> prediction.anomaly_map.shape, prediction.pred_score.shape
        (torch.Size([2, 1, 64, 96]), torch.Size([2]))
    """

    guidance = "patches"
    needs_bank = True
    denoise = False
    # Images of any size can be compared with patches.
    bank = None
    bank_size = None

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        weights: bool | str = False,
        width: float = 1.0,
        vectors: int = 1024,
        averaging: float = 0.0,
        score_window: int = 21,
    ) -> None:
        super().__init__()
        self.weights, self.vectors, self.score_window = weights, vectors, score_window
        self.region = IgnoredRegion()
        self.encoder = CoordinateEncoder(
            backbone, coordinates=False, normalize=True, frozen=True, setting="extractor.name"
        )
        channels = self.encoder.channels
        self.standardise = nn.ModuleList(Standardisation(count) for count in channels)
        self.memories = nn.ModuleList(PatchMemory() for _ in GUIDED)
        seen = [2 * count + 1 if scale in GUIDED else count for scale, count in enumerate(channels)]
        self.decoder = LightDecoder(seen, 2, width)
        self.averaged = AveragedModule(self.decoder, averaging) if averaging else None

    def forward(self, image: Tensor, own: Tensor | None = None) -> SGSFOutput | InferenceBatch:
        """Predict.

        Args:
            image: ``(B, 3, H, W)`` in ``[0, 1]``, sides of 32 pixels or more.
            own: ``(B,)`` int64, which of the references each image is, -1 for none; for training.

        Returns:
            In training mode :class:`SGSFOutput`; in evaluation mode the anomaly map ``(B, 1, H, W)`` and its score
            ``(B,)``, float32 in ``[0, 1]``.

        An empty memory is a ``RuntimeError``.
        """
        decoder = self.decoder if self.training or self.averaged is None else self.averaged.module
        image = self.region.mask_images(image)
        logits = crop(decoder(self.guide(image, own)), image)
        if self.training:
            return SGSFOutput(logits, None)
        # In float32 even under autocast: bfloat16 has few values near 1, and the best of all pixels would tie.
        anomaly_map = self.region.mask_maps(logits.float().softmax(1)[:, 1:])
        return InferenceBatch(pred_score=score_map(anomaly_map, self.score_window), anomaly_map=anomaly_map)

    @torch.no_grad()
    def guide(self, image: Tensor, own: Tensor | None = None) -> list[Tensor]:
        """Compute what the decoder sees of images, as in :meth:`forward`: their features beside how they differ.

        Raises:
            RuntimeError: If the memory is empty.
        """
        memories: Any = self.memories
        if not all(map(len, memories)):
            raise RuntimeError(NO_REFERENCES)
        # Similar patches differ by less than bfloat16 resolves.
        with torch.autocast(image.device.type, enabled=False):
            features = self._encode(image)
            for scale, memory in zip(GUIDED, memories, strict=True):
                patches = average_patches(features[scale])
                difference = (patches - memory.nearest(patches, own)).abs()
                distance = difference.square().mean(1, keepdim=True).sqrt()
                features[scale] = torch.cat((features[scale], difference, distance), 1)
            return features

    def _encode(self, image: Tensor) -> list[Tensor]:
        """Encode images: standardised features, finest first."""
        features = self.encoder(self.encoder.with_coordinates(image.float()))
        return [layer(feature) for layer, feature in zip(self.standardise, features, strict=True)]

    @torch.no_grad()
    def embed(self, image: Tensor) -> Tensor:
        """Describe ``(B, 3, H, W)`` images in ``[0, 1]``: ``(B, D)`` float32 of length 1, the more alike the closer."""
        with torch.autocast(image.device.type, enabled=False):
            return F.normalize(self.encoder(self.encoder.with_coordinates(image.float()))[-1].mean((2, 3)))

    @torch.no_grad()
    def fill_memory(self, images: Tensor, places: Tensor) -> None:
        """Take references in the place of those that are there, and the statistics of their features.

        Args:
            images: ``(K, 3, H, W)`` uint8, normal images.
            places: ``(K,)`` int64, by which ``own`` names them in :meth:`forward`.
        """
        device = self.encoder.mean.device
        memories: Any = self.memories
        layers: Any = self.standardise
        parts = [
            self.encoder(self.encoder.with_coordinates(part.to(device).float() / 255)) for part in images.split(CHUNK)
        ]
        features = [torch.cat(scale) for scale in zip(*parts, strict=True)]
        for layer, feature in zip(layers, features, strict=True):
            layer.fit(feature)
        for scale, memory in zip(GUIDED, memories, strict=True):
            memory.fill(average_patches(layers[scale](features[scale])), places, self.vectors)
        self.train(self.training)  # or Lightning would warn of an encoder that evaluates when the training starts

    def load_pretrained(self) -> None:
        """Load the encoder's ImageNet weights, unless random ones were asked for."""
        if self.weights:
            self.encoder.load_pretrained(self.weights if isinstance(self.weights, str) else None, "extractor.weights")

    def trained_parameters(self) -> list[nn.Parameter]:
        """List what the optimiser trains: the decoder."""
        return list(self.decoder.parameters())

    def drop_training_parts(self) -> None:
        """Keep what evaluation mode needs and nothing else, for export."""
        if self.averaged is not None:
            self.decoder, self.averaged = self.averaged.module, None

    def update_average(self, image: Tensor, own: Tensor | None, step: int) -> None:
        """Take the current weights into the average.

        Args:
            image: ``(B, 3, H, W)``, the images of this step; the last few are kept for the statistics.
            own: As in :meth:`forward`.
            step: Number of the optimiser step, from 1.
        """
        if self.averaged is not None:
            self.averaged.follow(self.decoder, (image, own), step)

    def prepare_for_evaluation(self) -> None:
        """Switch to evaluation mode, which needs statistics of the averaged weights: of the last images."""
        if self.averaged is not None:
            self.averaged.refresh_statistics(self._guide_batch)
        self.eval()

    def _guide_batch(self, batch: Any) -> tuple[list[Tensor]]:  # noqa: ANN401
        return (self.guide(*batch),)
