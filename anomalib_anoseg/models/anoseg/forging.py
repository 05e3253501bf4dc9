"""What AnoSeg learns from and is calibrated on: pasted patches, and noise-shaped anomalies among them."""

import copy
from collections.abc import Mapping
from typing import Any, Literal

from anomalib_anoseg.transforms import CutPaste, HardCutPaste, NoiseTextures, OneOf, SaliencyPerlin, Textures
from anomalib_anoseg.transforms.base import check_value

Augmenter = CutPaste | OneOf


def create_patches(hard: Mapping[str, Any] | None, saliency: str, arguments: Mapping[str, Any]) -> CutPaste:
    """Create what pastes patches; ``hard`` are the arguments of hard augmentation, if there shall be any."""
    if hard is None:
        return CutPaste(**arguments, saliency=saliency)
    return HardCutPaste(**hard, **arguments, saliency=saliency)


def add_noise(
    patches: CutPaste, perlin_share: float, perlin_textures: str, perlin_mark: Literal["noise", "changed"]
) -> Augmenter:
    """Give a share of the images a noise-shaped anomaly in place of patches, where these would lie, too.

    What shows through are images of the ``"batch"``, the ``"noise"`` itself, or pictures in a folder.
    """
    check_value("perlin_share", perlin_share, 0.0, 1.0)
    if not perlin_share:
        return patches
    textures: Textures | str | None = {"batch": None, "noise": NoiseTextures()}.get(perlin_textures, perlin_textures)
    noise = SaliencyPerlin(patches.saliency, textures=textures, mark=perlin_mark, rotation_p=0.0, p=1.0)
    return OneOf([patches, noise], [1 - perlin_share, perlin_share])


def change_ranges(augmenter: Augmenter, changes: Mapping[str, tuple[float, ...]]) -> Augmenter:
    """Copy what forges anomalies, with other ranges; each kind takes those that it has."""
    if isinstance(augmenter, OneOf):
        kinds: Any = augmenter.kinds
        return OneOf([_change(kind, changes) for kind in kinds], augmenter.flags["weights"])
    return _change(augmenter, changes)


def _change(kind: Any, changes: Mapping[str, tuple[float, ...]]) -> Any:  # noqa: ANN401
    changed = copy.copy(kind)
    changed.flags = {name: changes.get(name, value) for name, value in kind.flags.items()}
    return changed
