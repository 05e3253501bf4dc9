"""SGSF: self-supervised guided segmentation (arXiv 2209.12440, NIGSF in its journal version), as an anomalib model."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anomalib_anoseg.models.argument_checks import check_shared_arguments
from anomalib_anoseg.models.self_supervised import SelfSupervisedModel
from anomalib_anoseg.models.sgsf.bank import Precision
from anomalib_anoseg.models.sgsf.loss import SGSFLoss, SGSFLosses
from anomalib_anoseg.models.sgsf.neighbours import Choice
from anomalib_anoseg.models.sgsf.networks import MIN_SIDE, Passes
from anomalib_anoseg.models.sgsf.references import ReferenceSet, collect_references
from anomalib_anoseg.models.sgsf.room import BankFeatures
from anomalib_anoseg.models.sgsf.torch_model import Guidance, SGSFModel, SGSFOutput
from anomalib_anoseg.training.input_checks import check_batch, check_pre_processor
from anomalib_anoseg.training.schedules import StepDecay, timed
from anomalib_anoseg.training.seeding import seeded_streams, seeded_weights, step_seed
from anomalib_anoseg.transforms import SaliencyPerlin
from anomalib_anoseg.transforms.base import check_value

__all__ = ["SGSF"]

# What makes the networks of two models alike, see SelfSupervisedModel.
SHAPING: dict[str, Callable[[Any], object]] = {
    "width": float,
    "guidance": lambda guidance: guidance == "none",
    "passes": str,
    "denoise": bool,
    "extractor": str,
    "extractor_weights": bool,
    "averaging": bool,
}
# Second counter of the random stream that draws references, so that it is not the one that forges.
REFERENCES = 1


class SGSF(SelfSupervisedModel, AnomalibModule):
    """SGSF's guided segmentation network (Xing et al., arXiv 2209.12440, as NIGSF in IEEE TCSVT 34(6), 2024).

    Trains on normal images alone: anomalies are forged where the object is, and the network learns to mark them in
    comparison with features of a similar normal image, the reference, from an auto-encoder that learns to reconstruct
    it. The trained model carries references along. What is the journal version's and what our choice, marked [choice],
    is explained in the model card.

    Args:
        image_size (tuple[int, int]): Height and width in pixels to which the default pre-processor resizes images, 32
            or more each. Defaults to ``(256, 256)``, the paper's.
        width (float): Factor on the channels of all networks, in ``[0.05, 4]``. Defaults to ``1.0``, the published
            size; ``0.25`` suits a laptop.
        guidance (Literal["nearest", "single", "none"]): Which reference guides inference: the most similar one, always
            the same one, which is lighter, or none, a plain U-Net. Defaults to ``"nearest"``, the paper's.
        use_contrast_set (bool): Whether training draws references among the most similar images, as NIGSF; otherwise
            among all. Defaults to ``True``.
        contrast_size (int): Number of the most similar images. Defaults to ``5``, the paper's (4 in its ablation).
        include_itself (bool): Whether an image may be its own reference, of which the paper warns. Defaults to
            ``False``.
        denoise (bool): Whether the auto-encoder reconstructs the normal image from the forged one instead of a
            reference from itself. Defaults to ``False``; the paper's ablation.
        detach_guidance (bool): Whether the segmentation loss leaves the auto-encoder alone. Defaults to ``False``
            [choice].
        passes (Literal["fused", "concatenated"]): Which features the encoder passes on to its next block. Defaults to
            ``"fused"`` [choice]; the paper prints the other, its parameter count fits this one.
        extractor (str): timm network whose features tell which images are similar. It never learns. Defaults to
            ``"resnet18"`` [choice].
        extractor_weights (bool | str): Its weights: ``True`` lets timm download them, a path reads them from a file,
            ``False`` leaves them random. Defaults to ``False`` [choice].
        extractor_size (int | None): Side in pixels of the image that it sees. Defaults to ``None``, the image's own.
        bank_size (int): Largest number of references that the trained model carries. Defaults to ``16`` [choice].
        bank_method (Literal["k_center", "k_means"]): How they are chosen if there are more training images. Defaults
            to ``"k_center"`` [choice].
        bank_features (Literal["stored", "computed"]): Whether exports hold the references' features, which are large,
            or compute them for each picture from the references' images, which takes time. Defaults to ``"stored"``
            [choice].
        bank_precision (Literal["float32", "float16"]): Of stored features. Defaults to ``"float16"`` [choice].
        bank_limit (float): Megabytes that the references may take in an exported file; of more a warning tells, before
            training and at export, and which settings take less. Defaults to ``128`` [choice].
        reference_memory (float): Mebibytes that the references may take in training. If the training images take more,
            evenly spaced ones serve. Defaults to ``1024`` [choice].
        saliency (str): Where the object is: ``"border_contrast"``, ``"spectral_residual"``, ``"none"``, or a folder of
            maps made by any tool. Defaults to ``"border_contrast"`` [choice]; the paper's CPD cannot be shipped.
        threshold (tuple[float, float]): Of the noise: a constant, and the weight of the mean saliency, which 0
            switches off. Defaults to ``(0.4, 0.2)``, the paper's.
        textures (str | None): Folder with pictures of textures, such as DTD's, for the anomalies. Defaults to ``None``,
            other images of the batch [choice].
        opacity (tuple[float, float]): Range of an anomaly's weight over what it covers. Defaults to ``(0.1, 1)``, the
            paper's.
        rotation_p (float): Probability of turning a training image by up to 90 degrees. Defaults to ``0.3``, DRAEM's.
        anomaly_p (float): Probability of forging an anomaly on it. Defaults to ``0.75``, the paper's.
        reconstruction_weight (float): Weight of the reconstruction loss, the paper's lambda. Defaults to ``1``.
        focal_gamma (float): How much the focal loss turns to what is still wrong. Defaults to ``2``, the paper's.
        lr (float): Adam's learning rate. Defaults to ``1e-4``, the paper's.
        lr_milestones (tuple[float, ...]): Fractions of the training after each of which the learning rate falls. They
            follow epochs, steps or ``max_time``. Defaults to ``(0.5, 0.7, 0.9)``, the paper's.
        lr_factor (float): By which factor it falls. Defaults to ``0.1``, the paper's.
        averaging (float): Decay of the exponentially averaged weights and normalisation statistics with which the
            model predicts, in ``[0, 1)``; ``0`` predicts with the latest, as the paper. Defaults to ``0``.
        score_window (int): Odd side in pixels of the square over which the map is averaged before its maximum becomes
            the image score. Defaults to ``21``, the paper's.
        channels_last (bool): Memory layout, faster on most hardware, above all in bfloat16. Defaults to ``True``.
        compile (bool): Whether training runs the networks through ``torch.compile``. Defaults to ``False``.
        seed (int | None): Fixes initial weights, anomalies, references and the order of images: two runs of one command
            on a CPU give equal weights. ``None`` draws from the global random stream. Defaults to ``0``.
        max_epochs (int | None): Length of the training, if it shall override the trainer's, for places such as
            ``anomalib benchmark`` that pass no trainer options. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Must keep images in ``[0, 1]`` and give all the same size. Defaults to
            ``True``, a resize.
        post_processor (PostProcessor | bool): Defaults to ``True``, thresholds calibrated on forged anomalies where
            there are no real ones.
        evaluator (Evaluator | bool): Defaults to ``True``, image AUROC and F1; pixel AUROC, AP, AUPRO, F1 and
            IoU at the model's threshold, at the best one, and over all.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        ValueError: If an argument is out of range; the message names it and the range.

    Example:
        >>> from anomalib_anoseg import SGSF
        >>> model = SGSF(image_size=(64, 64), width=0.125)
        >>> model.image_size
        (64, 64)
    """

    model: SGSFModel
    loss: SGSFLoss
    augmenter: SaliencyPerlin
    min_side = MIN_SIDE
    unexported = ("augmenter", "references")
    shaping_arguments = SHAPING

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        width: float = 1.0,
        guidance: Guidance = "nearest",
        use_contrast_set: bool = True,
        contrast_size: int = 5,
        include_itself: bool = False,
        denoise: bool = False,
        detach_guidance: bool = False,
        passes: Passes = "fused",
        extractor: str = "resnet18",
        extractor_weights: bool | str = False,
        extractor_size: int | None = None,
        bank_size: int = 16,
        bank_method: Choice = "k_center",
        bank_features: BankFeatures = "stored",
        bank_precision: Precision = "float16",
        bank_limit: float = 128.0,
        reference_memory: float = 1024.0,
        saliency: str = "border_contrast",
        threshold: tuple[float, float] = (0.4, 0.2),
        textures: str | None = None,
        opacity: tuple[float, float] = (0.1, 1.0),
        rotation_p: float = 0.3,
        anomaly_p: float = 0.75,
        reconstruction_weight: float = 1.0,
        focal_gamma: float = 2.0,
        lr: float = 1e-4,
        lr_milestones: tuple[float, ...] = (0.5, 0.7, 0.9),
        lr_factor: float = 0.1,
        averaging: float = 0.0,
        score_window: int = 21,
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
        seed: int | None = 0,
        max_epochs: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        check_shared_arguments(image_size, MIN_SIDE, width, lr, averaging, score_window, seed)
        _check_counts(contrast_size=contrast_size, bank_size=bank_size)
        if bank_method not in get_args(Choice):
            raise ValueError(f"bank_method must be one of {get_args(Choice)}, got {bank_method!r}.")
        for milestone in lr_milestones:
            check_value("lr_milestones", milestone, 0.0, 1.0)
        check_value("lr_factor", lr_factor, 0.0, 1.0)
        check_value("bank_limit", bank_limit, 0.0, 1e6)
        check_value("reference_memory", reference_memory, 0.1, 1e6)
        check_value("anomaly_p", anomaly_p, 0.0, 1.0)
        check_value("rotation_p", rotation_p, 0.0, 1.0)
        image_size = (image_size[0], image_size[1])
        check_pre_processor(pre_processor)
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.image_size = image_size
        self.contrast_size = contrast_size if use_contrast_set else None
        self.include_itself, self.reference_memory = include_itself, reference_memory
        self.bank_size, self.bank_method, self.bank_limit = bank_size, bank_method, bank_limit
        self.lr, self.lr_milestones, self.lr_factor = lr, tuple(lr_milestones), lr_factor
        self.use_compile = compile
        self.seed, self.max_epochs = seed, max_epochs
        self.references: ReferenceSet | None = None
        self._has_weights = False
        self._seen: tuple[Tensor, Tensor | None] | None = None

        self.augmenter = SaliencyPerlin(saliency, threshold, textures, opacity, rotation_p=rotation_p, p=anomaly_p)
        self.loss = SGSFLoss(reconstruction_weight, focal_gamma)
        with seeded_weights(seed):
            self.model = SGSFModel(
                width,
                guidance,
                passes,
                detach_guidance,
                denoise,
                extractor,
                extractor_weights,
                extractor_size,
                bank_features,
                bank_precision,
                averaging,
                score_window,
            )
        if channels_last:
            self.model.to(memory_format=torch.channels_last)

    @property
    def calibration_forger(self) -> SaliencyPerlin:
        """Forges as in training, but turns no images: those that are judged are not turned either."""
        upright = copy.copy(self.augmenter)
        upright.flags = {**upright.flags, "rotation_p": 0.0}
        return upright

    @property
    def only_size(self) -> tuple[int, int] | None:
        """Images are compared with references pixel by pixel, so they have their size."""
        bank = self.model.bank
        return None if bank is None else (bank.images.shape[-2], bank.images.shape[-1])

    def setup(self, stage: str) -> None:
        """Compile, if asked to, before training."""
        if stage == "fit" and self.use_compile:
            self.model.compile()

    def on_fit_start(self) -> None:
        """Read the references, and fill the bank from which inference takes them.

        The weights that tell which are similar are loaded once, if asked to; a checkpoint to resume from has brought
        its own.
        """
        if not self.model.needs_bank:
            return
        extractor: Any = self.model.extractor
        if not self._has_weights and self.saved_arguments is None:
            extractor.load_pretrained()
        self._has_weights = True
        self.references = self._collect_references()
        # A single one is the medoid of all.
        count = 1 if self.model.guidance == "single" else self.bank_size
        self.model.fill_bank(*self.references.choose_bank(count, self.bank_method, self.seed or 0))
        self._warn_of_room()

    def _warn_of_room(self) -> None:
        room = self.model.bank_room
        if room is not None and (excess := room.explain(self.bank_limit)):
            rank_zero_warn(excess)

    def _for_inference(self) -> Any:  # noqa: ANN401
        self._warn_of_room()
        return super()._for_inference()

    def _collect_references(self) -> ReferenceSet:
        """Read all training images as those that will be judged: through the augmentations of test images."""
        self.trainer.fit_loop.setup_data()  # has happened already, unless the training has no end
        loader: Any = self.trainer.train_dataloader
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        pre_processor: Any = self.pre_processor
        transforms = [getattr(datamodule, "test_augmentations", None), getattr(pre_processor, "transform", None)]
        with seeded_streams(self.seed or 0):  # augmentations may be random; all processes must read alike
            return collect_references(
                loader.dataset, transforms, self._embed, self.contrast_size, self.include_itself, self.reference_memory
            )

    @torch.no_grad()
    def _embed(self, image: Tensor) -> Tensor:
        return self.model.embed(image.to(self.device)).cpu()

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Forge anomalies, draw references, and let the networks learn to tell them apart."""
        del batch_idx
        normal: Any = batch.image
        check_batch(normal, MIN_SIDE)
        paths: Any = batch.image_path
        with torch.no_grad():
            forged, mask = self.augmenter.forge(normal, generator=self.step_generator(), paths=paths)
            reference = self._draw_references(paths, normal)
            target = self.augmenter.turn(normal) if self.model.denoise else reference
        self._seen = forged, reference
        output: SGSFOutput = self.model(forged, reference)
        terms: SGSFLosses = self.loss(output.logits, mask, output.reconstruction, target)
        self._log_losses(terms, len(normal))
        return terms.total

    def _draw_references(self, paths: Sequence[str] | None, image: Tensor) -> Tensor | None:
        """Draw a reference for each of ``(B, 3, H, W)`` images, of the same shape and on their device.

        Raises:
            ValueError: If references have another shape.
        """
        if self.references is None:
            return None
        generator = None
        if self.seed is not None:
            step = self.trainer.fit_loop.total_batch_idx
            generator = torch.Generator().manual_seed(step_seed(self.seed, self.global_rank, step, REFERENCES))
        reference = self.references.draw(paths, generator)
        if reference.shape != image.shape:
            raise ValueError(
                f"Training images are {tuple(image.shape[-2:])} pixels, but references, which take no training "
                f"augmentations, {tuple(reference.shape[-2:])}. Let pre_processor resize both to (height, width)."
            )
        return reference.to(image.device, non_blocking=True).to(image.dtype) / 255

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Take a step, and the new weights into the average, if there is one."""
        super().optimizer_step(*args, **kwargs)  # runs training_step
        if self._seen is not None:
            self.model.update_average(*self._seen, self.trainer.global_step + 1)
            self._seen = None

    def on_fit_end(self) -> None:
        """Let go of the references; the bank holds what inference needs."""
        self.references = None

    def _log_losses(self, terms: SGSFLosses, batch_size: int) -> None:
        losses = {name: term.detach() for name, term in terms._asdict().items() if name != "total"}
        self.log_dict({f"train_{name}_loss": loss for name, loss in losses.items()}, batch_size=batch_size)
        self.log("train_loss", terms.total.detach(), on_epoch=True, prog_bar=True, batch_size=batch_size)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        """Configure Adam and a learning rate that falls at fractions of the training."""
        optimizer = Adam(self.model.trained_parameters(), self.lr)
        total = self.trainer.estimated_stepping_batches
        decay = timed(StepDecay(self.lr_milestones, self.lr_factor, total), self.trainer)
        return [optimizer], [{"scheduler": LambdaLR(optimizer, decay), "interval": "step"}]


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}.")
