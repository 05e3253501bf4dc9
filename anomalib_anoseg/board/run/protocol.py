"""One protocol for all models: the same metrics, and thresholds found in the same way.

Each model gets all metrics of :func:`~anomalib_anoseg.metrics.segmentation_evaluator`, and thresholds calibrated on
anomalies forged on held-out good images by one augmentation for all. anomalib's own thresholds need defective
validation images: without them they are undefined, and where test images serve as such, they are chosen on test data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomalib_anoseg.metrics import segmentation_evaluator
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.transforms import HardCutPaste

if TYPE_CHECKING:  # importing models registers baselines, which need this module
    from anomalib.models.components import AnomalibModule

# Small, long, faint and rotated, as real defects are. The shipped configurations train AnoSeg with them, but these lie
# anywhere in the image, and AnoSeg finds its own pixel threshold on smaller and fainter ones.
FORGED_DEFECTS: dict[str, Any] = {
    "area": (0.001, 0.1),
    "aspect": (0.05, 20.0),
    "rotation": 90.0,
    "rotation_p": 0.8,
    "count": 3,
    "opacity": (0.15, 1.0),
    "softness": (0.0, 1.0),
    "mark": "changed",
}


class Trivial:
    """Base of the models that every other has to beat."""


def apply(model: AnomalibModule) -> AnomalibModule:
    """Give a model the metrics and the calibration of a board; trivial models keep their fixed thresholds."""
    model.evaluator = segmentation_evaluator()
    if not is_trivial(model):
        augmenter = HardCutPaste(**FORGED_DEFECTS)
        # One draw on each image, as on all boards so far: their figures stay comparable.
        model.post_processor = SelfCalibratingPostProcessor(
            augmenter=augmenter, forged_images=1, use_training_images=False
        )
    return model


def is_trivial(model: AnomalibModule) -> bool:
    """Tell whether every other model has to beat this one."""
    return isinstance(model, Trivial)


def as_figures(results: dict[str, Any]) -> dict[str, float | None]:
    """Name the results of a test as rows do: what anomalib calls AUPR is average precision.

    Example:
        >>> as_figures({"pixel_AUPR": 0.5})
        {'pixel_AP': 0.5}
    """
    return {name.replace("AUPR", "AP") if name.endswith("AUPR") else name: float(results[name]) for name in results}
