"""AnoSeg: anomaly segmentation learned from hard-augmented patches (arXiv 2110.03396)."""

# Importing anomalib's models first runs the registration hook while nothing of this package is half imported.
import anomalib.models  # noqa: F401

from anomalib_anoseg.models.anoseg.lightning_model import AnoSeg

__all__ = ["AnoSeg"]
