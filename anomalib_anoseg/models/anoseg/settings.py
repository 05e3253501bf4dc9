"""AnoSeg's settings, in groups. What the paper leaves open is marked [choice] and explained in the model card."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.models import settings
from anomalib_anoseg.models.anoseg.networks import DecoderKind
from anomalib_anoseg.models.kinds import KindSettings
from anomalib_anoseg.models.patches import PatchSettings
from anomalib_anoseg.models.pixel_loss import PixelLoss
from anomalib_anoseg.models.settings import NetworkSettings, Settings


@dataclass(frozen=True)
class EncoderSettings(Settings):
    """The encoder.

    Args:
        backbone: timm encoder with features down to 1/32 of the image. The default is the paper's.
        pre_trained: Whether training starts from the backbone's ImageNet weights: ``true`` lets timm download them, a
            path reads them from a file. The encoder then normalises its inputs as these expect. The paper's is
            ``false``.
        frozen: Whether the encoder keeps its ImageNet weights. This saves its backward pass, most of a step's time if
            the decoders are narrow. Needs ``pre_trained`` and no ``coordinates``. The paper's is ``false``.
        coordinates: Whether the encoder sees coordinate channels. The paper's is ``true``.
    """

    group: ClassVar[str] = "encoder"

    backbone: str = "resnet18"
    pre_trained: bool | str = False
    frozen: bool = False
    coordinates: bool = True

    def check(self) -> None:
        """Check that a frozen encoder has pre-trained weights and no coordinates."""
        if self.frozen and (self.coordinates or not self.pre_trained):
            raise ValueError(
                "encoder.frozen=True needs encoder.pre_trained, or it would keep random weights, and "
                "encoder.coordinates=False, or its first layer would see channels that it cannot learn; got "
                f"pre_trained={bool(self.pre_trained)} and coordinates={self.coordinates}."
            )


@dataclass(frozen=True)
class AnoSegNetworkSettings(NetworkSettings):
    """Size of the networks and how they run.

    Args:
        width: Factor on the channels of all networks, in ``[0.05, 4]``; an encoder that is not a ResNet keeps its own.
            ``1`` is the published size, ``0.25`` suits a laptop.
        score_window: Odd side in pixels, 1 or more, of the square over which the anomaly map is averaged before its
            maximum becomes the image score [choice].
        channels_last: Memory layout, faster on most hardware, above all in bfloat16.
        compile: Whether training runs the networks through ``torch.compile``.
        skip_connections: Whether the map decoder sees the encoder's finer features, for defects that 1/32 of the
            image's resolution loses. The paper's is ``false``.
        decoder: Which network decodes the map: the ``published`` one, or a ``light`` one for short trainings, which
            takes half of the time and always has skip connections.
    """

    skip_connections: bool = False
    decoder: DecoderKind = "published"

    def check(self) -> None:
        """Check width, window and decoder."""
        super().check()
        self.one_of("decoder", DecoderKind)


@dataclass(frozen=True)
class NoiseSettings(Settings):
    """Noise-shaped anomalies, as SGSF's, on some of the images in place of patches.

    Args:
        share: Share of the images that get one, in ``[0, 1]``, in the places of patches; its opacity in training is 0.1
            to 1. The paper's is 0.
        textures: Their texture: images of the ``batch``, the ``noise`` itself, in grey, drawn ``patterns``, or
            pictures in a folder, such as DTD's [choice].
        mark: Whether the mask marks all of the ``noise`` or those of its pixels that ``changed`` [choice].
    """

    group: ClassVar[str] = "noise"
    former_prefix: ClassVar[str] = "perlin_"

    share: float = 0.0
    textures: str = "batch"
    mark: Literal["noise", "changed"] = "noise"

    def check(self) -> None:
        """Check share and mark."""
        self.within(0.0, 1.0, "share")
        self.one_of("mark", Literal["noise", "changed"])


@dataclass(frozen=True)
class LossSettings(Settings):
    """Losses of the segmentation networks, and their weights.

    Args:
        masked_reconstruction: Whether to learn to reconstruct normal pixels. The paper's is ``true``.
        adversarial: Whether to train against a discriminator. The paper's is ``true``.
        segmentation: Form of the pixel-wise loss; the paper prints ``l1``, which tends to end in the constant map
            [choice].
        segmentation_weight: Weight of the pixel-wise loss, 0 or more [choice].
        reconstruction_weight: Weight of the masked reconstruction loss, 0 or more [choice].
        adversarial_weight: Weight of the adversarial loss, 0 or more [choice].
    """

    group: ClassVar[str] = "losses"

    masked_reconstruction: bool = True
    adversarial: bool = True
    segmentation: PixelLoss = "balanced_cross_entropy"
    segmentation_weight: float = 50.0
    reconstruction_weight: float = 50.0
    adversarial_weight: float = 1.0

    def check(self) -> None:
        """Check form and weights."""
        self.one_of("segmentation", PixelLoss)
        self.within(0.0, 1e6, "segmentation_weight", "reconstruction_weight", "adversarial_weight")


@dataclass(frozen=True)
class DetectorSettings(Settings):
    """The paper's detector, a second GAN that scores images. It learns in the last part of the training.

    Args:
        enabled: Whether there is a detector. The segmentation networks are frozen while it learns.
        share: Fraction of the training in which it learns, in ``[0.01, 0.99]`` [choice].
        segmentation_checkpoint: Checkpoint of a trained AnoSeg, to train only its detector; the settings that shape the
            networks must be the same.
        adversarial_weight: Weight of its adversarial loss, 0 or more [choice].
        reconstruction_weight: Weight of its reconstruction loss, 0 or more [choice].
        feature_weight: Weight of its feature matching, 0 or more [choice].
        classification_weight: Weight of its loss on anomalies as fakes, 0 or more [choice].
        beta: Weight of the reconstruction's error in its score, beside that of features, 0 or more. The default is
            the paper's.
    """

    group: ClassVar[str] = "detector"
    former_prefix: ClassVar[str] = "detector_"

    enabled: bool = False
    share: float = 0.3
    segmentation_checkpoint: str | None = None
    adversarial_weight: float = 1.0
    reconstruction_weight: float = 50.0
    feature_weight: float = 1.0
    classification_weight: float = 1.0
    beta: float = 0.1

    def check(self) -> None:
        """Check ranges, and that a segmentation checkpoint comes with a detector."""
        self.within(0.01, 0.99, "share")
        weights = ("adversarial_weight", "reconstruction_weight", "feature_weight", "classification_weight")
        self.within(0.0, 1e6, *weights, "beta")
        if self.segmentation_checkpoint is not None and not self.enabled:
            raise ValueError(
                "detector.segmentation_checkpoint is for a training of the detector alone, which needs "
                "detector.enabled=True."
            )


@dataclass(frozen=True)
class CalibrationSettings(settings.CalibrationSettings):
    """How thresholds are set, and patches for the pixel threshold and the range of maps without real defects.

    Faint patches give a lower threshold than those of training, which a network marks with more confidence than
    defects. The image threshold is found on these and on the anomalies of training.

    Args:
        false_alarm_rate: Share of good pictures that may be called bad, in ``[0.0001, 0.5]``. Both thresholds are then
            set by good pictures that were held out: no more than this share lies above the image threshold, and no more
            has any marked pixel. A rate needs ``1 / rate - 1`` of them, such as 99 for 0.01. ``null`` sets thresholds
            where F1 is best on defects, forged ones if there are no real ones.
        opacity: Range of a calibration anomaly's weight over the image below, within ``[0.01, 1]``, patches and
            noise-shaped ones alike; ``null`` for that of training.
        area: Range of a calibration patch's area as a fraction of the image's, within ``[0.0001, 1]``; ``null`` for
            ``patches.area``.
    """

    area: tuple[float, float] | None = None

    def check(self) -> None:
        """Check all fields."""
        super().check()
        self.within(1e-4, 1.0, "area")

    @property
    def changes(self) -> dict[str, tuple[float, float]]:
        """The ranges that differ from those of training."""
        return super().changes if self.area is None else {**super().changes, "area": self.area}


@dataclass(frozen=True)
class OptimizerSettings(Settings):
    """Adam, for all networks.

    Args:
        lr: Learning rate, in ``[1e-8, 1]`` [choice].
        betas: Adam's betas, each in ``[0, 1)`` [choice].
        lr_decay_start: Fraction of the training, or of each stage, after which the learning rate falls linearly to
            zero, in ``[0, 1]``; ``1`` keeps it constant. Follows epochs, steps or ``max_time`` [choice].
        averaging: Decay of the exponentially averaged weights and normalisation statistics with which the model
            predicts, in ``[0, 1)``; ``0`` predicts with the latest weights [choice].
        accumulate_grad_batches: Batches per optimiser step, 1 or more; replaces the trainer's option of this name,
            which Lightning forbids with two optimisers.
        gradient_clip_val: Largest norm of each network's gradient, 0 or more; replaces the trainer's option as well.
    """

    group: ClassVar[str] = "optimizer"

    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    lr_decay_start: float = 0.5
    averaging: float = 0.99
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None

    def check(self) -> None:
        """Check ranges."""
        self.within(1e-8, 1.0, "lr")
        for beta in self.betas:
            check_value("optimizer.betas", beta, 0.0, 0.999999)
        self.within(0.0, 1.0, "lr_decay_start")
        self.within(0.0, 0.99999, "averaging")
        if (batches := self.accumulate_grad_batches) < 1:
            raise ValueError(f"optimizer.accumulate_grad_batches must be 1 or more, got {batches}.")
        self.within(0.0, 1e6, "gradient_clip_val")


# Arguments from before 0.1.0 whose settings have other names now.
RENAMED = {
    "freeze_encoder": "encoder.frozen",
    "hard_augmentation": "patches.hard",
    "segmentation_loss": "losses.segmentation",
}
GROUPS = (
    *(EncoderSettings, AnoSegNetworkSettings, PatchSettings, NoiseSettings, KindSettings),
    *(LossSettings, DetectorSettings, CalibrationSettings, OptimizerSettings),
)
find_place = partial(settings.find_place, groups=GROUPS, renamed=RENAMED)
