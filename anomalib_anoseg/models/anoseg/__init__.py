"""AnoSeg: anomaly segmentation learned from hard-augmented patches (arXiv 2110.03396)."""

from anomalib_anoseg.models.anoseg.lightning_model import AnoSeg

__all__ = ["AnoSeg"]
