"""Checks of AnoSeg's arguments that depend on each other."""

from typing import get_args

from anomalib_anoseg.models.anoseg.torch_model import ImageScore
from anomalib_anoseg.transforms.base import check_value


def check_frozen(freeze_encoder: bool, is_pre_trained: bool, coordinates: bool) -> None:
    """Check whether an encoder that does not learn has something to know.

    Raises:
        ValueError: If it has not; the message says what to set.
    """
    if freeze_encoder and (coordinates or not is_pre_trained):
        raise ValueError(
            "freeze_encoder=True needs pre_trained, or it would keep random weights, and coordinates=False, or its "
            f"first layer would see what it cannot learn to read; got pre_trained={is_pre_trained} and "
            f"coordinates={coordinates}."
        )


def check_detector(
    detector: bool, share: float, segmentation_checkpoint: str | None, image_score: str, beta: float
) -> None:
    """Check what only a model with a detector can have.

    Raises:
        ValueError: If one is out of range, or needs a detector; the message names it.
    """
    check_value("detector_share", share, 0.01, 0.99)
    check_value("detector_beta", beta, 0.0, 1e6)
    if image_score not in get_args(ImageScore):
        raise ValueError(f"image_score must be one of {get_args(ImageScore)}, got {image_score!r}.")
    if image_score == "detector" and not detector:
        raise ValueError("image_score='detector' needs detector=True, and a training with it.")
    if segmentation_checkpoint is not None and not detector:
        raise ValueError("segmentation_checkpoint is for a training of the detector alone, which needs detector=True.")
