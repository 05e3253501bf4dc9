"""SGSF's networks together: what they predict in training and, with the references that they carry, in evaluation.

Everything here uses anomalib's polarity: maps and masks are 1 where an image is anomalous.
"""

from typing import Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_anoseg.models.ignored_region import IgnoredRegion
from anomalib_anoseg.models.image_score import score_map
from anomalib_anoseg.models.sgsf.bank import Precision, ReferenceBank
from anomalib_anoseg.models.sgsf.bank_size import BankFeatures, BankSize
from anomalib_anoseg.models.sgsf.extractor import FeatureExtractor
from anomalib_anoseg.models.sgsf.networks import AutoEncoder, GuidedUNet, Passes
from anomalib_anoseg.training.averaging import AveragedModule

Guidance = Literal["nearest", "single", "none"]
# References whose features are computed at a time.
PART = 4


class SGSFOutput(NamedTuple):
    """What the networks predict in training.

    Attributes:
        logits: ``(B, 2, H, W)`` of normal and anomalous; their softmax is the anomaly map.
        reconstruction: ``(B, 3, H, W)`` of the reference, or of the normal image for a denoising auto-encoder;
            ``None`` without guidance.
    """

    logits: Tensor
    reconstruction: Tensor | None


class GuidanceNetwork(nn.Module):
    """The self-supervised guidance network (SGN): auto-encoder and segmentation module.

    Args:
        width: Factor on the channels of both.
        guidance: Whether there is an auto-encoder that guides.
        passes: See :class:`~anomalib_anoseg.models.sgsf.networks.GuidedUNet`.
        detach_guidance: Whether the auto-encoder learns from its reconstruction alone.
    """

    def __init__(
        self, width: float = 1.0, guidance: bool = True, passes: Passes = "fused", detach_guidance: bool = False
    ) -> None:
        super().__init__()
        self.detach_guidance = detach_guidance
        self.autoencoder = AutoEncoder(width) if guidance else None
        self.segmenter = GuidedUNet(width, guidance, passes)

    def forward(self, inputs: Tensor) -> SGSFOutput:
        """Predict from ``(B, 6, H, W)`` inputs, images and their guides, or images alone without guidance."""
        image = inputs[:, :3]
        if self.autoencoder is None:
            return SGSFOutput(self.segmenter(image), None)
        reconstruction, features = self.autoencoder(inputs[:, 3:])
        if self.detach_guidance:
            features = [feature.detach() for feature in features]
        return SGSFOutput(self.segmenter(image, features), reconstruction)

    def prepare(self, reference: Tensor) -> list[Tensor]:
        """Compute what the segmentation module needs of ``(B, 3, H, W)`` references, see :meth:`GuidedUNet.prepare`."""
        if self.autoencoder is None:
            return []
        return self.segmenter.prepare(self.autoencoder(reference)[1])


