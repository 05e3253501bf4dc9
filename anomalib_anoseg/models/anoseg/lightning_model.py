"""AnoSeg: anomaly segmentation by self-supervised learning (arXiv 2110.03396), as an anomalib model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anomalib_anoseg.models.anoseg.augmenter import create_augmenter
from anomalib_anoseg.models.anoseg.detector import DetectorModel
from anomalib_anoseg.models.anoseg.detector_loss import DetectorDiscriminatorLoss, DetectorGeneratorLoss, DetectorLoss
from anomalib_anoseg.models.anoseg.first_stage import load_segmentation
from anomalib_anoseg.models.anoseg.loss import AnoSegLoss, GeneratorLoss, discriminator_loss
from anomalib_anoseg.models.anoseg.networks import DISCRIMINATOR_CHANNELS, MIN_TRAINING_SIDE, count_spare_layers
from anomalib_anoseg.models.anoseg.settings import (
    AnoSegNetworkSettings,
    CalibrationSettings,
    DetectorSettings,
    EncoderSettings,
    LossSettings,
    NoiseSettings,
    OptimizerSettings,
    PatchSettings,
    find_place,
)
from anomalib_anoseg.models.anoseg.stages import Stage, Stages
from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel, AnoSegOutput, ImageScore
from anomalib_anoseg.models.kinds import KindSettings, change_ranges
from anomalib_anoseg.models.self_supervised import SelfSupervisedModel
from anomalib_anoseg.models.settings import as_plain, check_model
from anomalib_anoseg.training.calibrated import set_false_alarm_rate
from anomalib_anoseg.training.calibration import CalibrationAnomalies
from anomalib_anoseg.training.checkpoints import explain_misfit
from anomalib_anoseg.training.input_checks import check_batch, check_pre_processor
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.training.seeding import seeded_weights
from anomalib_anoseg.transforms import SyntheticAnomaly

__all__ = ["AnoSeg"]


class AnoSeg(SelfSupervisedModel, AnomalibModule):
    """AnoSeg's anomaly segmentation network and its detector (Song et al., arXiv 2110.03396).

    Trains on normal images alone: half of each step's images carry a synthetic anomaly, and the network learns to mark
    it, to reconstruct what is normal, and to deceive a discriminator of (image, map) pairs. With ``detector.enabled`` a
    second GAN learns to score images in the last part of the training. Images must stay in ``[0, 1]``. What the paper
    leaves open is marked [choice] and explained in the model card.

    Settings come in groups, each a frozen dataclass of :mod:`~anomalib_anoseg.models.anoseg.settings` that documents
    its fields; a mapping of some of them works as well: ``patches={"area": (0.01, 0.05)}``.

    Args:
        image_size (tuple[int, int]): Height and width in pixels to which the default pre-processor resizes images, 64
            or more each, not necessarily equal or multiples of 32. Defaults to ``(256, 256)``, the paper's.
        encoder (EncoderSettings): The encoder and its weights.
        network (AnoSegNetworkSettings): Size of the networks and how they run.
        patches (PatchSettings): The anomalies that are pasted on normal images.
        noise (NoiseSettings): Noise-shaped anomalies on some of the images, in place of patches.
        kinds (KindSettings): Shares of the images with anomalies of other kinds, in place of both.
        losses (LossSettings): Losses of the segmentation networks, and their weights.
        detector (DetectorSettings): The paper's detector, a second GAN.
        image_score (Literal["map", "detector"]): What the image score is: the maximum of the smoothed map, or the
            detector's score. May be changed after training. Defaults to ``"map"``.
        calibration (CalibrationSettings): How thresholds are set, and on which anomalies those of maps.
        optimizer (OptimizerSettings): Adam, its learning rate schedule and weight averaging.
        ignore_mask (str | Path | None): A file that marks the region of the camera's pictures that does not count, such
            as a clamp: a picture, white (255) there and black elsewhere, or JSON,
            ``{"size": [width, height], "polygons": [[[x, y], ...], ...]}``. Nothing in it is ever anomalous, and
            nothing in it is seen: networks see grey there. For a camera that does not move, and data without
            augmentations that move pictures. Read when a training starts; checkpoints and exports carry the region
            along. Defaults to ``None``.
        count_ignored (bool): Whether ``test`` counts true defects in the region, which are then missed; otherwise they
            are good pixels. Either way the region's score is 0, so pixel AUROC and AUPRO rise with its share of the
            picture. Defaults to ``False``.
        seed (int | None): A number, 0 or more, that fixes initial weights, anomalies and the order of images: two runs
            of one command on a CPU give equal weights. ``None`` draws from the global random stream. Defaults to ``0``.
        max_epochs (int | None): Number of training epochs, 1 or more, or -1 for no end. It overrides the trainer's, for
            commands such as ``anomalib benchmark`` that pass no trainer options. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Must keep images in ``[0, 1]``. Defaults to ``True``, a resize.
        post_processor (PostProcessor | bool): Defaults to ``True``, thresholds calibrated on forged anomalies where
            there are no real ones.
        evaluator (Evaluator | bool): Defaults to ``True``, image AUROC and F1; pixel AUROC, AP, AUPRO, F1 and
            IoU at the model's threshold, at the best one, and over all.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.
        **unknown (object): Rejected; the error names the present place of a setting that has moved.

    Raises:
        ValueError: If a setting is out of range; the message names it and the range.
        TypeError: If a setting is unknown, or of another type; the message names its present place if it has moved.

    Example:
        >>> from anomalib_anoseg import AnoSeg
        >>> model = AnoSeg(image_size=(64, 64), network={"width": 0.125})
        >>> model.image_size
        (64, 64)
    """

    model: AnoSegModel
    loss: AnoSegLoss
    augmenter: SyntheticAnomaly
    min_side = MIN_TRAINING_SIDE
    find_place = staticmethod(find_place)
    shaping_arguments: Mapping[str, Callable[[Any], object]] = {
        "encoder.backbone": str,
        "encoder.pre_trained": bool,
        "encoder.coordinates": bool,
        "network.width": float,
        "network.skip_connections": bool,
        "network.decoder": str,
        "losses.masked_reconstruction": bool,
        "losses.adversarial": bool,
        "optimizer.averaging": bool,
        "detector.enabled": bool,
    }
    chosen_arguments: Mapping[str, Callable[[Any], object]] = {"image_score": str}

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        encoder: EncoderSettings = EncoderSettings(),
        network: AnoSegNetworkSettings = AnoSegNetworkSettings(),
        patches: PatchSettings = PatchSettings(),
        noise: NoiseSettings = NoiseSettings(),
        kinds: KindSettings = KindSettings(),
        losses: LossSettings = LossSettings(),
        detector: DetectorSettings = DetectorSettings(),
        image_score: ImageScore = "map",
        calibration: CalibrationSettings = CalibrationSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        ignore_mask: str | Path | None = None,
        count_ignored: bool = False,
        seed: int | None = 0,
        max_epochs: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
        **unknown: object,
    ) -> None:
        check_model(image_size, MIN_TRAINING_SIDE, seed, max_epochs, count_ignored, unknown, find_place)
        encoder, network = EncoderSettings.read(encoder), AnoSegNetworkSettings.read(network)
        patches, noise = PatchSettings.read(patches), NoiseSettings.read(noise)
        kinds = KindSettings.read(kinds)
        losses, detector = LossSettings.read(losses), DetectorSettings.read(detector)
        calibration, optimizer = CalibrationSettings.read(calibration), OptimizerSettings.read(optimizer)
        _check_image_score(image_score, detector)
        image_size = (image_size[0], image_size[1])
        check_pre_processor(pre_processor)
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.hparams.update(as_plain(encoder, network, patches, noise, kinds, losses, detector, calibration, optimizer))
        self.automatic_optimization = False
        self.image_size = image_size
        self.pre_trained = encoder.pre_trained
        self.segmentation_checkpoint = detector.segmentation_checkpoint
        self.stages = Stages(self, optimizer, _divide_training(detector), self._list_parameters)
        self.masked_reconstruction = losses.masked_reconstruction
        self.use_compile = network.compile
        self.ignore_mask, self.count_ignored = ignore_mask, count_ignored
        self.seed, self.max_epochs = seed, max_epochs
        set_false_alarm_rate(self.post_processor, calibration.false_alarm_rate)
        self._calibration_changes = calibration.changes
        self.augmenter = create_augmenter(patches, noise, kinds)
        self.loss = AnoSegLoss(
            segmentation=losses.segmentation,
            segmentation_weight=losses.segmentation_weight,
            reconstruction_weight=losses.reconstruction_weight,
            adversarial_weight=losses.adversarial_weight,
        )
        self.detector_loss = DetectorLoss(
            adversarial_weight=detector.adversarial_weight,
            reconstruction_weight=detector.reconstruction_weight,
            feature_weight=detector.feature_weight,
            classification_weight=detector.classification_weight,
        )
        with seeded_weights(seed):
            self.model = AnoSegModel(
                backbone=encoder.backbone,
                width=network.width,
                coordinates=encoder.coordinates,
                reconstruction=losses.masked_reconstruction,
                adversarial=losses.adversarial,
                averaging=optimizer.averaging,
                score_window=network.score_window,
                skip_connections=network.skip_connections,
                normalize=bool(encoder.pre_trained),
                frozen=encoder.frozen,
                decoder=network.decoder,
            )
            if detector.enabled:
                networks = DetectorModel(
                    backbone=encoder.backbone, width=network.width, side=min(image_size), beta=detector.beta
                )
                self._add_detector(networks, image_score)
        if network.channels_last:
            self.model.to(memory_format=torch.channels_last)

    def _add_detector(self, detector: DetectorModel, image_score: ImageScore) -> None:
        self.model.detector, self.image_score = detector, image_score
        self.min_side = detector.min_side
        # The discriminator's number of layers follows from the size.
        self.shaping_arguments = {**self.shaping_arguments, "image_size": _count_detector_layers}
        self.result_arguments = {**self.result_arguments, "detector.beta": float}

    @property
    def image_score(self) -> ImageScore:
        """The image score in use. It may be changed after training: both scores are calibrated."""
        return self.model.image_score

    @image_score.setter
    def image_score(self, name: ImageScore) -> None:
        self.model.image_score = name
        if isinstance(self.post_processor, SelfCalibratingPostProcessor):
            self.post_processor.choose(name)

    @property
    def calibration_anomalies(self) -> CalibrationAnomalies:
        """Anomalies of training; for maps with the ranges of ``calibration``, if any are set."""
        changes = self._calibration_changes
        bold, outside = self.augmenter, self.region.outside
        return CalibrationAnomalies(outside(bold), outside(change_ranges(bold, changes)) if changes else None)

    @property
    def published_weights(self) -> str | None:
        """The encoder, if it has ImageNet weights that timm downloaded."""
        return self.hparams["encoder"]["backbone"] if self.pre_trained is True else None

    def setup(self, stage: str) -> None:
        """Compile the networks before training, if ``network.compile`` is set."""
        if stage == "fit" and self.use_compile:
            self.model.compile()
            if self.model.detector is not None:
                self.model.detector.compile()

    def on_fit_start(self) -> None:
        """Load the configured initial weights, unless the model was trained, or weights were loaded into it.

        Raises:
            ValueError: If the checkpoint and this model differ in ``encoder.frozen``.
        """
        is_resumed = self.saved_arguments is not None and self.trainer.ckpt_path
        shaping = {"encoder.frozen": bool} if is_resumed and "segmentation" in self.stages.shares else {}
        if misfit := explain_misfit(self.saved_arguments or {}, self.hparams, shaping):
            raise ValueError(misfit)
        if self.has_learned:
            return
        if self.segmentation_checkpoint is not None:
            load_segmentation(self.model, self.segmentation_checkpoint, self.hparams, self.shaping_arguments)
        elif self.pre_trained:
            self.model.load_pretrained(None if self.pre_trained is True else self.pre_trained)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Select the calibration of the image score in use."""
        super().on_load_checkpoint(checkpoint)
        self.image_score = self.model.image_score

    def _list_parameters(self, stage: Stage) -> list[list[nn.Parameter]]:
        """List the parameters of a stage's optimisers: of a generator and, if there is one, a discriminator."""
        detector: Any = self.model.detector
        networks: AnoSegModel | DetectorModel = detector if stage == "detector" else self.model
        groups = [networks.generator_parameters()]
        return groups if networks.discriminator is None else [*groups, list(networks.discriminator.parameters())]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Configure Adam for each network of each stage, and a learning rate that falls over its stage."""
        return self.stages.configure_optimizers()

    def on_train_batch_start(self, batch: ImageBatch, batch_idx: int) -> None:
        """Start the next stage if its time has come, and freeze segmentation while the detector learns."""
        del batch
        self.model.freeze(self.stages.advance(batch_idx) == "detector")

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient here, where mixed precision has already unscaled it."""
        self.stages.clip_gradients(optimizer)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """Forge anomalies, predict, and train the current stage's discriminator, then its generator.

        The networks see each image twice: without and with an anomaly. Returns the losses by name.
        """
        normal: Any = batch.image
        check_batch(normal, self.min_side)
        stages, is_step = self.stages, self.stages.is_step(batch_idx)
        image, mask = self._forge_views(normal, batch.image_path)
        is_detector = stages.current == "detector"
        losses = (self._train_detector if is_detector else self._train_segmentation)(image, mask, is_step)
        if is_step:
            stages.step_schedules()
            if not is_detector:
                self.model.update_average(image, self.global_step // len(stages.optimizers))
        total = "train_detector_loss" if is_detector else "train_loss"
        self.log(total, losses[total], on_epoch=True, prog_bar=True, batch_size=len(image))
        self.log_dict({name: loss for name, loss in losses.items() if name != total}, batch_size=len(image))
        if len(stages.shares) > 1:
            # Show the current stage and its progress in the progress bar.
            self.log(stages.current, stages.progress(), prog_bar=True, logger=False, batch_size=len(image))
        return losses

    def _train_segmentation(self, image: Tensor, mask: Tensor, is_step: bool) -> dict[str, Tensor]:
        """Train the first stage's networks on both views of the images."""
        output: AnoSegOutput = self.model(image)
        losses = {}
        if self.model.discriminator is not None:
            losses["train_discriminator_loss"] = self._train_discriminator(output, image, mask, is_step).detach()
        terms = self._train_generator(output, image, mask, is_step)
        losses |= {f"train_{name}_loss".replace("_total", ""): loss.detach() for name, loss in terms._asdict().items()}
        return losses

    def _train_detector(self, image: Tensor, mask: Tensor, is_step: bool) -> dict[str, Tensor]:
        """Train the second stage's networks: to reconstruct normal views, and to judge the others as fakes."""
        detector: Any = self.model.detector
        (normal, forged), (no_anomaly, mask) = image.chunk(2), mask.chunk(2)
        with torch.no_grad():
            anomaly_map = self.model.predict_map(normal)
        reconstruction = detector(normal, anomaly_map)
        generator, discriminator = self.stages.optimizers
        with self.stages.learning(discriminator, is_step):
            real = detector.judge(normal, no_anomaly).logits
            fake = detector.judge(reconstruction.detach(), anomaly_map).logits
            judged: DetectorDiscriminatorLoss = self.detector_loss.discriminator(
                real, fake, detector.judge(forged, mask).logits
            )
            self.stages.backward_and_step(judged.total, discriminator, is_step)
        with self.stages.learning(generator, is_step):
            with torch.no_grad():
                features = detector.features(normal, no_anomaly)
            terms: DetectorGeneratorLoss = self.detector_loss.generator(
                normal, reconstruction, features, detector.judge(reconstruction, anomaly_map)
            )
            self.stages.backward_and_step(terms.total, generator, is_step)
        losses = {**judged._asdict(), **terms._asdict()}
        return {f"train_detector_{name}_loss".replace("_total", ""): loss.detach() for name, loss in losses.items()}

    def _forge_views(self, image: Tensor, paths: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Make the normal and the anomalous view of ``(B, 3, H, W)`` images: ``2 B`` images and their masks."""
        augmenter = self.region.outside(self.augmenter)
        with torch.no_grad():
            forged, mask = augmenter.forge(image, generator=self.step_generator(), paths=paths)
            return torch.cat((augmenter.rotate(image), forged)), torch.cat((torch.zeros_like(mask), mask))

    def _train_discriminator(self, output: AnoSegOutput, image: Tensor, mask: Tensor, is_step: bool) -> Tensor:
        """Train the discriminator to tell (image, mask) from (reconstruction, map), one forward pass each."""
        optimizer = self.stages.optimizers[1]
        with self.stages.learning(optimizer, is_step):
            judged_real = self.model.discriminate(image, mask)
            judged_fake = self.model.discriminate(*output.detached_pair())
            loss = discriminator_loss(judged_real, judged_fake)
            self.stages.backward_and_step(loss, optimizer, is_step)
        return loss

    def _train_generator(self, output: AnoSegOutput, image: Tensor, mask: Tensor, is_step: bool) -> GeneratorLoss:
        """Train encoder and decoders with all losses; the discriminator's weights get no gradient here."""
        optimizer = self.stages.optimizers[0]
        with self.stages.learning(optimizer, is_step):
            judged = None if self.model.discriminator is None else self.model.discriminate(*output.pair())
            reconstruction = output.reconstruction if self.masked_reconstruction else None
            terms: GeneratorLoss = self.loss(output.logits, reconstruction, image, mask, judged)
            self.stages.backward_and_step(terms.total, optimizer, is_step)
        return terms


def _divide_training(detector: DetectorSettings) -> dict[Stage, float]:
    """Compute the fraction of the training that each stage takes."""
    if not detector.enabled:
        return {"segmentation": 1.0}
    if detector.segmentation_checkpoint is not None:
        return {"detector": 1.0}
    return {"segmentation": 1 - detector.share, "detector": detector.share}


def _check_image_score(image_score: str, detector: DetectorSettings) -> None:
    if image_score not in get_args(ImageScore):
        raise ValueError(f"image_score must be one of {get_args(ImageScore)}, got {image_score!r}.")
    if image_score == "detector" and not detector.enabled:
        raise ValueError("image_score='detector' needs detector.enabled=True and a trained detector.")


def _count_detector_layers(image_size: Sequence[int]) -> int:
    return len(DISCRIMINATOR_CHANNELS) - count_spare_layers(min(image_size))
