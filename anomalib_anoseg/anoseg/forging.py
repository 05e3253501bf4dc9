"""What AnoSeg learns from and is calibrated on: pasted patches, and noise-shaped anomalies among them."""

import copy
from collections.abc import Mapping
from typing import Any

from anomalib_anoseg.transforms import CutPaste, HardCutPaste, OneOf, SaliencyPerlin
from anomalib_anoseg.transforms.base import check_value


def create_patches(hard: Mapping[str, Any] | None, saliency: str, arguments: Mapping[str, Any]) -> CutPaste:
    """Create what pastes patches: cut from hard-augmented images by the arguments ``hard``, or plain ones."""
    if hard is None:
        return CutPaste(**arguments, saliency=saliency)
    return HardCutPaste(**hard, **arguments, saliency=saliency)


def mix(patches: CutPaste, perlin_share: float) -> CutPaste | OneOf:
    """Put noise-shaped anomalies in the place of a share of the patches, and on the same objects."""
    check_value("perlin_share", perlin_share, 0.0, 1.0)
    if not perlin_share:
        return patches
    noise = SaliencyPerlin(patches.saliency, rotation_p=0.0, p=1.0)
    return OneOf([patches, noise], [1 - perlin_share, perlin_share])


def change_patches(augmenter: CutPaste | OneOf, changes: Mapping[str, tuple[float, ...]]) -> CutPaste:
    """Copy what pastes the patches, with other ranges."""
    patches: Any = augmenter.kinds[0] if isinstance(augmenter, OneOf) else augmenter
    changed = copy.copy(patches)
    changed.flags = {**patches.flags, **changes}
    return changed
