"""AnoSeg's anomalies, for training and calibration: pasted patches, and noise-shaped anomalies among them."""

import copy
from collections.abc import Mapping
from typing import Any

from anomalib_anoseg.models.anoseg.settings import NoiseSettings, PatchSettings
from anomalib_anoseg.models.settings import named_in
from anomalib_anoseg.transforms import CutPaste, NoiseTextures, OneOf, SaliencyPerlin, Textures

Augmenter = CutPaste | OneOf


def create_augmenter(patches: PatchSettings, noise: NoiseSettings) -> Augmenter:
    """Create the augmenter: it pastes patches or, on a share of the images, a noise-shaped anomaly.

    The noise shows images of the ``"batch"``, the ``"noise"`` itself, or pictures in a folder.
    """
    pasted = patches.create_transform()
    if not noise.share:
        return pasted
    textures: Textures | str | None = {"batch": None, "noise": NoiseTextures()}.get(noise.textures, noise.textures)
    with named_in(noise.group):
        shaped = SaliencyPerlin(pasted.saliency, textures=textures, mark=noise.mark, rotation_p=0.0, p=1.0)
    return OneOf([pasted, shaped], [1 - noise.share, noise.share])


def change_ranges(augmenter: Augmenter, changes: Mapping[str, tuple[float, ...]]) -> Augmenter:
    """Copy an augmenter with other ranges; each kind takes those that it knows."""
    if isinstance(augmenter, OneOf):
        kinds: Any = augmenter.kinds
        return OneOf([_change(kind, changes) for kind in kinds], augmenter.flags["weights"])
    return _change(augmenter, changes)


def _change(kind: Any, changes: Mapping[str, tuple[float, ...]]) -> Any:  # noqa: ANN401
    changed = copy.copy(kind)
    changed.flags = {name: changes.get(name, value) for name, value in kind.flags.items()}
    return changed
