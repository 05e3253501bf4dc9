"""A threshold for the image score that is not in use, so that it can be chosen after training.

AnoSeg with a detector has two image scores of different ranges. A checkpoint carries the calibration of both.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel, ImageScore
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor

# What belongs to the image score in a post-processor's state.
IMAGE_LEVEL = ("_image_threshold", "image_min", "image_max")
# What decides which anomalies it is calibrated on.
SETTINGS = ("calibration_seed", "forger", "forged_images", "use_training_images")


class _ImageLevel(PostProcessor):
    """Calibrates image scores and no maps."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Take a batch's scores into the calibration."""
        scores = ImageBatch(image=outputs.image, gt_label=outputs.gt_label, pred_score=outputs.pred_score)
        super().on_validation_batch_end(trainer, pl_module, scores, *args, **kwargs)


class _ScoreCalibration(SelfCalibratingPostProcessor, _ImageLevel):
    """The usual calibration, of image scores alone."""


class OtherScore(nn.Module, Callback):
    """Calibrates the image score that is not in use, when and as the post-processor calibrates the one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.calibration = _ScoreCalibration()

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Forge what the post-processor forges."""
        del trainer
        self._follow(pl_module.post_processor)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Look whether there are real anomalies to calibrate on."""
        self._follow(pl_module.post_processor)
        self.calibration.on_validation_epoch_start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,  # noqa: ANN401
        outputs: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Take a batch into the calibration, forged if need be."""
        with _other_score(pl_module.model):
            if self.calibration.calibrated_on == "anomalous images":
                # As a plain tensor, as in the validation step.
                score = pl_module.model(outputs.image.as_subclass(Tensor)).pred_score
                outputs = outputs.update(in_place=False, pred_score=score)
            self.calibration.on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute threshold and range."""
        self.calibration.on_validation_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Calibrate on training images if there are no others."""
        with _other_score(pl_module.model):
            self.calibration.on_train_epoch_end(trainer, pl_module)

    def _follow(self, post_processor: SelfCalibratingPostProcessor) -> None:
        for name in SETTINGS:
            setattr(self.calibration, name, getattr(post_processor, name))


@contextmanager
def _other_score(model: AnoSegModel) -> Generator[None, None, None]:
    own: ImageScore = model.image_score
    model.image_score = "detector" if own == "map" else "map"
    try:
        yield
    finally:
        model.image_score = own


def swap_calibrations(checkpoint: dict[str, Any], own: str, other: str) -> None:
    """Put the calibration of the other score in the place of the one in use, in a checkpoint that was loaded.

    Lightning saves components that are callbacks twice: among the weights, and among the callbacks.

    Args:
        checkpoint: Is changed.
        own: Key of the post-processor among the callbacks.
        other: Key of :class:`OtherScore` there.

    Example:
        >>> checkpoint = {"state_dict": {"post_processor.image_min": 0, "other_score.calibration.image_min": 1}}
        >>> swap_calibrations(checkpoint, "SelfCalibratingPostProcessor", "OtherScore")
        >>> checkpoint["state_dict"]
        {'post_processor.image_min': 1, 'other_score.calibration.image_min': 0}
    """
    weights, callbacks = checkpoint["state_dict"], checkpoint.get("callbacks", {})
    _swap(weights, "post_processor.", weights, "other_score.calibration.")
    _swap(callbacks.get(own, {}), "", callbacks.get(other, {}), "calibration.")


def _swap(first: dict[str, Any], first_prefix: str, second: dict[str, Any], second_prefix: str) -> None:
    for name in IMAGE_LEVEL:
        one, two = first_prefix + name, second_prefix + name
        if one in first and two in second:
            first[one], second[two] = second[two], first[one]
