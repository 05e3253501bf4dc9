"""AnoSeg: anomaly segmentation by self-supervised learning (arXiv 2110.03396), as an anomalib model."""

from typing import Any, Literal

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anomalib_anoseg.anoseg.loss import AnoSegLoss, GeneratorLoss, SegmentationLoss, discriminator_loss
from anomalib_anoseg.anoseg.networks import MIN_TRAINING_SIDE
from anomalib_anoseg.anoseg.torch_model import AnoSegModel, AnoSegOutput
from anomalib_anoseg.common.argument_checks import check_shared_arguments
from anomalib_anoseg.common.self_supervised import SelfSupervisedModel
from anomalib_anoseg.input_checks import check_batch, check_pre_processor
from anomalib_anoseg.reproducibility import seeded_weights
from anomalib_anoseg.schedules import LinearDecay, timed
from anomalib_anoseg.transforms import CutPaste, HardCutPaste
from anomalib_anoseg.transforms.base import check_value
from anomalib_anoseg.transforms.cut_paste import check_patches

__all__ = ["AnoSeg"]


class AnoSeg(SelfSupervisedModel, AnomalibModule):
    """AnoSeg's anomaly segmentation network (Song et al., arXiv 2110.03396).

    Trains on normal images alone: half of each step's images carry a synthetic anomaly, and the network learns to mark
    it, to reconstruct what is normal, and to deceive a discriminator of (image, map) pairs. Images must stay in
    ``[0, 1]``. What the paper leaves open is marked [choice] and explained in the model card.

    Args:
        image_size (tuple[int, int]): Height and width in pixels to which the default pre-processor resizes images, 64
            or more each; need be neither equal nor multiples of 32. Defaults to ``(256, 256)``, the paper's.
        backbone (str): timm encoder with features down to 1/32 of the image. Defaults to ``"resnet18"``, the paper's.
        pre_trained (bool | str): Whether training starts from the backbone's ImageNet weights: ``True`` lets timm
            download them, a path reads them from a file. The encoder then normalises what it sees as they expect.
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
        segmentation_loss (Literal["l1", "balanced_l1", "cross_entropy", "balanced_cross_entropy"]): Form of the
            pixel-wise loss; the paper prints ``l1``, which tends to end in the constant map. Defaults to
            ``"balanced_cross_entropy"`` [choice].
        segmentation_weight (float): Weight of the pixel-wise loss. Defaults to ``50`` [choice].
        reconstruction_weight (float): Weight of the masked reconstruction loss. Defaults to ``50`` [choice].
        adversarial_weight (float): Weight of the adversarial loss. Defaults to ``1`` [choice].
        lr (float): Adam's learning rate, for all networks. Defaults to ``2e-4`` [choice].
        betas (tuple[float, float]): Adam's betas. Defaults to ``(0.5, 0.999)`` [choice].
        lr_decay_start (float): Fraction of the training after which the learning rate falls linearly to zero; ``1``
            keeps it constant. Follows epochs, steps or ``max_time``. Defaults to ``0.5`` [choice].
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
    augmenter: CutPaste
    min_side = MIN_TRAINING_SIDE
    shaping_arguments = {"backbone": str, "width": float} | dict.fromkeys(
        ("pre_trained", "coordinates", "skip_connections", "masked_reconstruction", "adversarial", "averaging"), bool
    )

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 256),
        backbone: str = "resnet18",
        pre_trained: bool | str = False,
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
        segmentation_loss: SegmentationLoss = "balanced_cross_entropy",
        segmentation_weight: float = 50.0,
        reconstruction_weight: float = 50.0,
        adversarial_weight: float = 1.0,
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
        self.masked_reconstruction = masked_reconstruction
        self.lr, self.betas, self.lr_decay_start = lr, betas, lr_decay_start
        self.accumulate_grad_batches, self.gradient_clip_val = accumulate_grad_batches, gradient_clip_val
        self.use_compile = compile
        self.seed, self.max_epochs = seed, max_epochs

        patch = (
            patch_area,
            patch_aspect,
            patch_rotation,
            patch_rotation_p,
            patch_count,
            patch_opacity,
            patch_softness,
            patch_mark,
        )
        check_patches(*patch, prefix="patch_")
        self.augmenter = HardCutPaste(*patch, hard_p, jitter) if hard_augmentation else CutPaste(*patch)
        self.loss = AnoSegLoss(segmentation_loss, segmentation_weight, reconstruction_weight, adversarial_weight)
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
            )
        if channels_last:
            self.model.to(memory_format=torch.channels_last)

    def setup(self, stage: str) -> None:
        """Compile, if asked to, before training."""
        if stage == "fit" and self.use_compile:
            self.model.compile()

    def on_fit_start(self) -> None:
        """Load the encoder's first weights, if asked to; by now a checkpoint to resume from has brought its own."""
        if self.pre_trained and not self._has_weights and self.saved_arguments is None:
            self.model.load_pretrained(None if self.pre_trained is True else self.pre_trained)
        self._has_weights = True

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Forge, predict, and let the discriminator and then the generator learn.

        The number of images through the networks is twice the batch: each as it is and with an anomaly.
        """
        normal: Any = batch.image
        check_batch(normal, MIN_TRAINING_SIDE)
        is_step = (batch_idx + 1) % self.accumulate_grad_batches == 0 or self.trainer.is_last_batch
        image, mask = self._forge_views(normal)
        output: AnoSegOutput = self.model(image)
        losses = {}
        if self.model.discriminator is not None:
            losses["train_discriminator_loss"] = self._train_discriminator(output, image, mask, is_step)
        terms = self._train_generator(output, image, mask, is_step)
        if is_step:
            self._finish_step(image)
        losses |= {f"train_{name}_loss": term for name, term in terms._asdict().items() if name != "total"}
        self.log_dict({name: loss.detach() for name, loss in losses.items()}, batch_size=len(image))
        self.log("train_loss", terms.total.detach(), on_epoch=True, prog_bar=True, batch_size=len(image))

    def _forge_views(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Make the normal and the anomalous view of ``(B, 3, H, W)`` images: ``2 B`` images and their masks."""
        with torch.no_grad():
            forged, mask = self.augmenter.forge(image, generator=self.step_generator())
        return torch.cat((image, forged)), torch.cat((torch.zeros_like(mask), mask))

    def _train_discriminator(self, output: AnoSegOutput, image: Tensor, mask: Tensor, is_step: bool) -> Tensor:
        """Let the discriminator tell (image, mask) from (reconstruction, map), each in a pass of its own."""
        optimizer = self._optimizers[1]
        with optimizer.toggle_model(sync_grad=is_step):
            judged_real = self.model.discriminate(image, mask)
            judged_fake = self.model.discriminate(*output.detached_pair())
            loss = discriminator_loss(judged_real, judged_fake)
            self._learn(loss, optimizer, is_step)
        return loss

    def _train_generator(self, output: AnoSegOutput, image: Tensor, mask: Tensor, is_step: bool) -> GeneratorLoss:
        """Let encoder and decoders learn from all losses; the discriminator's weights take no gradient here."""
        optimizer = self._optimizers[0]
        with optimizer.toggle_model(sync_grad=is_step):
            judged = None if self.model.discriminator is None else self.model.discriminate(*output.pair())
            reconstruction = output.reconstruction if self.masked_reconstruction else None
            terms: GeneratorLoss = self.loss(output.logits, reconstruction, image, mask, judged)
            self._learn(terms.total, optimizer, is_step)
        return terms

    @property
    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers: Any = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _learn(self, loss: Tensor, optimizer: LightningOptimizer, is_step: bool) -> None:
        self.manual_backward(loss / self.accumulate_grad_batches)
        if is_step:
            optimizer.step()
            optimizer.zero_grad()

    def _finish_step(self, image: Tensor) -> None:
        schedulers: Any = self.lr_schedulers()
        schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
        for scheduler in schedulers:
            scheduler.step()
        self.model.update_average(image, self.global_step // len(schedulers))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient here, where mixed precision has already unscaled it."""
        if self.gradient_clip_val is not None:
            self.clip_gradients(optimizer, self.gradient_clip_val, "norm")

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Configure Adam for the generator and, if there is one, for the discriminator."""
        groups = [self.model.generator_parameters()]
        if self.model.discriminator is not None:
            groups.append(list(self.model.discriminator.parameters()))
        optimizers: list[Optimizer] = [Adam(group, self.lr, self.betas) for group in groups]
        decay = timed(LinearDecay(self.lr_decay_start, self._count_steps(len(optimizers))), self.trainer)
        return optimizers, [LambdaLR(optimizer, decay) for optimizer in optimizers]

    def _count_steps(self, optimizers: int) -> float:
        """Count the steps of each optimiser in this training; infinite if neither epochs nor steps bound it.

        Lightning's ``max_steps`` counts the steps of all optimisers together.
        """
        steps = self.trainer.estimated_stepping_batches / self.accumulate_grad_batches
        return min(steps, self.trainer.max_steps / optimizers) if self.trainer.max_steps > 0 else steps
