"""What AnoSeg learns from and is calibrated on: pasted patches, and noise-shaped anomalies among them."""

import copy
from collections.abc import Mapping
from typing import Any

from anomalib_anoseg.transforms import CutPaste, HardCutPaste, OneOf, SaliencyPerlin
from anomalib_anoseg.transforms.base import check_value


def create_patches(hard: Mapping[str, Any] | None, saliency: str, arguments: Mapping[str, Any]) -> CutPaste:
    """Create what pastes patches; ``hard`` are the arguments of hard augmentation, if there shall be any."""
    if hard is None:
        return CutPaste(**arguments, saliency=saliency)
    return HardCutPaste(**hard, **arguments, saliency=saliency)


def add_noise(patches: CutPaste, perlin_share: float) -> CutPaste | OneOf:
    """Give a share of the images a noise-shaped anomaly in place of patches, where these would lie, too."""
    check_value("perlin_share", perlin_share, 0.0, 1.0)
    if not perlin_share:
        return patches
    noise = SaliencyPerlin(patches.saliency, rotation_p=0.0, p=1.0)
    return OneOf([patches, noise], [1 - perlin_share, perlin_share])


def copy_patches(augmenter: CutPaste | OneOf, changes: Mapping[str, tuple[float, ...]]) -> CutPaste:
    """Copy what pastes the patches, with other ranges."""
    patches: Any = augmenter.kinds[0] if isinstance(augmenter, OneOf) else augmenter
    changed = copy.copy(patches)
    changed.flags = {**patches.flags, **changes}
    return changed
