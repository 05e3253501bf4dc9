"""AnoSeg's networks: what they predict in training and in evaluation.

Everything here uses anomalib's polarity: maps and masks are 1 where an image is anomalous (the paper's ``A`` is one
minus that).
"""

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from typing_extensions import Self

from anomalib_anoseg.models.anoseg.networks import Decoder, DecoderKind, Discriminator, Segmenter
from anomalib_anoseg.models.ignored_region import IgnoredRegion
from anomalib_anoseg.models.image_score import score_map
from anomalib_anoseg.models.network_parts import crop
from anomalib_anoseg.training.averaging import AveragedModule
from anomalib_anoseg.training.calibration import SeveralScores

if TYPE_CHECKING:
    from anomalib.data.utils.tiler import Tiler

    from anomalib_anoseg.models.anoseg.detector import DetectorModel

ImageScore = Literal["map", "detector"]


class AnoSegOutput(NamedTuple):
    """What the networks predict in training.

    Attributes:
        logits: ``(B, 1, H, W)``; their sigmoid is the anomaly map.
        reconstruction: ``(B, 3, H, W)`` in ``[0, 1]``, the image without anomalies; ``None`` if nothing needs it.
    """

    logits: Tensor
    reconstruction: Tensor | None

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return reconstruction and anomaly map, as the discriminator judges them.

        Raises:
            ValueError: If there is no reconstruction.
        """
        if self.reconstruction is None:
            raise ValueError("A pair needs a reconstruction; build the model with reconstruction=True.")
        return self.reconstruction, self.logits.sigmoid()

    def detached_pair(self) -> tuple[Tensor, Tensor]:
        """Return :meth:`pair`, detached from the graph."""
        reconstruction, anomaly_map = self.pair()
        return reconstruction.detach(), anomaly_map.detach()


class AnoSegModel(nn.Module, SeveralScores):
    """AnoSeg's segmentation networks and, if one is set, its detector.

    Args:
        backbone: timm encoder.
        width: Factor on all channels; 1 is the published size.
        coordinates: Whether the encoder sees coordinate channels.
        reconstruction: Whether a second decoder reconstructs the image in training.
        adversarial: Whether a discriminator judges the outputs in training; needs ``reconstruction``.
        averaging: Decay of the averaged weights that evaluation uses, in ``[0, 1)``; 0 turns averaging off. Their
            normalisation statistics are computed separately, see :meth:`prepare_for_evaluation`.
        score_window: Of the image score, an odd number of pixels, see
            :func:`~anomalib_anoseg.models.image_score.score_map`.
        skip_connections: Whether the map decoder sees the encoder's finer features; not in the paper.
        normalize: Whether the encoder normalises colours as its pre-trained weights expect.
        frozen: Whether the encoder keeps its pre-trained weights; not in the paper.
        decoder: Of the map, see :class:`~anomalib_anoseg.models.anoseg.networks.Segmenter`.

    Attributes:
        detector: ``None`` unless a detector is configured; it always sees whole images.
        image_score: What becomes the image score in evaluation mode: that of the ``"map"`` or of the ``"detector"``.
        region: Where nothing counts.
        segmentation_frozen: Whether all parts but the detector stay in evaluation mode, even in training.
        tiler: Set by anomalib's ``TilerConfigurationCallback``: the networks then see tiles of large images.

    Example:
        >>> import torch
        >>> model = AnoSegModel(width=0.125).eval()
        >>> prediction = model(torch.rand(2, 3, 64, 96))
        >>> prediction.anomaly_map.shape, prediction.pred_score.shape
        (torch.Size([2, 1, 64, 96]), torch.Size([2]))
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        width: float = 1.0,
        coordinates: bool = True,
        reconstruction: bool = True,
        adversarial: bool = True,
        averaging: float = 0.0,
        score_window: int = 21,
        skip_connections: bool = False,
        normalize: bool = False,
        frozen: bool = False,
        decoder: DecoderKind = "published",
    ) -> None:
        super().__init__()
        self.segmenter = Segmenter(
            backbone=backbone,
            width=width,
            coordinates=coordinates,
            skip_connections=skip_connections,
            normalize=normalize,
            frozen=frozen,
            decoder=decoder,
        )
        channels = self.segmenter.encoder.channels
        self.reconstruction_decoder = Decoder(channels, 3, width) if reconstruction or adversarial else None
        self.discriminator = Discriminator(width) if adversarial else None
        self.averaged = AveragedModule(self.segmenter, averaging) if averaging else None
        self.detector: DetectorModel | None = None
        self.image_score: ImageScore = "map"
        self.score_window = score_window
        self.region = IgnoredRegion()
        self.segmentation_frozen = False
        self.tiler: Tiler | None = None

    def forward(self, image: Tensor) -> AnoSegOutput | InferenceBatch:
        """Predict from ``(B, 3, H, W)`` images in ``[0, 1]``.

        Returns:
            In training mode :class:`AnoSegOutput`; in evaluation mode the anomaly map ``(B, 1, H, W)`` in ``[0, 1]``,
            from the averaged weights if there are any, and the image score ``(B,)``: in ``[0, 1]`` if it is the map's,
            ``>= 0`` if it is the detector's.
        """
        if self.training:
            inputs = self._inputs(image)
            logits, features = self.segmenter(inputs)
            return AnoSegOutput(self._untile(logits), self._reconstruct(features, inputs))
        anomaly_map = self.predict_map(image)
        return InferenceBatch(pred_score=self._score(self.image_score, image, anomaly_map), anomaly_map=anomaly_map)

    def other_scores(self, image: Tensor, anomaly_map: Tensor) -> dict[str, Tensor]:
        """Compute the image score that is not in use, ``(B,)``, if there is a detector.

        Args:
            image: ``(B, 3, H, W)`` in ``[0, 1]``.
            anomaly_map: ``(B, 1, H, W)``, the maps predicted for them.
        """
        if self.detector is None:
            return {}
        other: ImageScore = "detector" if self.image_score == "map" else "map"
        return {other: self._score(other, image, anomaly_map)}

    def _score(self, name: ImageScore, image: Tensor, anomaly_map: Tensor) -> Tensor:
        if name == "detector" and self.detector is not None:
            return self.detector.score(self.region.mask_images(image), anomaly_map)
        return score_map(anomaly_map, self.score_window)

    def predict_map(self, image: Tensor) -> Tensor:
        """Predict anomaly maps ``(B, 1, H, W)`` as evaluation does, in ``[0, 1]``, from ``(B, 3, H, W)`` images.

        Normalisation layers follow the networks' current mode, see :attr:`segmentation_frozen`.
        """
        segmenter = self.averaged.module if self.averaged is not None else self.segmenter
        logits, _ = segmenter(self._inputs(self.region.mask_images(image)))
        # In float32 even under autocast: bfloat16 has few values near 1, where the highest pixels would tie.
        return self.region.mask_maps(self._untile(logits).float().sigmoid())

    def _inputs(self, image: Tensor) -> Tensor:
        inputs = self.segmenter.encoder.with_coordinates(image)
        return self.tiler.tile(inputs) if self.tiler else inputs

    def _reconstruct(self, features: list[Tensor], inputs: Tensor) -> Tensor | None:
        if self.reconstruction_decoder is None:
            return None
        return self._untile(crop(self.reconstruction_decoder(features), inputs).sigmoid())

    def discriminate(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        """Judge pairs of ``(B, 3, H, W)`` and ``(B, 1, H, W)``: logits ``(B,)``, positive for real.

        Raises:
            ValueError: If the model was built without a discriminator.
        """
        if self.discriminator is None:
            raise ValueError("There is no discriminator; build the model with adversarial=True.")
        return self.discriminator(torch.cat((image, anomaly_map), 1))

    def _untile(self, tiles: Tensor) -> Tensor:
        return self.tiler.untile(tiles) if self.tiler else tiles

    def generator_parameters(self) -> list[nn.Parameter]:
        """List the parameters of the generator's optimiser: decoders and, unless it is frozen, encoder."""
        segmenter = self.segmenter.decoder if self.segmenter.encoder.frozen else self.segmenter
        trained = [segmenter, self.reconstruction_decoder]
        return [parameter for part in trained if part is not None for parameter in part.parameters()]

    def load_pretrained(self, weights: str | None = None) -> None:
        """Load ImageNet weights into the encoder, see :meth:`CoordinateEncoder.load_pretrained`."""
        self.segmenter.encoder.load_pretrained(weights)
        if self.averaged is not None:
            self.averaged.set(self.segmenter)

    def drop_training_parts(self) -> None:
        """Keep what evaluation mode needs and nothing else, for export."""
        if self.averaged is not None:
            self.segmenter = self.averaged.module
        self.reconstruction_decoder = self.discriminator = self.averaged = None
        if self.image_score == "map":
            self.detector = None
        elif self.detector is not None:
            self.detector.drop_training_parts()

    def update_average(self, image: Tensor, step: int) -> None:
        """Update the averaged weights with the current ones.

        Args:
            image: ``(B, 3, H, W)``, the images of this step; the last few are kept for the statistics.
            step: Number of the optimiser step, from 1.
        """
        if self.averaged is not None:
            self.averaged.follow(self.segmenter, image, step)

    def freeze(self, frozen: bool) -> None:
        """Keep all parts but the detector in evaluation mode from now on, or let them train again."""
        if frozen != self.segmentation_frozen:
            self.segmentation_frozen = frozen
            if frozen and self.averaged is not None:
                self.averaged.refresh_statistics(self._inputs)
            self.train(self.training)

    def prepare_for_evaluation(self) -> None:
        """Switch to evaluation mode, after computing statistics of the averaged weights from the last images."""
        if self.averaged is not None:
            self.averaged.refresh_statistics(self._inputs)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation mode, see :attr:`segmentation_frozen`."""
        super().train(mode)
        if self.segmentation_frozen:
            for part in self.children():
                part.train(mode and part is self.detector)
        return self
