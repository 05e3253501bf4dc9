"""AnoSeg's, SGSF's and DRAEM's augmentations as batched kornia transforms, usable with any model.

They run on the device of the images, draw from the global random stream or from their own (``manual_seed``), replay
from their parameters, and work in kornia's ``AugmentationSequential`` with ``data_keys=["input", "mask"]``.
"""

from anomalib_anoseg.transforms.base import ForgedBatch, SeededAugmentation, SyntheticAnomaly
from anomalib_anoseg.transforms.color_jitter import RandomColorJitter
from anomalib_anoseg.transforms.cracks import Cracks
from anomalib_anoseg.transforms.cut_paste import CutPaste, HardCutPaste
from anomalib_anoseg.transforms.draem_perlin import DraemPerlin
from anomalib_anoseg.transforms.half_swap import RandomHalfSwap
from anomalib_anoseg.transforms.local_blur import LocalBlur
from anomalib_anoseg.transforms.local_shade import LocalShade
from anomalib_anoseg.transforms.local_warp import LocalWarp
from anomalib_anoseg.transforms.missing_part import MissingPart
from anomalib_anoseg.transforms.one_of import OneOf
from anomalib_anoseg.transforms.outside import Outside
from anomalib_anoseg.transforms.perlin_anomaly import PerlinAnomaly
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.rotation import RandomQuarterRotation
from anomalib_anoseg.transforms.saliency_perlin import SaliencyPerlin
from anomalib_anoseg.transforms.textures import BatchTextures, NoiseTextures, PatternTextures, TextureFolder, Textures

__all__ = [
    "BatchTextures",
    "Cracks",
    "CutPaste",
    "DraemPerlin",
    "ForgedBatch",
    "HardCutPaste",
    "LocalBlur",
    "LocalShade",
    "LocalWarp",
    "MissingPart",
    "NoiseTextures",
    "OneOf",
    "Outside",
    "PatternTextures",
    "PerlinAnomaly",
    "RandomColorJitter",
    "RandomHalfSwap",
    "RandomQuarterRotation",
    "RandomStream",
    "SaliencyPerlin",
    "SeededAugmentation",
    "SyntheticAnomaly",
    "TextureFolder",
    "Textures",
]
