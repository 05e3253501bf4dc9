"""Auxiliary textures, which become the anomalies: from a folder, from the batch itself, from noise, or drawn."""

from anomalib_anoseg.transforms.textures.base import Textures
from anomalib_anoseg.transforms.textures.folder import TextureFolder, create_textures
from anomalib_anoseg.transforms.textures.generated import BatchTextures, NoiseTextures
from anomalib_anoseg.transforms.textures.patterns import PatternTextures

__all__ = ["BatchTextures", "NoiseTextures", "PatternTextures", "TextureFolder", "Textures", "create_textures"]
