"""Thresholds without bad parts: calibration on held-out normal images and on defects forged on them.

anomalib's post-processor finds thresholds and the range of scores on the validation images, which for most users are
normal images alone: the best F1 score is then undefined, and without validation images the thresholds stay NaN. A
model that forges anomalies can make its own labelled ones.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Normalize

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.transforms import ForgedBatch, SyntheticAnomaly

CalibrationSource = Literal["anomalous images", "forged on held-out images", "forged on training images", "none"]
# Normal images: enough for a threshold, and a bound on the cost of a calibration, which every validation repeats.
MAX_NORMAL_IMAGES = 64
MOST_FORGED_IMAGES = 10_000  # a larger ``forged_images`` is a mistake
# While a training goes on, a rough threshold will do for its checkpoints: the last validation finds a better one.
FORGED_ON_THE_WAY = 20
# Normal and forged ones that a threshold is found on by further draws: to sort many more takes gigabytes.
MOST_PIXELS = 2**24
# Images a forward pass where no data loader says how many.
CHUNK = 8
# Scores up to this distance from the threshold, in ranges of the calibration's scores, are mapped linearly ...
LINEAR = 0.4
# ... and what remains up to 0 and 1 is for all those beyond.
TAIL = 0.5 - LINEAR


class SelfCalibratingPostProcessor(PostProcessor):
    """anomalib's post-processor, calibrated on forged anomalies where there are no real ones.

    It serves any model of images: models that forge anomalies themselves lend their generator (``calibration_forger``
    if they have one for this purpose, otherwise ``augmenter``), others are given one. Anomalies are forged on images in
    ``[0, 1]``; a normalisation at the end of the model's pre-processor is undone for that and done again.

    - Validation images with anomalies among them: used as anomalib does.
    - Normal validation images alone: each of the first 64 is judged as it is and with an anomaly forged on it, and this
      several times, where there are fewer than ``forged_images``: a threshold would hang on which anomalies happened
      to be forged. Validations after which a training goes on forge 20 at most, and large images fewer than small ones,
      for memory's sake, but always one on each. Where a model has a ``map_calibration_forger`` as well, the pixel
      threshold and the range of maps are found on what that forges alone, and those of image scores on both: a network
      finds the bold anomalies that it learned from with more confidence than real defects, and a threshold that is best
      for the former lies too high for the latter. A picture can then have a marked mask though its image score is
      normal.
    - No validation images: the same with training images, with a warning, because a model knows those too well.

    Scores and maps are brought into ``[0, 1]`` with the threshold at 0.5, as by anomalib, but not cut off at the ends:
    scores beyond the calibration's range approach 0 and 1 and keep their order. Cut off, they would tie, and every
    figure that ranks (AUROC, average precision) would suffer.

    Every validation repeats this, so that every checkpoint carries thresholds that fit its weights. They are stored
    in checkpoints and exports, and ``calibrated_on`` tells where they came from.

    Args:
        calibration_seed: Seed of the forged anomalies: every calibration uses the same ones.
        forger: What forges them, for both thresholds. The model's own generators if ``None``; a model without any is
            then calibrated as anomalib does.
        forged_images: Anomalies are forged on each image as often as it takes to have so many, 1 to 10000. Defaults to
            ``200``.
        use_training_images: Whether training images are the last resort; without, thresholds stay undefined until a
            validation. Models that keep a memory bank cannot predict before their training has ended.
        **kwargs: Arguments of :class:`anomalib.post_processing.PostProcessor`.

    Attributes:
        calibrated_on: Where thresholds and range came from.

    Raises:
        ValueError: If ``forged_images`` is out of bounds.

    Example:
        >>> SelfCalibratingPostProcessor().calibrated_on
        'none'
    """

    def __init__(
        self,
        calibration_seed: int = 0,
        forger: SyntheticAnomaly | None = None,
        forged_images: int = 200,
        use_training_images: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**kwargs)
        check_value("forged_images", forged_images, 1, MOST_FORGED_IMAGES)
        self.calibration_seed = calibration_seed
        self.forger = forger
        self.forged_images = forged_images
        self.use_training_images = use_training_images
        self.calibrated_on: CalibrationSource = "none"
        self._seen, self._images, self._wanted = 0, 1, 1

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "calibration_seed", "forged_images", "calibrated_on")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether there are real anomalies to calibrate on."""
        loaders = _as_list(trainer.val_dataloaders)
        has_anomalies = any(_has_anomalies(loader) for loader in loaders)
        is_real = has_anomalies or self._find_forger(pl_module) is None
        self.calibrated_on = "anomalous images" if is_real else "forged on held-out images"
        if not is_real:
            datasets: list[Any] = [loader.dataset for loader in loaders]
            self._start(trainer, sum(len(dataset) for dataset in datasets))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Take a batch into the calibration, forged if need be."""
        if self.calibrated_on == "anomalous images":
            super().on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)
        elif self._seen < MAX_NORMAL_IMAGES:
            remaining = MAX_NORMAL_IMAGES - self._seen
            self._update_with_forged(trainer, pl_module, _image_of(outputs)[:remaining], _paths_of(outputs)[:remaining])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate on training images if there are no others."""
        if not self.use_training_images or any(trainer.num_val_batches) or self._find_forger(pl_module) is None:
            return
        self.calibrated_on = "forged on training images"
        network: nn.Module = pl_module.model  # type: ignore[assignment]
        network.eval()
        with torch.no_grad():
            images, paths = _some_images(_as_list(trainer.train_dataloader)[0], pl_module)
            self._start(trainer, len(images))
            for start in range(0, len(images), CHUNK):
                chunk = slice(start, start + CHUNK)
                self._update_with_forged(trainer, pl_module, images[chunk], paths[chunk])
        network.train()
        self.on_validation_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say once what the thresholds rest on."""
        del trainer, pl_module
        thresholds = f"image {self.image_threshold:.3f}, pixel {self.pixel_threshold:.3f}"
        message = f"Thresholds ({thresholds}) calibrated on: {self.calibrated_on}."
        if self.calibrated_on == "forged on training images":
            rank_zero_warn(f"{message} There were no validation images: hold some out (val_split_mode: from_train).")
        else:
            rank_zero_info(message)

    @staticmethod
    def _normalize(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
        """Map scores to ``(0, 1)``, rising strictly, the threshold to 0.5; as they are if nothing was calibrated."""
        if preds is None:
            return None
        threshold = torch.where(torch.isnan(threshold), (norm_min + norm_max) / 2, threshold)
        span = norm_max - norm_min
        distance = (preds - threshold) / torch.where(span > 0, span, torch.ones_like(span))
        beyond = distance.sign() * (0.5 - TAIL**2 / (distance.abs() - LINEAR + TAIL).clamp(min=TAIL))
        normalized = 0.5 + torch.where(distance.abs() <= LINEAR, distance, beyond)
        return torch.where(torch.isnan(span), preds, normalized)

    def _start(self, trainer: Trainer, images: int) -> None:
        """Begin a calibration on so many normal images."""
        goes_on = trainer.state.fn == TrainerFn.FITTING and not trainer.should_stop
        self._seen, self._images = 0, max(1, min(images, MAX_NORMAL_IMAGES))
        self._wanted = min(self.forged_images, FORGED_ON_THE_WAY) if goes_on else self.forged_images

    def _count_draws(self, image: Tensor) -> int:
        """Tell how often anomalies are forged on each image of a batch, ``(B, C, H, W)``."""
        pixels = 2 * self._images * image.shape[-2] * image.shape[-1]
        return max(1, min(math.ceil(self._wanted / self._images), MOST_PIXELS // pixels))

    def _update_with_forged(
        self,
        trainer: Trainer,
        pl_module: Any,  # noqa: ANN401
        image: Tensor,
        paths: Sequence[str] = (),
    ) -> None:
        """Take normal images into the calibration, each as often as anomalies are forged on it."""
        normal = pl_module.model(image)
        for draw in range(self._count_draws(image)):
            # No two batches, and no two draws, share a seed.
            seed = self.calibration_seed + self._seen + draw * MAX_NORMAL_IMAGES
            for batch in self._forge_batches(pl_module, image, paths, normal, seed):
                super().on_validation_batch_end(trainer, pl_module, batch)
        self._seen += len(image)

    def _forge_batches(
        self,
        pl_module: Any,  # noqa: ANN401
        image: Tensor,
        paths: Sequence[str],
        normal: InferenceBatch,
        seed: int,
    ) -> list[ImageBatch]:
        """Forge an anomaly on each image by each generator, predict, and put the normal ones before them.

        What the generator for maps forges without a trace is left out, together with the normal image: as one more
        normal image it would move the threshold of image scores. Where it leaves no trace at all, the other generator
        serves for the maps as well.
        """
        view = _forge(self._find_forger(pl_module), pl_module, image, paths, seed)
        batches = [_after_normal(image, normal, view, pl_module.model(view.image))]
        forger = self._find_map_forger(pl_module)
        if forger is not None:
            view = _forge(forger, pl_module, image, paths, seed)
            is_visible = view.mask.flatten(1).any(1)
            if is_visible.any():
                image, view = image[is_visible], ForgedBatch(*(part[is_visible] for part in view))
                kept = InferenceBatch(*(None if part is None else part[is_visible] for part in normal))
                batches[0].update(gt_mask=None, anomaly_map=None)
                batches.append(_after_normal(image, kept, view, pl_module.model(view.image)))
        return batches

    def _find_forger(self, pl_module: LightningModule) -> SyntheticAnomaly | None:
        own = getattr(pl_module, "calibration_forger", None) or getattr(pl_module, "augmenter", None)
        forger = self.forger or own
        return forger if isinstance(forger, SyntheticAnomaly) else None

    def _find_map_forger(self, pl_module: LightningModule) -> SyntheticAnomaly | None:
        forger = None if self.forger else getattr(pl_module, "map_calibration_forger", None)
        return forger if isinstance(forger, SyntheticAnomaly) else None


def _forge(forger: Any, pl_module: Any, image: Tensor, paths: Sequence[str], seed: int) -> ForgedBatch:  # noqa: ANN401
    """Forge anomalies on images as the networks see them, normalised or not."""
    generator = torch.Generator(image.device).manual_seed(seed)
    mean, std = _normalisation(pl_module, image)
    normal = (image * std + mean).clamp(0, 1)
    forged, mask = forger.to(image.device).forge(normal, generator=generator, paths=paths or None)
    return ForgedBatch((forged - mean) / std, mask)


def _after_normal(image: Tensor, normal: InferenceBatch, view: ForgedBatch, predicted: InferenceBatch) -> ImageBatch:
    """Put normal images, and what was predicted for them, before what was forged on them."""
    mask = torch.cat((torch.zeros_like(view.mask), view.mask))
    return ImageBatch(
        image=torch.cat((image, view.image)),
        gt_label=mask.flatten(1).any(1),
        gt_mask=mask.squeeze(1).bool(),
        pred_score=_join(normal.pred_score, predicted.pred_score),
        anomaly_map=_join(normal.anomaly_map, predicted.anomaly_map),
    )


def _join(normal: Tensor | None, forged: Tensor | None) -> Tensor | None:
    return None if normal is None or forged is None else torch.cat((normal, forged))


def _image_of(batch: Any) -> Tensor:  # noqa: ANN401
    return batch.image


def _paths_of(batch: Any) -> list[str]:  # noqa: ANN401
    """Files of a batch's images; none where a data set does not tell them."""
    return list(getattr(batch, "image_path", None) or [])


