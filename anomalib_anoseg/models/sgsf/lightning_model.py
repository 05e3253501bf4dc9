"""SGSF: self-supervised guided segmentation (arXiv 2209.12440, NIGSF in its journal version), as an anomalib model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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

from anomalib_anoseg.models.kinds import KindSettings, change_ranges
from anomalib_anoseg.models.self_supervised import SelfSupervisedModel
from anomalib_anoseg.models.settings import as_plain, check_model
from anomalib_anoseg.models.sgsf.loss import SGSFLoss, SGSFLosses
from anomalib_anoseg.models.sgsf.networks import MIN_SIDE
from anomalib_anoseg.models.sgsf.patch_model import PatchGuidedModel
from anomalib_anoseg.models.sgsf.references import ReferenceSet, collect_references
from anomalib_anoseg.models.sgsf.settings import (
    AnomalySettings,
    BankSettings,
    CalibrationSettings,
    ExtractorSettings,
    GuidanceSettings,
    LossSettings,
    OptimizerSettings,
    PatchSettings,
    SGSFNetworkSettings,
    find_place,
)
from anomalib_anoseg.models.sgsf.torch_model import SGSFModel, SGSFOutput
from anomalib_anoseg.training.calibrated import set_false_alarm_rate
from anomalib_anoseg.training.calibration import CalibrationAnomalies
from anomalib_anoseg.training.input_checks import check_batch, check_pre_processor
from anomalib_anoseg.training.schedules import StepDecay, timed
from anomalib_anoseg.training.seeding import seeded_streams, seeded_weights, step_seed
from anomalib_anoseg.transforms import SyntheticAnomaly

__all__ = ["SGSF"]

# Settings that shape the networks, see SelfSupervisedModel.shaping_arguments.
SHAPING: dict[str, Callable[[Any], object]] = {
    "network.width": float,
    "network.passes": str,
    "guidance.kind": lambda kind: kind if kind in {"none", "patches"} else "references",
    "guidance.denoise": bool,
    "extractor.name": str,
    "extractor.weights": bool,
    "optimizer.averaging": bool,
}
# Settings that change the predictions of equal weights: for good, or as may be chosen after training.
RESULTS: dict[str, Callable[[Any], object]] = {"guidance.kind": str, "extractor.size": str}
CHOSEN: dict[str, Callable[[Any], object]] = {"bank.features": str, "bank.precision": str}
# Counter that separates the random stream of references from that of anomalies.
REFERENCES = 1


class SGSF(SelfSupervisedModel, AnomalibModule):
    """SGSF's guided segmentation network (Xing et al., arXiv 2209.12440, as NIGSF in IEEE TCSVT 34(6), 2024).

    Trains on normal images alone. Anomalies are forged on the object, and the network learns to mark them by comparison
    with a similar normal image, the reference. An auto-encoder that learns to reconstruct the reference provides its
    features. The trained model carries references along. The model card explains what follows the journal version and
    what is our choice, marked [choice].

    Settings come in groups, each a frozen dataclass of :mod:`~anomalib_anoseg.models.sgsf.settings` that documents its
    fields; a mapping of some of them works as well: ``bank={"size": 8}``.

    Args:
        image_size (tuple[int, int]): Height and width in pixels to which the default pre-processor resizes images, 32
            or more each. Defaults to ``(256, 256)``, the paper's.
        network (SGSFNetworkSettings): Size of the networks and how they run.
        guidance (GuidanceSettings): What guides the segmentation.
        extractor (ExtractorSettings): The network that finds similar images.
        bank (BankSettings): The references that the trained model carries.
        anomalies (AnomalySettings): The anomalies that are forged on normal images.
        patches (PatchSettings): Pasted on the share ``anomalies.patch_share`` of the images in their place.
        kinds (KindSettings): Shares of the images with anomalies of other kinds in their place.
        losses (LossSettings): Losses of the networks, and their weights.
        calibration (CalibrationSettings): How thresholds are set.
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
        seed (int | None): A number, 0 or more, that fixes initial weights, anomalies, references and the order of
            images: two runs of one command on a CPU give equal weights. ``None`` draws from the global random stream.
            Defaults to ``0``.
        max_epochs (int | None): Number of training epochs, 1 or more, or -1 for no end. It overrides the trainer's, for
            commands such as ``anomalib benchmark`` that pass no trainer options. Defaults to ``None``.
        pre_processor (PreProcessor | bool): Must keep images in ``[0, 1]`` and bring all to the same size. Defaults to
            ``True``, a resize.
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
        >>> from anomalib_anoseg import SGSF
        >>> model = SGSF(image_size=(64, 64), network={"width": 0.125})
        >>> model.image_size
        (64, 64)
    """

    model: SGSFModel | PatchGuidedModel
    loss: SGSFLoss
    augmenter: SyntheticAnomaly
    min_side = MIN_SIDE
    unexported = ("augmenter", "references")
    shaping_arguments = SHAPING
    result_arguments: Mapping[str, Callable[[Any], object]] = {**SelfSupervisedModel.result_arguments, **RESULTS}
    chosen_arguments = CHOSEN
    find_place = staticmethod(find_place)

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        network: SGSFNetworkSettings = SGSFNetworkSettings(),
        guidance: GuidanceSettings = GuidanceSettings(),
        extractor: ExtractorSettings = ExtractorSettings(),
        bank: BankSettings = BankSettings(),
        anomalies: AnomalySettings = AnomalySettings(),
        patches: PatchSettings = PatchSettings(),
        kinds: KindSettings = KindSettings(),
        losses: LossSettings = LossSettings(),
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
        check_model(image_size, MIN_SIDE, seed, max_epochs, count_ignored, unknown, find_place)
        network, guidance = SGSFNetworkSettings.read(network), GuidanceSettings.read(guidance)
        extractor, bank = ExtractorSettings.read(extractor), BankSettings.read(bank)
        anomalies, patches = AnomalySettings.read(anomalies), PatchSettings.read(patches)
        kinds, losses = KindSettings.read(kinds), LossSettings.read(losses)
        calibration, optimizer = CalibrationSettings.read(calibration), OptimizerSettings.read(optimizer)
        image_size = (image_size[0], image_size[1])
        check_pre_processor(pre_processor)
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        groups = (network, guidance, extractor, bank, anomalies, patches, kinds, losses, calibration, optimizer)
        self.hparams.update(as_plain(*groups))
        self.image_size = image_size
        self.guidance_settings, self.bank_settings, self.optimizer_settings = guidance, bank, optimizer
        self.use_compile, self.use_pairs = network.compile, anomalies.pairs
        self.ignore_mask, self.count_ignored = ignore_mask, count_ignored
        self.seed, self.max_epochs = seed, max_epochs
        set_false_alarm_rate(self.post_processor, calibration.false_alarm_rate)
        self._calibration_changes = calibration.changes
        self.references: ReferenceSet | None = None
        self._seen: tuple[Tensor, Tensor | None] | None = None

        self.augmenter = anomalies.create_transform(patches, kinds)
        self.loss = SGSFLoss(losses.segmentation, losses.reconstruction_weight, losses.focal_gamma)
        with seeded_weights(seed):
            self.model = _create_networks(network, guidance, extractor, bank, optimizer)
        if network.channels_last:
            self.model.to(memory_format=torch.channels_last)

    @property
    def calibration_anomalies(self) -> CalibrationAnomalies:
        """Anomalies of training, but on images that are not rotated: test images are not rotated either.

        For maps they have the ranges of ``calibration``, if any are set.
        """
        outside, upright = self.region.outside, change_ranges(self.augmenter, {"rotation_p": 0.0})
        changes = self._calibration_changes
        faint = outside(change_ranges(upright, changes)) if changes else None
        return CalibrationAnomalies(outside(upright), faint, scores_count=False)

    @property
    def only_size(self) -> tuple[int, int] | None:
        """Size of the references, with which images are compared; ``None`` without references."""
        bank = self.model.bank
        return super().only_size if bank is None else (bank.images.shape[-2], bank.images.shape[-1])

    @property
    def published_weights(self) -> str | None:
        """The extractor, if it is used and has ImageNet weights that timm downloaded."""
        extractor = self.hparams["extractor"]
        return extractor["name"] if self.model.needs_bank and extractor["weights"] is True else None

    def setup(self, stage: str) -> None:
        """Compile the networks before training, if ``network.compile`` is set."""
        if stage == "fit" and self.use_compile:
            self.model.compile()

    def on_fit_start(self) -> None:
        """Read the references, and fill the bank, from which inference takes them.

        The extractor's pre-trained weights are loaded, unless the model was trained, or weights were loaded into it.
        """
        if not self.model.needs_bank:
            return
        if not self.has_learned:
            self.model.load_pretrained()
        self.references = self._collect_references()
        # A single one is the medoid of all.
        count = 1 if self.model.guidance == "single" else self.bank_settings.size
        chosen = self.references.choose_places(count, self.bank_settings.method, self.seed or 0)
        if isinstance(self.model, PatchGuidedModel):
            self.model.fill_memory(self.references.images[chosen], chosen)
        else:
            self.model.fill_bank(self.references.images[chosen], self.references.embeddings[chosen])
        self.before_export()

    def before_export(self) -> None:
        """Warn if the references are larger in files than ``bank.limit``."""
        size = self.model.bank_size
        if size is not None and (excess := size.explain(self.bank_settings.limit)):
            rank_zero_warn(excess)

    def _collect_references(self) -> ReferenceSet:
        """Read all training images as test images are read: through the augmentations of test images."""
        self.trainer.fit_loop.setup_data()  # already done, unless the training has no end
        loader: Any = self.trainer.train_dataloader
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        pre_processor: Any = self.pre_processor
        transforms = [getattr(datamodule, "test_augmentations", None), getattr(pre_processor, "transform", None)]
        with seeded_streams(self.seed or 0):  # augmentations may be random; all processes must read the same
            guidance = self.guidance_settings
            has_contrast_set = guidance.use_contrast_set and guidance.kind != "patches"
            contrast_size = guidance.contrast_size if has_contrast_set else None
            return collect_references(
                loader.dataset,
                transforms,
                self._embed,
                size=contrast_size,
                include_itself=guidance.include_itself,
                memory=guidance.memory,
                mask_images=self.region.mask_images,
            )

    @torch.no_grad()
    def _embed(self, image: Tensor) -> Tensor:
        return self.model.embed(image.to(self.device)).cpu()

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """Forge anomalies, draw references, predict, and compute the loss; return it and all terms by name."""
        del batch_idx
        normal: Any = batch.image
        check_batch(normal, MIN_SIDE)
        paths: Any = batch.image_path
        augmenter = self.region.outside(self.augmenter)
        with torch.no_grad():
            forged, mask = augmenter.forge(normal, generator=self.step_generator(), paths=paths)
            guide = self._find_own(paths) if self.model.guidance == "patches" else self._draw_references(paths, normal)
            upright = augmenter.rotate(normal) if self.model.denoise or self.use_pairs else normal
            image = forged
            if self.use_pairs:
                image, mask = torch.cat((upright, forged)), torch.cat((torch.zeros_like(mask), mask))
                guide, upright = guide if guide is None else torch.cat((guide, guide)), torch.cat((upright, upright))
            target = upright if self.model.denoise else guide
        self._seen = image, guide
        output: SGSFOutput = self.model(image, guide)
        terms: SGSFLosses = self.loss(output.logits, mask, output.reconstruction, target)
        return {"loss": terms.total, **self._log_losses(terms, len(normal))}

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
                f"Training images are {tuple(image.shape[-2:])} pixels, but references, which get no training "
                f"augmentations, are {tuple(reference.shape[-2:])}. Let pre_processor resize both to (height, width)."
            )
        return reference.to(image.device, non_blocking=True).to(image.dtype) / 255

    def _find_own(self, paths: Sequence[str] | None) -> Tensor:
        """Find which reference each image of a batch is, so that it is not compared with itself: ``(B,)`` int64."""
        references: Any = self.references
        own: Tensor = references.find_own(paths)
        return (torch.full_like(own, -1) if self.guidance_settings.include_itself else own).to(self.device)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Take a step, and update the averaged weights, if there are any."""
        super().optimizer_step(*args, **kwargs)  # runs training_step
        if self._seen is not None:
            self.model.update_average(*self._seen, self.trainer.global_step + 1)
            self._seen = None

    def on_fit_end(self) -> None:
        """Release the references; the bank holds what inference needs."""
        super().on_fit_end()
        self.references = None

    def _log_losses(self, terms: SGSFLosses, batch_size: int) -> dict[str, Tensor]:
        losses = {f"train_{name}_loss".replace("_total", ""): term.detach() for name, term in terms._asdict().items()}
        total = losses.pop("train_loss")
        self.log_dict(losses, batch_size=batch_size)
        self.log("train_loss", total, on_epoch=True, prog_bar=True, batch_size=batch_size)
        return {**losses, "train_loss": total}

    def configure_optimizers(self) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        """Configure Adam and a learning rate that falls at fractions of the training."""
        settings = self.optimizer_settings
        optimizer = Adam(self.model.trained_parameters(), settings.lr)
        total = self.trainer.estimated_stepping_batches
        decay = timed(StepDecay(settings.milestones, settings.factor, total), self.trainer)
        return [optimizer], [{"scheduler": LambdaLR(optimizer, decay), "interval": "step"}]