class SGSFModel(nn.Module):
    """SGSF's networks and the references that guide them; the settings check all arguments.

    Args:
        width: Factor on the channels; 1 is the published size.
        guidance: ``"nearest"``, by the most similar reference of the bank; ``"single"``, by one for all, the medoid;
            or ``"none"``, an ablation: a plain U-Net.
        passes: What the encoder passes on, ``"fused"`` or ``"concatenated"``; see
            :class:`~anomalib_anoseg.models.sgsf.networks.GuidedUNet`.
        detach_guidance: Whether the auto-encoder learns from its reconstruction alone; in the paper, it learns from
            the segmentation as well.
        denoise: An ablation: the auto-encoder sees the image itself, and learns to reconstruct it without anomalies.
            Needs guidance.
        extractor: timm model whose features tell which images are similar.
        extractor_weights: ``True`` for timm's download, a path, or ``False`` for random ones; see
            :class:`~anomalib_anoseg.models.sgsf.extractor.FeatureExtractor`.
        extractor_size: Side in pixels to which images are resized for it; ``None`` keeps their size.
        bank_features: Whether evaluation computes the features of a reference for each image, or stores those of all
            references beforehand, which is faster and larger: see
            :class:`~anomalib_anoseg.models.sgsf.bank_size.BankSize`.
        bank_precision: Of stored features.
        averaging: Decay of the averaged weights that evaluation uses, in ``[0, 1)``; 0 turns averaging off. Their
            normalisation statistics are computed separately, see :meth:`prepare_for_evaluation`.
        score_window: Of the image score, an odd number of pixels, see
            :func:`~anomalib_anoseg.models.image_score.score_map`.

    Attributes:
        bank: The references; ``None`` if the model needs none, and so is ``extractor``.
        region: Where nothing counts; it is grey in references, too.

    Example:
        >>> import torch
        >>> model = SGSFModel(width=0.125)
        >>> images = torch.randint(256, (3, 3, 64, 96), dtype=torch.uint8)
        >>> model.fill_bank(images, model.embed(images / 255))
        >>> prediction = model.eval()(torch.rand(2, 3, 64, 96))
        >>> prediction.anomaly_map.shape, prediction.pred_score.shape
        (torch.Size([2, 1, 64, 96]), torch.Size([2]))
    """

    def __init__(
        self,
        width: float = 1.0,
        guidance: Guidance = "nearest",
        passes: Passes = "fused",
        detach_guidance: bool = False,
        denoise: bool = False,
        extractor: str = "resnet18",
        extractor_weights: bool | str = False,
        extractor_size: int | None = None,
        bank_features: BankFeatures = "stored",
        bank_precision: Precision = "float16",
        averaging: float = 0.0,
        score_window: int = 21,
    ) -> None:
        super().__init__()
        self.guidance, self.denoise, self.bank_features = guidance, denoise, bank_features
        self.width, self.passes, self.bank_precision = width, passes, bank_precision
        self.score_window = score_window
        self.region = IgnoredRegion()
        self.network = GuidanceNetwork(width, guidance != "none", passes, detach_guidance)
        self.averaged = AveragedModule(self.network, averaging) if averaging else None
        self.needs_bank = guidance != "none" and not denoise
        self.bank = ReferenceBank(bank_precision, guidance == "single") if self.needs_bank else None
        self.extractor = FeatureExtractor(extractor, extractor_weights, extractor_size) if self.needs_bank else None
        # Whether the networks have changed since the references were prepared.
        self._is_outdated = True

    def forward(self, image: Tensor, reference: Tensor | None = None) -> SGSFOutput | InferenceBatch:
        """Predict from images and, in training mode, their references.

        Args:
            image: ``(B, 3, H, W)`` in ``[0, 1]``, sides of 32 pixels or more.
            reference: ``(B, 3, H, W)``, a normal image for each; only in training mode, and only where the model
                needs a bank.

        Returns:
            In training mode :class:`SGSFOutput`; in evaluation mode the anomaly map ``(B, 1, H, W)`` and its score
            ``(B,)``, float32 in ``[0, 1]``.

        An empty bank raises a ``RuntimeError``. References that are missing, or of another size than the image, raise a
        ``ValueError``.
        """
        if self.training:
            self._is_outdated = True
            return self.network(self._inputs(image, reference))
        image = self.region.mask_images(image)
        logits = self.inference_network.segmenter.segment(image, self._guide(image))
        # In float32 even under autocast: bfloat16 has few values near 1, where the highest pixels would tie.
        anomaly_map = self.region.mask_maps(logits.float().softmax(1)[:, 1:])
        return InferenceBatch(pred_score=score_map(anomaly_map, self.score_window), anomaly_map=anomaly_map)

    @property
    def tiler(self) -> None:
        """Always ``None``: SGSF does not support anomalib's tiling."""

    @tiler.setter
    def tiler(self, tiler: object) -> None:
        del tiler
        raise ValueError(
            "SGSF compares whole images with whole references and takes no tiles. Remove the tiler, and set "
            "image_size as large as the defects require."
        )

    @property
    def inference_network(self) -> GuidanceNetwork:
        """The networks with which evaluation predicts: the averaged ones if there are any."""
        return self.network if self.averaged is None else self.averaged.module

    def _inputs(self, image: Tensor, reference: Tensor | None) -> Tensor:
        if self.guidance == "none":
            return image
        guide = image if self.denoise else reference
        if guide is None or guide.shape != image.shape:
            shape = None if guide is None else tuple(guide.shape)
            raise ValueError(f"reference must be a normal image for each of {tuple(image.shape)}, got {shape}.")
        return torch.cat((image, guide), 1)

    def _guide(self, image: Tensor) -> list[Tensor]:
        """Prepare the guiding features of each of ``(B, 3, H, W)`` images or, ``(1, ...)``, of all."""
        if self.bank is None:
            return self.inference_network.prepare(image)
        self.bank.check_size(image)
        # One reference for all is broadcast instead of picked.
        index = self.bank.nearest(self.embed(image)) if len(self.bank) > 1 else None
        if self.bank_features == "computed":
            return self.inference_network.prepare(self.bank.pictures(index))
        if self._is_outdated or not self.bank.has_stored:
            self.store_features()
        return self.bank.stored(index)

    def load_pretrained(self) -> None:
        """Load the extractor's weights, if there is one, and unless random ones were asked for."""
        if self.extractor is not None:
            self.extractor.load_pretrained()

    def embed(self, image: Tensor) -> Tensor:
        """Embed ``(B, 3, H, W)`` images in ``[0, 1]``: ``(B, D)`` float32 of length 1, close for similar images.

        Raises:
            RuntimeError: If the model needs no references.
        """
        if self.extractor is None:
            raise RuntimeError("This model has no extractor, because it needs no references.")
        return self.extractor(image)

    def fill_bank(self, images: Tensor, embeddings: Tensor) -> None:
        """Replace the references; ``"single"`` guidance keeps only their medoid.

        Args:
            images: ``(K, 3, H, W)`` uint8, normal images of the size of test images.
            embeddings: ``(K, D)``, the outputs of :meth:`embed` for them.

        Raises:
            RuntimeError: If the model needs no references.
        """
        if self.bank is None:
            raise RuntimeError("This model needs no references; see needs_bank.")
        self.bank.fill(images, embeddings)

    def store_features(self) -> None:
        """Store the features that the segmentation module needs of each reference, computed in float32."""
        bank = self.bank
        if bank is None or self.bank_features == "computed" or not len(bank):
            return
        device = bank.images.device
        # Lightning evaluates in inference mode, whose tensors cannot be used outside of it.
        with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            places = torch.arange(len(bank), device=device).split(PART)
            parts = [self.inference_network.prepare(bank.pictures(part)) for part in places]
            bank.store([torch.cat(scale) for scale in zip(*parts, strict=True)])
        self._is_outdated = False

    @property
    def bank_size(self) -> BankSize | None:
        """The size of the references in an exported file; ``None`` if the model needs none."""
        if self.bank is None or self.extractor is None:
            return None
        height, width = self.bank.images.shape[-2:]
        return BankSize(
            count=len(self.bank),
            image_size=(height, width),
            width=self.width,
            features=self.bank_features,
            precision=self.bank_precision,
            passes=self.passes,
            embedding_size=self.extractor.embedding_size,
        )

    def trained_parameters(self) -> list[nn.Parameter]:
        """List what the optimiser trains: auto-encoder and segmentation module."""
        return list(self.network.parameters())

    def drop_training_parts(self) -> None:
        """Keep what evaluation mode needs and nothing else, for export."""
        self.network, self.averaged = self.inference_network, None
        if self.bank is None:
            return
        if len(self.bank) == 1:
            self.extractor = None
        if self.bank.has_stored:
            self.network.autoencoder = None
            self.bank.drop_images()

    def update_average(self, image: Tensor, reference: Tensor | None, step: int) -> None:
        """Update the averaged weights with the current ones.

        Args:
            image: ``(B, 3, H, W)``, the images of this step; the last few are kept for the statistics.
            reference: What guided them, as in :meth:`forward`.
            step: Number of the optimiser step, from 1.
        """
        if self.averaged is not None:
            self.averaged.follow(self.network, self._inputs(image, reference), step)

    def prepare_for_evaluation(self) -> None:
        """Switch to evaluation mode, after refreshing what depends on the current weights.

        These are the statistics of the averaged weights, from the last images, and the features of the references.
        """
        if self.averaged is not None:
            self.averaged.refresh_statistics()
        self.eval()
        if self.bank is not None and (self._is_outdated or not self.bank.has_stored):
            self.store_features()