def _normalisation(pl_module: LightningModule, image: Tensor) -> tuple[Tensor, Tensor]:
    """Find mean and standard deviation by which the model's pre-processor normalises: ``(C, 1, 1)`` each."""
    pre_processor = getattr(pl_module, "pre_processor", None)
    found: list[Any] = extract_transforms_by_type(getattr(pre_processor, "transform", None), Normalize)
    mean, std = (found[-1].mean, found[-1].std) if found else ([0.0], [1.0])
    return image.new_tensor(mean).view(-1, 1, 1), image.new_tensor(std).view(-1, 1, 1)


def _as_list(loaders: Any) -> list[DataLoader[Any]]:  # noqa: ANN401
    return loaders if isinstance(loaders, list) else [loaders]


def _has_anomalies(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader serves anomalous images; a data set that cannot say is taken to, as anomalib does."""
    return bool(getattr(loader.dataset, "has_anomalous", True))


def _some_images(loader: DataLoader[Any], pl_module: LightningModule) -> tuple[Tensor, list[str]]:
    """Evenly spaced training images, as the model sees them, ``(N, 3, H, W)``, ``N`` up to 64, and their files."""
    dataset: Any = loader.dataset
    indices = range(0, len(dataset), max(1, len(dataset) // MAX_NORMAL_IMAGES))[:MAX_NORMAL_IMAGES]
    items = [dataset[index] for index in indices]
    images = torch.stack([item.image for item in items]).to(pl_module.device)
    paths = [item.image_path for item in items if getattr(item, "image_path", None)]
    transform: Any = getattr(pl_module.pre_processor, "transform", None)
    return transform(images) if transform else images, paths
