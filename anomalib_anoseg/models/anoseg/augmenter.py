"""AnoSeg's anomalies, for training and calibration: patches, noise-shaped anomalies and other kinds among them."""

from anomalib_anoseg.models.anoseg.settings import NoiseSettings, PatchSettings
from anomalib_anoseg.models.kinds import KindSettings
from anomalib_anoseg.models.settings import named_in
from anomalib_anoseg.transforms import NoiseTextures, SaliencyPerlin, SyntheticAnomaly, Textures


def create_augmenter(patches: PatchSettings, noise: NoiseSettings, kinds: KindSettings) -> SyntheticAnomaly:
    """Create the augmenter: it pastes patches or, on a share of the images, forges an anomaly of another kind.

    The noise shows images of the ``"batch"``, the ``"noise"`` itself, drawn ``"patterns"``, or pictures in a folder.
    """
    pasted = patches.create_transform()
    own: dict[str, tuple[SyntheticAnomaly, float]] = {"patches": (pasted, 1 - noise.share)}
    if noise.share:
        textures: Textures | str | None = {"batch": None, "noise": NoiseTextures()}.get(noise.textures, noise.textures)
        with named_in(noise.group):
            shaped = SaliencyPerlin(pasted.saliency, textures=textures, mark=noise.mark, rotation_p=0.0, p=1.0)
        own["noise"] = shaped, noise.share
    return kinds.mix(own, pasted.saliency)
