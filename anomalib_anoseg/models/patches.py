"""AnoSeg's patches, which SGSF may paste on some of its images. What the paper leaves open is marked [choice]."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from anomalib_anoseg.models.settings import Settings, named_in
from anomalib_anoseg.transforms import CutPaste, HardCutPaste
from anomalib_anoseg.transforms.saliency import Saliency


@dataclass(frozen=True)
class PatchSettings(Settings):
    """Patches, the anomalies that are pasted on normal images.

    Args:
        hard: Whether patches are cut from a rotated, permuted and jittered image; otherwise plain CutPaste.
        hard_p: Probability of rotation, permutation and jitter each, in ``[0, 1]``. The default is the paper's.
        jitter: Amounts of brightness, contrast and saturation, each in ``[0, 1]``, and hue, in ``[0, 0.5]`` [choice].
        area: Range of a patch's area as a fraction of the image's, within ``[0.0001, 1]`` [choice].
        aspect: Range of its width over its height, within ``[0.05, 20]`` [choice].
        rotation: Largest angle in degrees by which patches are rotated either way, 0 to 180 [choice].
        rotation_p: Probability of rotating a patch, in ``[0, 1]`` [choice].
        count: Patches per image, 1 to 100. The paper's is 1.
        opacity: Range of a patch's weight over the image below, within ``[0.01, 1]``, so that faint defects are learned
            too. The paper's is ``[1, 1]``.
        softness: Range of the width of a patch's soft rim, across which that weight rises from 0, as a fraction of the
            way from rim to centre, within ``[0, 1]``. The paper's is ``[0, 0]``, hard rims.
        mark: Whether the mask marks the whole patch or those of its pixels that changed. The paper's is ``patch``.
        saliency: Where patches are pasted: ``none`` for anywhere; or on the object, as defects are, found by
            ``border_contrast``, ``spectral_residual``, or a folder of maps, made by any tool, of all normal images,
            held-out ones too. The paper's is ``none``.
    """

    group: ClassVar[str] = "patches"
    former_prefix: ClassVar[str] = "patch_"

    hard: bool = True
    hard_p: float = 0.5
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.2)
    area: tuple[float, float] = (0.02, 0.2)
    aspect: tuple[float, float] = (0.3, 3.3)
    rotation: float = 45.0
    rotation_p: float = 0.5
    count: int = 1
    opacity: tuple[float, float] = (1.0, 1.0)
    softness: tuple[float, float] = (0.0, 0.0)
    mark: Literal["patch", "changed"] = "patch"
    saliency: str = "none"

    def check(self) -> None:
        """Let the transform check its arguments, except saliency maps, which it would look for on the disk."""
        self.create_transform("none")

    def create_transform(self, saliency: str | Saliency | None = None) -> CutPaste:
        """Create the transform that pastes patches; ``saliency`` overrides the setting of this name."""
        patches: dict[str, Any] = asdict(self) | ({} if saliency is None else {"saliency": saliency})
        kind: type[CutPaste] = HardCutPaste if patches.pop("hard") else CutPaste
        if kind is CutPaste:
            del patches["hard_p"], patches["jitter"]
        with named_in(self.group):
            return kind(**patches)