def _create_networks(
    network: SGSFNetworkSettings,
    guidance: GuidanceSettings,
    extractor: ExtractorSettings,
    bank: BankSettings,
    optimizer: OptimizerSettings,
) -> SGSFModel | PatchGuidedModel:
    """Create the networks of a kind of guidance.

    Raises:
        ValueError: If patches are to be described by an extractor that knows nothing, or sees another size.
    """
    if guidance.kind != "patches":
        return SGSFModel(
            width=network.width,
            guidance=guidance.kind,
            passes=network.passes,
            detach_guidance=guidance.detach,
            denoise=guidance.denoise,
            extractor=extractor.name,
            extractor_weights=extractor.weights,
            extractor_size=extractor.size,
            bank_features=bank.features,
            bank_precision=bank.precision,
            averaging=optimizer.averaging,
            score_window=network.score_window,
        )
    if not extractor.weights or extractor.size is not None:
        raise ValueError(
            "guidance.kind='patches' needs extractor.weights, whose features tell patches apart, and "
            f"extractor.size=None; got weights={extractor.weights!r} and size={extractor.size}."
        )
    return PatchGuidedModel(
        backbone=extractor.name,
        weights=extractor.weights,
        width=network.width,
        vectors=bank.vectors,
        averaging=optimizer.averaging,
        score_window=network.score_window,
    )
