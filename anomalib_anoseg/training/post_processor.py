"""Thresholds without defective parts: calibration on held-out normal images and on defects forged on them.

anomalib's post-processor finds thresholds and the range of scores on the validation images, which for most users are
normal images alone: the best F1 score is then undefined, and without validation images the thresholds stay NaN. A
model that forges anomalies can make its own labelled ones.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Normalize

from anomalib_anoseg.common.checks import check_finite, check_value
from anomalib_anoseg.training.calibration import (
    Calibratable,
    CalibrationAnomalies,
    Labelled,
    Normalisation,
    Prediction,
    ScoreRange,
    calibrate,
    count_draws,
    forge_and_predict,
    name_of_score,
    predict,
    with_all_scores,
)
from anomalib_anoseg.transforms import SyntheticAnomaly

CalibrationSource = Literal["anomalous images", "forged on held-out images", "forged on training images", "none"]
# Normal images: enough for a threshold, and a bound on the cost of a calibration, which every validation repeats.
MAX_NORMAL_IMAGES = 64
MAX_FORGED_IMAGES = 10_000  # a larger ``forged_images`` is a mistake
# During training a rough threshold suffices for checkpoints: the last validation finds a better one.
FORGED_DURING_TRAINING = 20
# Images per forward pass where no data loader sets their number.
CHUNK = 8
# Scores up to this distance from the threshold, relative to the range of the calibration's scores, are linear ...
LINEAR = 0.4
# ... and the rest, up to 0 and 1, is for all scores beyond.
TAIL = 0.5 - LINEAR
# Prefix of the buffers with threshold and range of each image score, if a model has several.
BUFFER_PREFIX = "image_score_"


class SelfCalibratingPostProcessor(PostProcessor):
    """anomalib's post-processor, calibrated on forged anomalies where there are no real ones.

    It works with any image model: :class:`~anomalib_anoseg.training.calibration.Calibratable` models declare their
    augmenters, others need ``augmenter``. Anomalies are forged on images in ``[0, 1]``; a normalisation at the end of
    the model's pre-processor is undone for that and done again.

    - Validation images with anomalies among them: used as anomalib does.
    - Normal validation images alone: each of the first 64 is predicted without and with a forged anomaly, repeatedly
      until there are ``forged_images``: otherwise the threshold depends on a few random anomalies. Validations during a
      training forge at most 20. Large images get fewer anomalies than small ones, to save memory, but at least one
      each. Where a model declares other anomalies for maps, the pixel threshold and the range of maps are found on
      those alone, and those of image scores on both: a network marks the bold anomalies of its training with more
      confidence than real defects, so that the best threshold for them is too high for defects. An image can then have
      a marked mask though its image score is normal.
    - No validation images: the same with training images, with a warning, because a model knows those too well.

    No image is predicted twice: the calibration reuses the validation's predictions for normal images. All image scores
    of a model are calibrated, and :meth:`choose` selects the one in use.

    Scores and maps are normalised to ``[0, 1]`` with the threshold at 0.5, as by anomalib, but not clipped: scores
    beyond the calibration's range approach 0 and 1 and keep their order. Clipped scores would tie, and every ranking
    metric (AUROC, average precision) would suffer.

    Every validation repeats this, so that every checkpoint carries thresholds that fit its weights. They are stored
    in checkpoints and exports, and ``calibrated_on`` tells where they came from.

    Args:
        calibration_seed: Seed of the forged anomalies: every calibration uses the same ones.
        augmenter: Forges them, for both thresholds. ``None`` uses what the model declares; a model that declares
            nothing is calibrated as anomalib does.
        forged_images: Number of forged images to reach by repeated draws on each normal image, 1 to 10000. Defaults to
            ``200``.
        use_training_images: Whether training images serve if there are no validation images; otherwise thresholds stay
            undefined until a validation. Set it to ``False`` for models with a memory bank, which cannot predict before
            their training has ended.
        **kwargs: Arguments of :class:`anomalib.post_processing.PostProcessor`.

    Attributes:
        calibrated_on: Where thresholds and range came from.
        image_score: Name of the image score in use, of a model with several.

    Raises:
        ValueError: If ``forged_images`` is out of bounds, or a number is not finite.

    Example:
        >>> SelfCalibratingPostProcessor().calibrated_on
        'none'
    """

    def __init__(
        self,
        calibration_seed: int = 0,
        augmenter: SyntheticAnomaly | None = None,
        forged_images: int = 200,
        use_training_images: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**kwargs)
        check_value("forged_images", forged_images, 1, MAX_FORGED_IMAGES)
        for name in ("image_sensitivity", "pixel_sensitivity"):
            check_finite(name, getattr(self, name))
        check_finite("calibration_seed", calibration_seed)
        self.calibration_seed = calibration_seed
        self.augmenter = augmenter
        self.forged_images = forged_images
        self.use_training_images = use_training_images
        self.calibrated_on: CalibrationSource = "none"
        self.image_score: str | None = None
        self._batches: list[Labelled] = []
        self._seen, self._images, self._wanted = 0, 1, 1

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "calibration_seed", "forged_images", "calibrated_on")

    def choose(self, image_score: str) -> None:
        """Use the threshold and range of one of a model's image scores; nothing changes if it has only one."""
        self.image_score = image_score
        stored = self._buffers.get(BUFFER_PREFIX + image_score)
        if stored is not None:
            self._use("image", ScoreRange(*stored))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check whether there are real anomalies to calibrate on."""
        self._batches = []
        loaders = _as_list(trainer.val_dataloaders)
        has_anomalies = any(_has_anomalies(loader) for loader in loaders)
        is_real = has_anomalies or self._find_anomalies(pl_module) is None
        self.calibrated_on = "anomalous images" if is_real else "forged on held-out images"
        if not is_real:
            datasets: list[Any] = [loader.dataset for loader in loaders]
            self._start(trainer, sum(len(dataset) for dataset in datasets))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Add a batch and its predictions to the calibration; forge anomalies on it if there are no real ones."""
        del args, kwargs
        network: Any = pl_module.model
        with trainer.precision_plugin.val_step_context():
            if self.calibrated_on == "anomalous images":
                prediction = with_all_scores(network, outputs.image, outputs.pred_score, outputs.anomaly_map)
                self._batches.append(Labelled(prediction, outputs.gt_label, outputs.gt_mask))
            elif self._seen < MAX_NORMAL_IMAGES:
                first = slice(MAX_NORMAL_IMAGES - self._seen)
                image = outputs.image[first].as_subclass(Tensor)
                parts = (None if part is None else part[first] for part in (outputs.pred_score, outputs.anomaly_map))
                self._forge(pl_module, image, with_all_scores(network, image, *parts), _paths_of(outputs)[first])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute thresholds and ranges."""
        del trainer
        found = calibrate(self._batches)
        self._batches = []
        if len(found.images) > 1:
            for name, (threshold, *ends) in found.images.items():
                known = ends[0].new_tensor(float("nan")) if threshold is None else threshold
                self.register_buffer(BUFFER_PREFIX + name, torch.stack((known, *ends)))
        self.image_score = name_of_score(pl_module.model)
        if self.image_score in found.images:
            self._use("image", found.images[self.image_score])
        if found.maps is not None:
            self._use("pixel", found.maps)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate on training images if there are no others."""
        if not self.use_training_images or any(trainer.num_val_batches) or self._find_anomalies(pl_module) is None:
            return
        self.calibrated_on = "forged on training images"
        pl_module.on_validation_model_eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            images, paths = _some_images(_as_list(trainer.train_dataloader)[0], pl_module)
            self._start(trainer, len(images))
            for start in range(0, len(images), CHUNK):
                image = images[start : start + CHUNK]
                self._forge(pl_module, image, predict(pl_module.model, image), paths[start : start + CHUNK])
        pl_module.train()
        self.on_validation_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report once what the thresholds were calibrated on."""
        del trainer, pl_module
        thresholds = f"image {self.image_threshold:.3f}, pixel {self.pixel_threshold:.3f}"
        message = f"Thresholds ({thresholds}) calibrated on: {self.calibrated_on}."
        if self.calibrated_on == "forged on training images":
            rank_zero_warn(f"{message} There were no validation images: hold some out (val_split_mode: from_train).")
        else:
            rank_zero_info(message)

    @staticmethod
    def _normalize(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
        """Map scores to ``(0, 1)``, strictly rising, the threshold to 0.5; unchanged without a calibration."""
        if preds is None:
            return None
        threshold = torch.where(torch.isnan(threshold), (norm_min + norm_max) / 2, threshold)
        span = norm_max - norm_min
        distance = (preds - threshold) / torch.where(span > 0, span, torch.ones_like(span))
        beyond = distance.sign() * (0.5 - TAIL**2 / (distance.abs() - LINEAR + TAIL).clamp(min=TAIL))
        normalized = 0.5 + torch.where(distance.abs() <= LINEAR, distance, beyond)
        return torch.where(torch.isnan(span), preds, normalized)

    def _start(self, trainer: Trainer, images: int) -> None:
        """Start a calibration on a number of normal images."""
        goes_on = trainer.state.fn == TrainerFn.FITTING and not trainer.should_stop
        self._seen, self._images = 0, max(1, min(images, MAX_NORMAL_IMAGES))
        self._wanted = min(self.forged_images, FORGED_DURING_TRAINING) if goes_on else self.forged_images

    def _forge(self, pl_module: Any, image: Tensor, normal: Prediction, paths: Sequence[str] = ()) -> None:  # noqa: ANN401
        """Add normal images to the calibration, each as often as anomalies are forged on it."""
        anomalies = self._find_anomalies(pl_module)
        if anomalies is None:
            return
        draws = count_draws(self._wanted, self._images, image.shape[-2:])
        # No two batches, and no two draws, share a seed.
        seeds = [self.calibration_seed + self._seen + draw * MAX_NORMAL_IMAGES for draw in range(draws)]
        colours = _normalisation(pl_module, image)
        network = partial(predict, pl_module.model)
        self._batches += forge_and_predict(network, image, normal, anomalies, seeds, paths, colours)
        self._seen += len(image)

    def _find_anomalies(self, pl_module: LightningModule) -> CalibrationAnomalies | None:
        if self.augmenter is not None:
            return CalibrationAnomalies(self.augmenter)
        return pl_module.calibration_anomalies if isinstance(pl_module, Calibratable) else None

    def _use(self, level: str, found: ScoreRange) -> None:
        """Put a threshold and a range into anomalib's buffers of images or pixels."""
        values: dict[str, Tensor | None] = {}
        if self.enable_thresholding:
            values[f"_{level}_threshold"] = found.threshold
        if self.enable_normalization:
            values |= {f"{level}_min": found.low, f"{level}_max": found.high}
        for name, value in values.items():
            if value is not None:
                getattr(self, name).copy_(value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Load the saved calibrations of all image scores, and apply that of the score in use."""
        start = prefix + BUFFER_PREFIX
        saved = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(start)}
        for name in [name for name in self._buffers if name.startswith(BUFFER_PREFIX)]:
            delattr(self, name)
        for name, value in saved.items():
            self.register_buffer(name, torch.empty_like(value, device=self.image_min.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.image_score is not None:
            self.choose(self.image_score)


def _paths_of(batch: Any) -> list[str]:  # noqa: ANN401
    """Files of a batch's images; none if the data set does not provide them."""
    return list(getattr(batch, "image_path", None) or [])


def _normalisation(pl_module: LightningModule, image: Tensor) -> Normalisation:
    """Find mean and standard deviation by which the model's pre-processor normalises: ``(C, 1, 1)`` each."""
    pre_processor = getattr(pl_module, "pre_processor", None)
    found: list[Any] = extract_transforms_by_type(getattr(pre_processor, "transform", None), Normalize)
    mean, std = (found[-1].mean, found[-1].std) if found else ([0.0], [1.0])
    return Normalisation(image.new_tensor(mean).view(-1, 1, 1), image.new_tensor(std).view(-1, 1, 1))


def _as_list(loaders: Any) -> list[DataLoader[Any]]:  # noqa: ANN401
    return loaders if isinstance(loaders, list) else [loaders]


def _has_anomalies(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader serves anomalous images; one that does not say counts as anomalous."""
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
