"""SGSF: segmentation guided by features of normal images (arXiv 2209.12440; its journal version is NIGSF)."""

# Importing anomalib's models first runs the registration hook while nothing of this package is half imported.
import anomalib.models  # noqa: F401

from anomalib_anoseg.models.sgsf.lightning_model import SGSF

__all__ = ["SGSF"]
