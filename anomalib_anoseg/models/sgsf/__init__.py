"""SGSF: segmentation guided by features of normal images (arXiv 2209.12440; its journal version is NIGSF)."""

from anomalib_anoseg.models.sgsf.lightning_model import SGSF

__all__ = ["SGSF"]
