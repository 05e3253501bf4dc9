"""AnoSeg: anomaly segmentation by self-supervised learning (arXiv 2110.03396), as an anomalib model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from torch import Tensor, nn

from anomalib_anoseg.models.anoseg.argument_checks import check_detector, check_frozen
from anomalib_anoseg.models.anoseg.detector import DetectorModel
from anomalib_anoseg.models.anoseg.detector_loss import DetectorDiscriminatorLoss, DetectorGeneratorLoss, DetectorLoss
from anomalib_anoseg.models.anoseg.first_stage import load_segmentation
from anomalib_anoseg.models.anoseg.forging import Augmenter, add_noise, change_ranges, create_patches
from anomalib_anoseg.models.anoseg.loss import AnoSegLoss, GeneratorLoss, SegmentationLoss, discriminator_loss
from anomalib_anoseg.models.anoseg.networks import DISCRIMINATOR_CHANNELS, MIN_TRAINING_SIDE, count_spare_layers
from anomalib_anoseg.models.anoseg.other_score import OtherScore, swap_calibrations
from anomalib_anoseg.models.anoseg.stages import Stage, StagedOptimization
from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel, AnoSegOutput, ImageScore
from anomalib_anoseg.models.argument_checks import check_shared_arguments
from anomalib_anoseg.models.self_supervised import SelfSupervisedModel
from anomalib_anoseg.training.checkpoints import explain_misfit
from anomalib_anoseg.training.input_checks import check_batch, check_pre_processor
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.training.seeding import seeded_weights
from anomalib_anoseg.transforms.base import check_value
from anomalib_anoseg.transforms.cut_paste import check_patches

__all__ = ["AnoSeg"]


class AnoSeg(StagedOptimization, SelfSupervisedModel, AnomalibModule):
    """AnoSeg's anomaly segmentation network and its detector (Song et al., arXiv 2110.03396).

    Trains on normal images alone: half of each step's images carry a synthetic anomaly, and the network learns to mark
    it, to reconstruct what is normal, and to deceive a discriminator of (image, map) pairs. With ``detector=True`` a
    second GAN learns to score images in the rest of the training. Images must stay in ``[0, 1]``. What the paper leaves
    open is marked [choice] and explained in the model card.

    Args:
        image_size (tuple[int, int]): Height and width in pixels to which the default pre-processor resizes images, 64
            or more each; need be neither equal nor multiples of 32. Defaults to ``(256, 256)``, the paper's.
        backbone (str): timm encoder with features down to 1/32 of the image. Defaults to ``"resnet18"``, the paper's.
        pre_trained (bool | str): Whether training starts from the backbone's ImageNet weights: ``True`` lets timm
            download them, a path reads them from a file. The encoder then normalises what it sees as they expect.
            Defaults to ``False``, the paper's.
        freeze_encoder (bool): Whether the encoder stays as its ImageNet weights are, which spares a step the way back
            through it: most of its time where the decoders are narrow. Needs ``pre_trained`` and no ``coordinates``.
            Defaults to ``False``, the paper's.
        width (float): Factor on the channels of all networks, in ``[0.05, 4]``; those of an encoder that is not a
            ResNet stay. Defaults to ``1.0``, the published size; ``0.25`` suits a laptop.
        coordinates (bool): Whether the encoder sees coordinate channels. Defaults to ``True``.
        skip_connections (bool): Whether the map decoder sees the encoder's finer features, for defects that 1/32 of
            the image's resolution loses. Defaults to ``False``, the paper's.
        hard_augmentation (bool): Whether patches are cut from a rotated, permuted and jittered image; otherwise
            plain CutPaste. Defaults to ``True``.
        masked_reconstruction (bool): Whether to learn to reconstruct normal pixels. Defaults to ``True``.
        adversarial (bool): Whether to train against a discriminator. Defaults to ``True``.
        hard_p (float): Probability of rotation, perm and jitter each. Defaults to ``0.5``, the paper's.
        jitter (tuple[float, float, float, float]): Amounts of brightness, contrast, saturation and hue. Defaults to
            ``(0.5, 0.5, 0.5, 0.2)`` [choice].
        patch_area (tuple[float, float]): Range of a patch's area as a fraction of the image's. Defaults to
            ``(0.02, 0.2)`` [choice].
        patch_aspect (tuple[float, float]): Range of its width over its height. Defaults to ``(0.3, 3.3)`` [choice].
        patch_rotation (float): Patches are rotated by up to so many degrees either way. Defaults to ``45`` [choice].
        patch_rotation_p (float): Probability of rotating a patch. Defaults to ``0.5`` [choice].
        patch_count (int): Patches an image. Defaults to ``1``, the paper's.
        patch_opacity (tuple[float, float]): Range of a patch's weight over what it covers, so that faint defects are
            learned too. Defaults to ``(1, 1)``, the paper's.
        patch_softness (tuple[float, float]): Range of the fraction of the way from a patch's rim to its centre over
            which that weight rises from 0. Defaults to ``(0, 0)``, the paper's hard rims.
        patch_mark (Literal["patch", "changed"]): Whether the mask marks the whole patch or those of its pixels that
            changed. Defaults to ``"patch"``, the paper's.
        patch_saliency (str): Where patches are pasted: ``"none"`` for anywhere, or, as defects lie on the object, where
            it is found by ``"border_contrast"``, ``"spectral_residual"``, or a folder of maps of all normal images,
            held-out ones too, made by any tool. Defaults to ``"none"``, the paper's.
        perlin_share (float): Share of the images that get noise-shaped anomalies, as SGSF's, in place of patches, where
            these would lie; their opacity in training is 0.1 to 1. Defaults to ``0``, the paper's.
        perlin_textures (str): What shows through them: images of the ``"batch"``, the ``"noise"`` itself, in grey, or
            pictures in a folder, such as DTD's. Defaults to ``"batch"`` [choice].
        perlin_mark (Literal["noise", "changed"]): See ``patch_mark``. Defaults to ``"noise"``, all of it [choice].
        calibration_area (tuple[float, float] | None): Range of the area of those patches on which the pixel threshold
            and the range of maps are found, where there are no real anomalies to find them on. Faint ones give
            a lower threshold than those of training, which a network marks with more confidence than defects. The image
            threshold is found on these and on anomalies as in training. Defaults to ``None``, as in training.
        calibration_opacity (tuple[float, float] | None): Range of their opacity, and of that of noise among them.
            Defaults to ``None``, as in training.
        segmentation_loss (Literal["l1", "balanced_l1", "cross_entropy", "balanced_cross_entropy"]): Form of the
            pixel-wise loss; the paper prints ``l1``, which tends to end in the constant map. Defaults to
            ``"balanced_cross_entropy"`` [choice].
        segmentation_weight (float): Weight of the pixel-wise loss. Defaults to ``50`` [choice].
        reconstruction_weight (float): Weight of the masked reconstruction loss. Defaults to ``50`` [choice].
        adversarial_weight (float): Weight of the adversarial loss. Defaults to ``1`` [choice].
        detector (bool): Whether the last part of the training teaches a second GAN, the paper's detector, to score
            images; segmentation then stays as it is. Defaults to ``False``.
        detector_share (float): That part, as a fraction of the training. Defaults to ``0.3`` [choice].
        segmentation_checkpoint (str | None): Checkpoint of a trained AnoSeg, for a training of its detector alone;
            the arguments that shape the networks must be the same. Defaults to ``None``.
        image_score (Literal["map", "detector"]): What the image score is: the maximum of the smoothed map, or the
            detector's score. May be changed after training. Defaults to ``"map"``.
        detector_adversarial_weight (float): Weight of the detector's adversarial loss. Defaults to ``1`` [choice].
        detector_reconstruction_weight (float): Weight of its reconstruction loss. Defaults to ``50`` [choice].
        detector_feature_weight (float): Weight of its feature matching. Defaults to ``1`` [choice].
        detector_classification_weight (float): Weight of its loss on anomalies as fakes. Defaults to ``1`` [choice].
        detector_beta (float): Weight of the reconstruction's error in its score, beside that of features. Defaults to
            ``0.1``, the paper's.
        lr (float): Adam's learning rate, for all networks. Defaults to ``2e-4`` [choice].
        betas (tuple[float, float]): Adam's betas. Defaults to ``(0.5, 0.999)`` [choice].
        lr_decay_start (float): Fraction of the training, or of each stage, after which the learning rate falls linearly
            to zero; ``1`` keeps it constant. Follows epochs, steps or ``max_time``. Defaults to ``0.5`` [choice].
        averaging (float): Decay of the exponentially averaged weights and normalisation statistics with which the
            model predicts, in ``[0, 1)``; ``0`` predicts with the latest. Defaults to ``0.99`` [choice].
        score_window (int): Odd side in pixels of the square over which the map is averaged before its maximum becomes
            the image score. Defaults to ``21`` [choice].
        accumulate_grad_batches (int): Batches an optimiser step; takes the place of the trainer's option of this
            name, which Lightning forbids with two optimisers. Defaults to ``1``.
        gradient_clip_val (float | None): Largest norm of each network's gradient; likewise. Defaults to ``None``.
        channels_last (bool): Memory layout, faster on most hardware, above all in bfloat16. Defaults to ``True``.
        compile (bool): Whether training runs the generator through ``torch.compile``. Defaults to ``False``.
        seed (int | None): Fixes initial weights, anomalies and the order of images: two runs of one command on a CPU
            give equal weights. ``None`` draws from the global random stream. Defaults to ``0``.
        max_epochs (int | None): Length of the training, if it shall override the trainer's, for places such as
            ``anomalib benchmark`` that pass no trainer options. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Must keep images in ``[0, 1]``. Defaults to ``True``, a resize.
        post_processor (PostProcessor | bool): Defaults to ``True``, thresholds calibrated on forged anomalies where
            there are no real ones.
        evaluator (Evaluator | bool): Defaults to ``True``, image AUROC and F1; pixel AUROC, AP, AUPRO, F1 and
            IoU at the model's threshold, at the best one, and over all.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        ValueError: If an argument is out of range; the message names it and the range.

    Example:
        >>> from anomalib_anoseg import AnoSeg
        >>> model = AnoSeg(image_size=(64, 64), width=0.125)
        >>> model.image_size
        (64, 64)
    """

    model: AnoSegModel
    loss: AnoSegLoss
    augmenter: Augmenter
    min_side = MIN_TRAINING_SIDE
    other_score: OtherScore | None
    unexported = ("augmenter", "other_score")
    shaping_arguments: Mapping[str, Callable[[Any], object]] = {"backbone": str, "width": float} | dict.fromkeys(
        (
            "pre_trained",
            "coordinates",
            "skip_connections",
            "masked_reconstruction",
            "adversarial",
            "averaging",
            "detector",
        ),
        bool,
    )

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        backbone: str = "resnet18",
        pre_trained: bool | str = False,
        freeze_encoder: bool = False,
        width: float = 1.0,
        coordinates: bool = True,
        skip_connections: bool = False,
        hard_augmentation: bool = True,
        masked_reconstruction: bool = True,
        adversarial: bool = True,
        hard_p: float = 0.5,
        jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.2),
        patch_area: tuple[float, float] = (0.02, 0.2),
        patch_aspect: tuple[float, float] = (0.3, 3.3),
        patch_rotation: float = 45.0,
        patch_rotation_p: float = 0.5,
        patch_count: int = 1,
        patch_opacity: tuple[float, float] = (1.0, 1.0),
        patch_softness: tuple[float, float] = (0.0, 0.0),
        patch_mark: Literal["patch", "changed"] = "patch",
        patch_saliency: str = "none",
        perlin_share: float = 0.0,
        perlin_textures: str = "batch",
        perlin_mark: Literal["noise", "changed"] = "noise",
        calibration_area: tuple[float, float] | None = None,
        calibration_opacity: tuple[float, float] | None = None,
        segmentation_loss: SegmentationLoss = "balanced_cross_entropy",
        segmentation_weight: float = 50.0,
        reconstruction_weight: float = 50.0,
        adversarial_weight: float = 1.0,
        detector: bool = False,
        detector_share: float = 0.3,
        segmentation_checkpoint: str | None = None,
        image_score: ImageScore = "map",
        detector_adversarial_weight: float = 1.0,
        detector_reconstruction_weight: float = 50.0,
        detector_feature_weight: float = 1.0,
        detector_classification_weight: float = 1.0,
        detector_beta: float = 0.1,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        lr_decay_start: float = 0.5,
        averaging: float = 0.99,
        score_window: int = 21,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
        seed: int | None = 0,
        max_epochs: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        check_shared_arguments(image_size, MIN_TRAINING_SIDE, width, lr, averaging, score_window, seed)
        check_value("lr_decay_start", lr_decay_start, 0.0, 1.0)
        if accumulate_grad_batches < 1:
            raise ValueError(f"accumulate_grad_batches must be 1 or more, got {accumulate_grad_batches}.")
        check_frozen(freeze_encoder, bool(pre_trained), coordinates)
        check_detector(detector, detector_share, segmentation_checkpoint, image_score, detector_beta)
        image_size = (image_size[0], image_size[1])
        check_pre_processor(pre_processor)
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.automatic_optimization = False
        self.image_size = image_size
        self.pre_trained, self._has_weights = pre_trained, False
        self.detector_share, self.segmentation_checkpoint = detector_share, segmentation_checkpoint
        self.masked_reconstruction = masked_reconstruction
        self.lr, self.betas, self.lr_decay_start = lr, betas, lr_decay_start
        self.accumulate_grad_batches, self.gradient_clip_val = accumulate_grad_batches, gradient_clip_val
        self.use_compile = compile
        self.seed, self.max_epochs = seed, max_epochs

        patches: dict[str, Any] = {
            "area": patch_area,
            "aspect": patch_aspect,
            "rotation": patch_rotation,
            "rotation_p": patch_rotation_p,
            "count": patch_count,
            "opacity": patch_opacity,
            "softness": patch_softness,
            "mark": patch_mark,
        }
        given = {"area": calibration_area, "opacity": calibration_opacity}
        self._calibration_changes = {name: tuple(value) for name, value in given.items() if value is not None}
        check_patches(**patches, prefix="patch_")
        check_patches(**patches | self._calibration_changes, prefix="calibration_")
        hard = {"hard_p": hard_p, "jitter": jitter} if hard_augmentation else None
        forger = create_patches(hard, patch_saliency, patches)
        self.augmenter = add_noise(forger, perlin_share, perlin_textures, perlin_mark)
        self.loss = AnoSegLoss(segmentation_loss, segmentation_weight, reconstruction_weight, adversarial_weight)
        self.detector_loss = DetectorLoss(
            detector_adversarial_weight,
            detector_reconstruction_weight,
            detector_feature_weight,
            detector_classification_weight,
        )
        self.other_score = None
        with seeded_weights(seed):
            self.model = AnoSegModel(
                backbone,
                width,
                coordinates,
                masked_reconstruction,
                adversarial,
                averaging,
                score_window,
                skip_connections,
                bool(pre_trained),
                freeze_encoder,
            )
            if detector:
                self._add_detector(DetectorModel(backbone, width, min(image_size), detector_beta), image_score)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)

    def _add_detector(self, detector: DetectorModel, image_score: ImageScore) -> None:
        self.model.detector, self.model.image_score = detector, image_score
        self.min_side = detector.min_side
        # The discriminator's number of layers follows from the size.
        self.shaping_arguments = {**self.shaping_arguments, "image_size": _count_detector_layers}
        if isinstance(self.post_processor, SelfCalibratingPostProcessor):
            self.other_score = OtherScore()

    @property
    def map_calibration_forger(self) -> Augmenter | None:
        """Forges what the pixel threshold is found on, and half of what the image threshold is, if not as training."""
        return change_ranges(self.augmenter, self._calibration_changes) if self._calibration_changes else None

    def configure_callbacks(self) -> Sequence[Callback]:
        """Let the calibration of the image score that is not in use run, too, if there are two."""
        return [*super().configure_callbacks(), *([] if self.other_score is None else [self.other_score])]

    def setup(self, stage: str) -> None:
        """Compile, if asked to, before training."""
        if stage == "fit" and self.use_compile:
            self.model.compile()
            if self.model.detector is not None:
                self.model.detector.compile()

    def on_fit_start(self) -> None:
        """Load first weights, if asked to; by now a checkpoint to resume from has brought its own.

        Raises:
            ValueError: If that was trained with ``freeze_encoder``, and this is not, or the other way round.
        """
        if self.saved_arguments is not None and "segmentation" in self.stage_shares() and self.trainer.ckpt_path:
            # Checkpoints of before there was a choice do not name it.
            saved = {"freeze_encoder": False} | dict(self.saved_arguments)
            if misfit := explain_misfit(saved, self.hparams, {"freeze_encoder": bool}):
                raise ValueError(misfit)
        if not self._has_weights and self.saved_arguments is None:
            if self.segmentation_checkpoint is not None:
                load_segmentation(self.model, self.segmentation_checkpoint, self.hparams, self.shaping_arguments)
            elif self.pre_trained:
                self.model.load_pretrained(None if self.pre_trained is True else self.pre_trained)
        self._has_weights = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which image score the thresholds belong to, if there are two."""
        super().on_save_checkpoint(checkpoint)
        if self.model.detector is not None:
            checkpoint["image_score"] = self.model.image_score

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the calibration of the image score that this model uses."""
        super().on_load_checkpoint(checkpoint)
        saved, own = checkpoint.get("image_score"), self.model.image_score
        if self.other_score is not None and saved not in {None, own}:
            post_processor: Any = self.post_processor
            swap_calibrations(checkpoint, post_processor.state_key, self.other_score.state_key)
            checkpoint["image_score"] = own

    def stage_shares(self) -> dict[Stage, float]:
        """Tell which fraction of the training each stage takes."""
        if self.model.detector is None:
            return {"segmentation": 1.0}
        if self.segmentation_checkpoint is not None:
            return {"detector": 1.0}
        return {"segmentation": 1 - self.detector_share, "detector": self.detector_share}

    def stage_parameters(self, stage: Stage) -> list[list[nn.Parameter]]:
        """List what the optimisers train: a generator and, if there is one, a discriminator."""
        detector: Any = self.model.detector
        networks: AnoSegModel | DetectorModel = detector if stage == "detector" else self.model
        groups = [networks.generator_parameters()]
        return groups if networks.discriminator is None else [*groups, list(networks.discriminator.parameters())]

    def enter_stage(self, stage: Stage) -> None:
        """Freeze segmentation while the detector learns."""
        self.model.freeze(stage == "detector")

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Forge, predict, and let a discriminator and then its generator learn: those of the stage that runs.

        The number of images through the networks is twice the batch: each as it is and with an anomaly.
        """
        normal: Any = batch.image
        check_batch(normal, self.min_side)
        is_step = (batch_idx + 1) % self.accumulate_grad_batches == 0 or self.trainer.is_last_batch
        image, mask = self._forge_views(normal, batch.image_path)
        losses = (self._train_detector if self.stage == "detector" else self._train_segmentation)(image, mask, is_step)
        if is_step:
            self.step_schedules()
            if self.stage == "segmentation":
                self.model.update_average(image, self.global_step // len(self.stage_optimizers))
        total = "train_detector_loss" if self.stage == "detector" else "train_loss"
        self.log(total, losses.pop(total), on_epoch=True, prog_bar=True, batch_size=len(image))
        self.log_dict(losses, batch_size=len(image))
        if len(self.stage_shares()) > 1:
            # In the progress bar, to tell which stage runs and how far it is.
            self.log(self.stage, self.stage_progress(), prog_bar=True, logger=False, batch_size=len(image))

    def _train_segmentation(self, image: Tensor, mask: Tensor, is_step: bool) -> dict[str, Tensor]:
        """Let the first stage's networks learn from both views of the images."""
        output: AnoSegOutput = self.model(image)
        losses = {}
        if self.model.discriminator is not None:
            losses["train_discriminator_loss"] = self._train_discriminator(output, image, mask, is_step).detach()
        terms = self._train_generator(output, image, mask, is_step)
        losses |= {f"train_{name}_loss".replace("_total", ""): loss.detach() for name, loss in terms._asdict().items()}
        return losses

    def _train_detector(self, image: Tensor, mask: Tensor, is_step: bool) -> dict[str, Tensor]:
        """Let the second stage's networks learn: the normal views are to be reconstructed, the others fakes."""
        detector: Any = self.model.detector
        (normal, forged), (no_anomaly, mask) = image.chunk(2), mask.chunk(2)
        with torch.no_grad():
            anomaly_map = self.model.predict_map(normal)
        reconstruction = detector(normal, anomaly_map)
        generator, discriminator = self.stage_optimizers
        with discriminator.toggle_model(sync_grad=is_step):
            real = detector.judge(normal, no_anomaly).logits
            fake = detector.judge(reconstruction.detach(), anomaly_map).logits
            judged: DetectorDiscriminatorLoss = self.detector_loss.discriminator(
                real, fake, detector.judge(forged, mask).logits
            )
            self.learn(judged.total, discriminator, is_step)
        with generator.toggle_model(sync_grad=is_step):
            with torch.no_grad():
                features = detector.features(normal, no_anomaly)
            terms: DetectorGeneratorLoss = self.detector_loss.generator(
                normal, reconstruction, features, detector.judge(reconstruction, anomaly_map)
            )
            self.learn(terms.total, generator, is_step)
        losses = {**judged._asdict(), **terms._asdict()}
        return {f"train_detector_{name}_loss".replace("_total", ""): loss.detach() for name, loss in losses.items()}

    def _forge_views(self, image: Tensor, paths: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Make the normal and the anomalous view of ``(B, 3, H, W)`` images: ``2 B`` images and their masks."""
        with torch.no_grad():
            forged, mask = self.augmenter.forge(image, generator=self.step_generator(), paths=paths)
        return torch.cat((image, forged)), torch.cat((torch.zeros_like(mask), mask))

    def _train_discriminator(self, output: AnoSegOutput, image: Tensor, mask: Tensor, is_step: bool) -> Tensor:
        """Let the discriminator tell (image, mask) from (reconstruction, map), each in a pass of its own."""
        optimizer = self.stage_optimizers[1]
        with optimizer.toggle_model(sync_grad=is_step):
            judged_real = self.model.discriminate(image, mask)
            judged_fake = self.model.discriminate(*output.detached_pair())
            loss = discriminator_loss(judged_real, judged_fake)
            self.learn(loss, optimizer, is_step)
        return loss

    def _train_generator(self, output: AnoSegOutput, image: Tensor, mask: Tensor, is_step: bool) -> GeneratorLoss:
        """Let encoder and decoders learn from all losses; the discriminator's weights take no gradient here."""
        optimizer = self.stage_optimizers[0]
        with optimizer.toggle_model(sync_grad=is_step):
            judged = None if self.model.discriminator is None else self.model.discriminate(*output.pair())
            reconstruction = output.reconstruction if self.masked_reconstruction else None
            terms: GeneratorLoss = self.loss(output.logits, reconstruction, image, mask, judged)
            self.learn(terms.total, optimizer, is_step)
        return terms


def _count_detector_layers(image_size: Sequence[int]) -> int:
    return len(DISCRIMINATOR_CHANNELS) - count_spare_layers(min(image_size))
