"""Auxiliary textures, which become the anomalies: from a folder, from the batch itself, or from noise."""

from anomalib_anoseg.transforms.textures.base import Textures
from anomalib_anoseg.transforms.textures.folder import TextureFolder, create_textures
from anomalib_anoseg.transforms.textures.generated import BatchTextures, NoiseTextures

__all__ = ["BatchTextures", "NoiseTextures", "TextureFolder", "Textures", "create_textures"]
