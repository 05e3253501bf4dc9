"""Load AnoSeg's segmentation networks from a checkpoint, to train only the detector."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel
from anomalib_anoseg.training.checkpoints import check_trained, explain_misfit, read_checkpoint

PREFIX, DETECTOR = "model.", "detector."


def load_segmentation(
    model: AnoSegModel, path: str | Path, own: Mapping[str, Any], shaping: Mapping[str, Callable[[Any], object]]
) -> None:
    """Load all weights but the detector's, and the region that does not count, if the checkpoint has one.

    Args:
        model: Takes the weights; its detector stays as it is.
        path: A checkpoint of AnoSeg, with or without a detector.
        own: The arguments of the model.
        shaping: Names of those that shape the networks, see
            :func:`~anomalib_anoseg.training.checkpoints.explain_misfit`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the checkpoint is damaged, not AnoSeg's, or of another shape; the message tells what to do.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"detector.segmentation_checkpoint: there is no file {path}. Give the checkpoint of a trained AnoSeg, "
            "such as results/AnoSeg/DATA/CATEGORY/latest/weights/lightning/model.ckpt."
        )
    try:
        checkpoint = read_checkpoint(path)
        weights = {
            name.removeprefix(PREFIX): weight
            for name, weight in checkpoint["state_dict"].items()
            if name.startswith(PREFIX) and not name.startswith(PREFIX + DETECTOR)
        }
        check_trained(weights, f"The checkpoint {path}")
        model.region.check_saved(weights, own.get("ignore_mask"))
    except ValueError as error:
        raise ValueError(f"detector.segmentation_checkpoint: {error}") from error
    try:
        found = model.load_state_dict(weights, strict=False)
        expected = {name for name in model.state_dict() if not name.startswith(DETECTOR)}
        if not found.unexpected_keys and expected == weights.keys():
            return
        reason = "its networks differ"
    except RuntimeError as error:
        reason = one_line(error).rstrip(".")
    networks = {name: alike for name, alike in shaping.items() if name not in {"detector.enabled", "image_size"}}
    misfit = explain_misfit(checkpoint.get("hyper_parameters", {}), own, networks)
    raise ValueError(
        f"detector.segmentation_checkpoint {path} does not fit. {misfit or f'Is it a checkpoint of AnoSeg? {reason}.'}"
    )
