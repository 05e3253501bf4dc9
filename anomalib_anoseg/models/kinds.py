"""Further kinds of anomaly, which either model may forge on some of its images in place of its own."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from anomalib_anoseg.models.settings import Settings
from anomalib_anoseg.transforms import (
    Cracks,
    CutPaste,
    LocalBlur,
    LocalShade,
    LocalWarp,
    MissingPart,
    OneOf,
    SyntheticAnomaly,
)
from anomalib_anoseg.transforms.saliency import Saliency

# How each kind is forged; `anomalib-anoseg preview` shows them.
CREATE: dict[str, Callable[..., SyntheticAnomaly]] = {
    "cracks": Cracks,
    "scratches": partial(Cracks, width=(0.004, 0.015), branches=0, bend=0.15, strength=(0.1, 0.6), light_p=0.6),
    "missing": MissingPart,
    "deformed": LocalWarp,
    "uneven": partial(LocalShade, area=(0.05, 0.4), softness=(0.6, 1.0), strength=(0.06, 0.3), tint=0.0),
    "stains": partial(
        LocalShade, area=(0.002, 0.05), softness=(0.05, 0.5), strength=(0.1, 0.5), tint=0.5, light_p=0.25
    ),
    "blurred": LocalBlur,
}


@dataclass(frozen=True)
class KindSettings(Settings):
    """Shares of the images with anomalies of other kinds, in place of the model's own [ours].

    A network narrows to what is forged; ``anomalib-anoseg preview`` shows each kind. Shares add up to 1 at most.

    Args:
        cracks: Share of thin, branching lines, in ``[0, 1]``.
        scratches: Share of thin strokes, straight or hardly bent, darker or lighter, in ``[0, 1]``.
        missing: Share of broken parts, which show what lies at the border of the image, in ``[0, 1]``.
        deformed: Share of bent, dented or stretched parts, in ``[0, 1]``.
        uneven: Share of wide, soft areas of light or shade, in ``[0, 1]``.
        stains: Share of small, soft, darker or tinted spots, in ``[0, 1]``.
        blurred: Share of smeared or worn parts, in ``[0, 1]``.
    """

    group: ClassVar[str] = "kinds"

    cracks: float = 0.0
    scratches: float = 0.0
    missing: float = 0.0
    deformed: float = 0.0
    uneven: float = 0.0
    stains: float = 0.0
    blurred: float = 0.0

    def check(self) -> None:
        """Check the shares, each and together.

        Raises:
            ValueError: If one is out of range, or they add up to more than 1.
        """
        self.within(0.0, 1.0, *asdict(self))
        if self.total > 1:
            raise ValueError(f"kinds: the shares must add up to 1 at most, got {self.total:g}.")

    @property
    def total(self) -> float:
        """Share of the images that these kinds take."""
        return round(sum(asdict(self).values()), 9)

    def mix(
        self, own: Mapping[str, tuple[SyntheticAnomaly, float]], saliency: Saliency, p: float = 1.0
    ) -> SyntheticAnomaly:
        """Create an augmenter that forges a model's own anomalies and these, each on its share of the images.

        Args:
            own: The model's transforms by name, with their shares of the images that no other kind takes.
            saliency: Where the other kinds lie.
            p: Probability of an anomaly, for other kinds and own ones among them.

        Returns:
            The model's only transform as it is, if there is no other.
        """
        if not self.total and len(own) == 1:
            return next(iter(own.values()))[0]
        rest = 1 - self.total
        kinds = {name: (kind, share * rest) for name, (kind, share) in own.items() if rest}
        kinds |= {name: (CREATE[name](saliency=saliency), share) for name, share in asdict(self).items() if share}
        transforms, weights = zip(*kinds.values(), strict=True)
        return OneOf(transforms, weights, p=p, names=tuple(kinds))


def change_ranges(augmenter: SyntheticAnomaly, changes: Mapping[str, Any]) -> SyntheticAnomaly:
    """Copy an augmenter with other ranges; each kind takes those that it knows.

    Of ``area``, only patches take another: noise has none, and for other kinds it means something else. Of
    ``rotation_p``, patches do not: theirs turns the patch and not the image.
    """
    changed = copy.copy(augmenter)
    if isinstance(augmenter, OneOf):
        kinds: Any = augmenter.kinds
        parts = [change_ranges(kind, changes) for kind in kinds]
        return OneOf(parts, augmenter.flags["weights"], p=augmenter.p, names=augmenter.names)
    foreign = "rotation_p" if isinstance(augmenter, CutPaste) else "area"
    known = {name: changes[name] for name in changes if name != foreign}
    changed.flags = {name: known.get(name, value) for name, value in augmenter.flags.items()}
    return changed
