"""SGSF's settings, in groups. What is our choice and not a paper's is marked [choice], see the model card."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.models import settings
from anomalib_anoseg.models.kinds import KindSettings
from anomalib_anoseg.models.patches import PatchSettings
from anomalib_anoseg.models.settings import CalibrationSettings, NetworkSettings, Settings, named_in
from anomalib_anoseg.models.sgsf.bank import Precision
from anomalib_anoseg.models.sgsf.bank_size import BankFeatures
from anomalib_anoseg.models.sgsf.loss import SegmentationLoss
from anomalib_anoseg.models.sgsf.neighbours import Choice
from anomalib_anoseg.models.sgsf.networks import Passes
from anomalib_anoseg.transforms import SaliencyPerlin, SyntheticAnomaly

__all__ = [
    "AnomalySettings",
    "BankSettings",
    "CalibrationSettings",
    "ExtractorSettings",
    "GuidanceSettings",
    "LossSettings",
    "OptimizerSettings",
    "PatchSettings",
    "SGSFNetworkSettings",
]

GuidanceKind = Literal["nearest", "single", "none", "patches"]


@dataclass(frozen=True)
class SGSFNetworkSettings(NetworkSettings):
    """Size of the networks and how they run.

    Args:
        width: Factor on the channels of all networks, in ``[0.05, 4]``; ``1`` is the published size, ``0.25`` suits a
            laptop.
        score_window: Odd side in pixels, 1 or more, of the square over which the anomaly map is averaged before its
            maximum becomes the image score. The default is the paper's.
        channels_last: Memory layout, faster on most hardware, above all in bfloat16.
        compile: Whether training runs the networks through ``torch.compile``.
        passes: Which features the encoder passes on to its next block [choice]; the paper prints ``concatenated``, its
            parameter count fits ``fused``.
    """

    passes: Passes = "fused"

    def check(self) -> None:
        """Check width, window and passes."""
        super().check()
        self.one_of("passes", Passes)


@dataclass(frozen=True)
class GuidanceSettings(Settings):
    """What guides the segmentation: features of a normal image, the reference.

    Args:
        kind: Which reference guides inference: the ``nearest``, which is the paper's; a ``single`` one for all, which
            is lighter; or ``none``, a plain U-Net. Or ``patches``: at each place the most similar patch of all
            references, by features of the extractor, which are segmented, too [ours].
        use_contrast_set: Whether training draws references among the most similar images, as NIGSF; otherwise among
            all.
        contrast_size: Number of the most similar images, 1 to 1000000. The default is the paper's (4 in its ablation).
        include_itself: Whether an image may be its own reference, which the paper warns against.
        denoise: Whether the auto-encoder reconstructs the normal image from the forged one instead of a reference from
            itself; the paper's ablation.
        detach: Whether the auto-encoder learns from its reconstruction alone [choice].
        memory: Mebibytes that the references may take in training, in ``[0.1, 1000000]``. If the training images take
            more, evenly spaced ones serve [choice].
    """

    group: ClassVar[str] = "guidance"

    kind: GuidanceKind = "nearest"
    use_contrast_set: bool = True
    contrast_size: int = 5
    include_itself: bool = False
    denoise: bool = False
    detach: bool = False
    memory: float = 1024.0

    def check(self) -> None:
        """Check kind, size and memory, and that denoising comes with guidance."""
        self.one_of("kind", GuidanceKind)
        self.within(1, 1_000_000, "contrast_size")
        self.within(0.1, 1e6, "memory")
        if self.denoise and self.kind in {"none", "patches"}:
            raise ValueError(
                "guidance.denoise=True guides by the denoised image, in place of references; set "
                "guidance.kind='nearest' or guidance.denoise=False."
            )


@dataclass(frozen=True)
class ExtractorSettings(Settings):
    """A timm network whose features tell which images are similar. It never trains.

    Args:
        name: timm's name of the network [choice].
        weights: Weights of the network: ``true`` lets timm download them, a path reads them from a file, ``false``
            leaves them random [choice].
        size: Side in pixels, 1 or more, to which images are resized for the network; ``null`` keeps their size.
    """

    group: ClassVar[str] = "extractor"
    former_prefix: ClassVar[str] = "extractor_"

    name: str = "resnet18"
    weights: bool | str = False
    size: int | None = None

    def check(self) -> None:
        """Check the size."""
        if self.size is not None and self.size < 1:
            raise ValueError(f"extractor.size must be 1 pixel or more, or null to keep the image's, got {self.size}.")


@dataclass(frozen=True)
class BankSettings(Settings):
    """The references that the trained model carries.

    Args:
        size: Largest number of references, 1 to 1000000 [choice].
        vectors: Largest number of patches of the references, at each of three scales, where patches guide, 1 to 1000000
            [ours].
        method: How references are chosen if there are more training images: ``k_center`` keeps rare ones, ``k_means``
            takes more of frequent kinds [choice].
        features: Whether exports hold the references' features, which are large, or compute them for each picture from
            the references' images, which takes time [choice].
        precision: Precision of stored features [choice].
        limit: Megabytes that the references may take in an exported file, in ``[0, 1000000]``. Above it, the model
            warns before training and at export, and names settings that take less [choice].
    """

    group: ClassVar[str] = "bank"
    former_prefix: ClassVar[str] = "bank_"

    size: int = 16
    vectors: int = 1024
    method: Choice = "k_center"
    features: BankFeatures = "stored"
    precision: Precision = "float16"
    limit: float = 128.0

    def check(self) -> None:
        """Check ranges and choices."""
        self.within(1, 1_000_000, "size", "vectors")
        self.one_of("method", Choice)
        self.one_of("features", BankFeatures)
        self.one_of("precision", Precision)
        self.within(0.0, 1e6, "limit")


@dataclass(frozen=True)
class AnomalySettings(Settings):
    """Noise-shaped anomalies on the object, from which the network learns.

    Args:
        saliency: Where the object is: ``border_contrast``, ``spectral_residual``, ``none``, or a folder of maps made by
            any tool [choice]; the paper's CPD cannot be shipped.
        threshold: Threshold of the noise: a constant, and the weight of the mean saliency, which 0 switches off, each
            in ``[0, 1]``. The default is the paper's.
        textures: Folder with pictures of textures, such as DTD's; ``patterns``, drawn ones [ours]; ``null`` for other
            images of the batch [choice].
        opacity: Range of an anomaly's weight over the image below, within ``[0.01, 1]``. The default is the paper's.
        rotation_p: Probability of rotating a training image by up to 90 degrees, in ``[0, 1]``. The default is DRAEM's.
        p: Probability of an anomaly on an image, in ``[0, 1]``. The default is the paper's.
        patch_share: Share of the images that get AnoSeg's patches in place of noise, in ``[0, 1]``; the group
            ``patches`` says which [ours].
        pairs: Whether the network sees each image as it is beside the same with its anomaly, twice the batch [ours].
    """

    group: ClassVar[str] = "anomalies"
    former_prefix: ClassVar[str] = "anomaly_"

    saliency: str = "border_contrast"
    threshold: tuple[float, float] = (0.4, 0.2)
    textures: str | None = None
    opacity: tuple[float, float] = (0.1, 1.0)
    rotation_p: float = 0.3
    p: float = 0.75
    patch_share: float = 0.0
    pairs: bool = False

    def check(self) -> None:
        """Let the transform check its arguments, except folders, which it would look for on the disk."""
        self.within(0.0, 1.0, "patch_share")
        self._create("none", None, self.p)

    def create_transform(self, patches: PatchSettings, kinds: KindSettings) -> SyntheticAnomaly:
        """Create the augmenter, in which patches and other kinds may take shares of the images."""
        alone = not (self.patch_share or kinds.total)
        noise = self._create(self.saliency, self.textures, self.p if alone else 1.0)
        own: dict[str, tuple[SyntheticAnomaly, float]] = {"noise": (noise, 1 - self.patch_share)}
        if self.patch_share:
            place = noise.saliency if patches.saliency == self.saliency else None
            own["patches"] = patches.create_transform(place), self.patch_share
        return kinds.mix(own, noise.saliency, self.p)

    def _create(self, saliency: str, textures: str | None, p: float) -> SaliencyPerlin:
        with named_in(self.group):
            return SaliencyPerlin(
                saliency=saliency,
                threshold=self.threshold,
                textures=textures,
                opacity=self.opacity,
                rotation_p=self.rotation_p,
                p=p,
            )


@dataclass(frozen=True)
class LossSettings(Settings):
    """Losses of the networks, and their weights.

    Args:
        segmentation: Form of the loss of the map: ``focal``, the paper's, or ``balanced_cross_entropy``, AnoSeg's, in
            which normal and anomalous pixels weigh as much [ours].
        reconstruction_weight: Weight of the reconstruction loss, the paper's lambda, 0 or more.
        focal_gamma: How much the focal loss concentrates on wrong pixels, 0 or more. The default is the paper's.
    """

    group: ClassVar[str] = "losses"

    segmentation: SegmentationLoss = "focal"
    reconstruction_weight: float = 1.0
    focal_gamma: float = 2.0

    def check(self) -> None:
        """Check form and weights."""
        self.one_of("segmentation", SegmentationLoss)
        self.within(0.0, 1e6, "reconstruction_weight", "focal_gamma")


@dataclass(frozen=True)
class OptimizerSettings(Settings):
    """Adam, for all networks.

    Args:
        lr: Learning rate, in ``[1e-8, 1]``. The default is the paper's.
        milestones: Fractions of the training after each of which the learning rate falls, each in ``[0, 1]``. They
            follow epochs, steps or ``max_time``. The default is the paper's.
        factor: Factor by which the learning rate falls, in ``[0, 1]``. The default is the paper's.
        averaging: Decay of the exponentially averaged weights and normalisation statistics with which the model
            predicts, in ``[0, 1)``; ``0`` predicts with the latest weights, as the paper does.
    """

    group: ClassVar[str] = "optimizer"
    former_prefix: ClassVar[str] = "lr_"

    lr: float = 1e-4
    milestones: tuple[float, ...] = (0.5, 0.7, 0.9)
    factor: float = 0.1
    averaging: float = 0.0

    def check(self) -> None:
        """Check ranges."""
        self.within(1e-8, 1.0, "lr")
        for milestone in self.milestones:
            check_value("optimizer.milestones", milestone, 0.0, 1.0)
        self.within(0.0, 1.0, "factor")
        self.within(0.0, 0.99999, "averaging")


# Arguments from before 0.1.0 whose settings have other names now.
RENAMED = {"detach_guidance": "guidance.detach", "reference_memory": "guidance.memory"}
GROUPS = (
    SGSFNetworkSettings,
    GuidanceSettings,
    ExtractorSettings,
    BankSettings,
    AnomalySettings,
    PatchSettings,
    KindSettings,
    LossSettings,
    CalibrationSettings,
    OptimizerSettings,
)
find_place = partial(settings.find_place, groups=GROUPS, renamed=RENAMED)
