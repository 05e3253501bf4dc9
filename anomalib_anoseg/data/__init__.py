"""Data that needs no download: views of photographs that scikit-image ships, with drawn defects."""

from anomalib_anoseg.data.demo_textures import DemoTextures

__all__ = ["DemoTextures"]
