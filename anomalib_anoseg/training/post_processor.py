"""Thresholds without defective parts: calibration on held-out normal images and on defects forged on them.

anomalib's post-processor finds thresholds and the range of scores on the validation images, which for most users are
normal images alone: the best F1 score is then undefined, and without validation images the thresholds stay NaN. A
model that forges anomalies can make its own labelled ones.
"""

from collections.abc import Sequence
from functools import partial
from itertools import compress
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from anomalib_anoseg.common.checks import check_finite, check_value
from anomalib_anoseg.common.one_or_many import as_list
from anomalib_anoseg.training import held_out
from anomalib_anoseg.training.calibrated import BUFFER_PREFIX, CalibratedPostProcessor
from anomalib_anoseg.training.calibration import (
    Calibratable,
    CalibrationAnomalies,
    Labelled,
    Prediction,
    calibrate,
    count_draws,
    forge_and_predict,
    name_of_score,
    predict,
    with_all_scores,
)
from anomalib_anoseg.training.held_out import MAX_NORMAL_IMAGES
from anomalib_anoseg.training.operating_points import LIMITS, check_supported, describe, set_thresholds
from anomalib_anoseg.transforms import SyntheticAnomaly

MAX_FORGED_IMAGES = 10_000  # a larger ``forged_images`` is a mistake
# During training a rough threshold suffices for checkpoints: the last validation finds a better one.
FORGED_DURING_TRAINING = 20
# Images per forward pass where no data loader sets their number.
CHUNK = 8


class SelfCalibratingPostProcessor(CalibratedPostProcessor):
    """anomalib's post-processor, calibrated on forged anomalies where there are no real ones.

    It works with any image model: :class:`~anomalib_anoseg.training.calibration.Calibratable` models declare their
    augmenters, others need ``augmenter``. Anomalies are forged on images in ``[0, 1]``; a normalisation at the end of
    the model's pre-processor is undone for that and done again.

    - Validation images with anomalies among them: used as anomalib does.
    - Normal validation images alone: each of the first 64 is predicted without and with a forged anomaly, repeatedly
      until there are ``forged_images``: otherwise the threshold depends on a few random anomalies. Validations during a
      training forge at most 20, also the one after which ``EarlyStopping`` ends it; ``Engine.validate`` forges all.
      Large images get fewer anomalies than small ones, to save memory, but at least one each. Where a model declares
      other anomalies for maps, the pixel threshold and the range of maps are found on those alone, and those of image
      scores on both: a network marks the bold anomalies of its training with more confidence than real defects, so that
      the best threshold for them is too high for defects. An image can then have a marked mask though its image score
      is normal.
    - No validation images: the same with training images, with a warning, because a model knows those too well.

    No image is predicted twice: the calibration reuses the validation's predictions for normal images. All image scores
    of a model are calibrated, and :meth:`choose` selects the one in use.

    With ``false_alarm_rate``, thresholds are set so that no more than that share of good pictures is called bad, and no
    more has any marked pixel, see :mod:`~anomalib_anoseg.training.operating_points`. All held-out good pictures count
    then, and defects only tell what this costs. A table of such operating points is made in any case.

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
        false_alarm_rate: Sets both thresholds by held-out good pictures, in ``[0.0001, 0.5]``. ``None`` sets them where
            F1 is best.
        **kwargs: Arguments of :class:`anomalib.post_processing.PostProcessor`.

    Attributes:
        calibrated_on: Where thresholds and range came from.
        image_score: Name of the image score in use, of a model with several.

    Raises:
        ValueError: If a number is out of bounds or not finite.

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
        false_alarm_rate: float | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**kwargs)
        check_value("forged_images", forged_images, 1, MAX_FORGED_IMAGES)
        for name in ("image_sensitivity", "pixel_sensitivity"):
            check_finite(name, getattr(self, name))
        check_finite("calibration_seed", calibration_seed)
        if false_alarm_rate is not None:
            check_value("false_alarm_rate", false_alarm_rate, *LIMITS)
        self.calibration_seed = calibration_seed
        self.augmenter = augmenter
        # A model of anomalib's loads its checkpoint with anomalib's post-processor, which knows no tables.
        self.operating.is_saved = augmenter is None
        self.forged_images = forged_images
        self.use_training_images = use_training_images
        self.false_alarm_rate = false_alarm_rate
        self._batches: list[Labelled] = []
        self._seen, self._images, self._wanted = 0, 1, 1

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "calibration_seed", "forged_images")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a false alarm rate before a training whose held-out pictures cannot support it."""
        del pl_module
        counts = held_out.count_data(trainer) if stage == "fit" else None
        if counts is not None and self.false_alarm_rate is not None:
            check_supported(self.false_alarm_rate, *counts)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check whether there are real anomalies to calibrate on."""
        self._batches = []
        self.operating.reset()
        loaders = as_list(trainer.val_dataloaders)
        has_anomalies = any(held_out.has_anomalies(loader) for loader in loaders)
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
                if outputs.gt_label is not None:
                    is_good = ~outputs.gt_label.bool()
                    paths = list(compress(held_out.paths_of(outputs), is_good.tolist()))
                    looks = held_out.measure_looks(pl_module, outputs.image.as_subclass(Tensor)[is_good])
                    self.operating.add(prediction.select(is_good), paths, looks)
                return
            # Anomalies are forged on the first images alone; all count as good ones.
            room = max(0, MAX_NORMAL_IMAGES - self._seen)
            for part in (slice(room), slice(room, None)):
                image = outputs.image[part].as_subclass(Tensor)
                if len(image) == 0:
                    continue
                parts = (None if value is None else value[part] for value in (outputs.pred_score, outputs.anomaly_map))
                prediction = with_all_scores(network, image, *parts)
                paths = held_out.paths_of(outputs)[part]
                self.operating.add(prediction, paths, held_out.measure_looks(pl_module, image))
                if part.start is None:
                    self._forge(pl_module, image, prediction, paths)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute thresholds, ranges and operating points.

        Raises:
            ValueError: If there are too few good pictures for ``false_alarm_rate``.
        """  # noqa: DOC502 - what checks it raises
        rate = None if trainer.sanity_checking else self.false_alarm_rate
        found, good_images = calibrate(self._batches), self.operating.compute(self._batches, rate)
        self._batches, self.threshold_rate, self.appearance = [], rate, self.operating.appearance
        if trainer.state.fn == TrainerFn.FITTING and trainer.train_dataloader is not None:
            dataset: Any = as_list(trainer.train_dataloader)[0].dataset
            self.trained_on = {"images": len(dataset), "held_out": good_images, "epochs": trainer.current_epoch + 1}
        if rate is not None:
            check_supported(rate, good_images)
            found = set_thresholds(found, self.operating.tables, rate)
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
        # Lightning counts the batches when it first validates, which may be in a later epoch.
        is_validated = any(trainer.num_val_batches) or (trainer.enable_validation and not trainer.num_val_batches)
        if not self.use_training_images or is_validated or self._find_anomalies(pl_module) is None:
            return
        self.calibrated_on = "forged on training images"
        pl_module.on_validation_model_eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            images, paths = held_out.some_images(as_list(trainer.train_dataloader)[0], pl_module)
            self._start(trainer, len(images))
            for start in range(0, len(images), CHUNK):
                image = images[start : start + CHUNK]
                self._forge(pl_module, image, predict(pl_module.model, image), paths[start : start + CHUNK])
        pl_module.train()
        self.on_validation_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report once what the thresholds were calibrated on, and the operating points."""
        del trainer, pl_module
        thresholds = f"image {self.image_threshold:.3f}, pixel {self.pixel_threshold:.3f}"
        rate = "" if self.threshold_rate is None else f", false alarm rate {self.threshold_rate:g}"
        message = f"Thresholds ({thresholds}) calibrated on: {self.calibrated_on}{rate}."
        if self.calibrated_on == "forged on training images":
            rank_zero_warn(f"{message} There were no validation images: hold some out (val_split_mode: from_train).")
        else:
            rank_zero_info(message)
        if points := self.operating_points:
            is_real = self.calibrated_on == "anomalous images"
            rank_zero_info(describe(points, "defects" if is_real else "forged defects"))

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
        colours = held_out.normalisation(pl_module, image)
        network = partial(predict, pl_module.model)
        self._batches += forge_and_predict(network, image, normal, anomalies, seeds, paths, colours)
        self._seen += len(image)

    def _find_anomalies(self, pl_module: LightningModule) -> CalibrationAnomalies | None:
        if not isinstance(pl_module, Calibratable):
            return None if self.augmenter is None else CalibrationAnomalies(self.augmenter)
        if self.augmenter is None:
            return pl_module.calibration_anomalies
        return CalibrationAnomalies(pl_module.region.outside(self.augmenter))
