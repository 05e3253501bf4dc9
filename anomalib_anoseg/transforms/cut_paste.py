"""CutPaste with rotated, clipped patches, plain and from hard-augmented images (AnoSeg's synthetic anomalies)."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomalib_anoseg.common.checks import check_interval, check_value
from anomalib_anoseg.transforms._tensors import add_prefix, find_changed, on_device, under_prefix
from anomalib_anoseg.transforms.base import ForgedBatch, SeededAugmentation
from anomalib_anoseg.transforms.color_jitter import MAX_JITTER, RandomColorJitter
from anomalib_anoseg.transforms.half_swap import RandomHalfSwap
from anomalib_anoseg.transforms.patches import Patches
from anomalib_anoseg.transforms.random_stream import RandomStream
from anomalib_anoseg.transforms.rotation import RandomQuarterRotation
from anomalib_anoseg.transforms.saliency import Saliency, SalientAnomaly, move_to_salient

# Grey levels are 1/255 apart: a patch that differs by less on average cannot be seen, and would be a false label.
MIN_DIFFERENCE = 1 / 255
# Largest number of draws of a patch until one differs visibly. If a patch differs with probability one half (an object
# on a plain background), one image in 16 stays normal, and its mask is empty.
ATTEMPTS = 4
# The attempts are compared on a grid of about this many pixels per side: enough for a mean over the patch.
PROBE_SIDE = 64


class CutPaste(SalientAnomaly):
    """Cut rectangles out of each image and paste them elsewhere in that image, upright or rotated.

    This is CutPaste (Li et al., arXiv 2104.04015) in the form of AnoSeg (arXiv 2110.03396, Sec. 3.1): pasted patches
    are clipped at the border, and the mask marks the pasted pixels. ``source`` transforms the image before patches are
    cut from it: see :class:`HardCutPaste`. Size, shape and angle are our choice; the paper shows about 17 % of the
    area. Several patches, transparent and soft patches, and masks of changed pixels are our additions: they imitate
    small, faint and irregular defects.

    Args:
        area: Range of a patch's area, as a fraction of the image's, within ``[0.0001, 1]``.
        aspect: Range of its width over its height, log-uniform, within ``[0.05, 20]``.
        rotation: Rotated patches are rotated by ``U(-rotation, rotation)`` degrees, ``0 <= rotation <= 180``.
        rotation_p: Probability of rotating a patch; it stays upright otherwise.
        count: Number of patches per image, 1 or more.
        opacity: Range of a patch's weight over the pixels that it covers, within ``[0.01, 1]``; 1 hides them fully.
        softness: Range of the fraction of the way from a patch's rim to its centre over which its weight rises, within
            ``[0, 1]``; 0 is a hard rim.
        mark: What the mask marks: the whole ``"patch"``, or only those of its pixels that ``"changed"`` by more
            than 3/255 in any channel, which is just visible.
        saliency: Where patches are pasted: the density of their centres follows the image's saliency. An estimator
            (``"border_contrast"``, ``"spectral_residual"``), a folder of maps made by any tool, or a module. Patches
            go anywhere for ``"none"``, and in images without an object.
        source: Transforms of the image before patches are cut from it.
        p: Probability of pasting into an image.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If a range or probability is out of bounds.

    Convention:
        - ``_params`` hold :data:`ATTEMPTS` draws of each patch, each value ``(B, count, ATTEMPTS)`` (``center`` and
          ``origin`` ``(..., 2)``, x first, as fractions of the side), and the parameters of ``source``, drawn anew for
          every patch, under ``source.<patch>.<index>.<name>``. The first draw of a patch that differs by 1/255 on
          average is pasted; if none does, the patch is left out.
        - The centre is uniform over the image, so that clipping leaves at least a quarter of a small patch.
          ``saliency`` moves it; ``center`` holds it as drawn. If :meth:`forge` gets the images' files, which a
          folder of maps needs, ``_params`` also hold their ``saliency`` ``(B, 1, h, w)``, at any resolution.
        - A mask ``(B, 1, H, W)`` gets 1 on marked pixels and keeps its values elsewhere. In a container give the keys
          as ``["input", "mask"]``, in this order: marks depend on the image.
        - Pixels outside the patches are bit-identical. Upright patches are cut at whole pixels, rotated ones are
          sampled bilinearly. No loop over the batch, no host synchronisation (except to read a folder's files).
          Saliency needs RGB images.

    Example:
        >>> import torch
        >>> image = torch.rand(4, 3, 64, 64)
        >>> forged, mask = CutPaste().manual_seed(0).forge(image)
        >>> bool(torch.equal(torch.where(mask == 1, image, forged), image))
        True
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.02, 0.2),
        aspect: tuple[float, float] = (0.3, 3.3),
        rotation: float = 45.0,
        rotation_p: float = 0.5,
        count: int = 1,
        opacity: tuple[float, float] = (1.0, 1.0),
        softness: tuple[float, float] = (0.0, 0.0),
        mark: Literal["patch", "changed"] = "patch",
        saliency: Saliency | str = "none",
        source: Sequence[SeededAugmentation] = (),
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        check_interval("area", area, 1e-4, 1.0)
        check_interval("aspect", aspect, 0.05, 20.0)
        check_value("rotation", rotation, 0.0, 180.0)
        check_value("rotation_p", rotation_p, 0.0, 1.0)
        check_value("count", count, 1, 100)
        check_interval("opacity", opacity, 0.01, 1.0)
        check_interval("softness", softness, 0.0, 1.0)
        if mark not in {"patch", "changed"}:
            raise ValueError(f"mark must be 'patch' or 'changed', got {mark!r}.")
        super().__init__(saliency, p, keepdim)
        self.flags = {
            "area": tuple(area),
            "aspect": tuple(aspect),
            "rotation": rotation,
            "rotation_p": rotation_p,
            "count": int(count),
            "opacity": tuple(opacity),
            "softness": tuple(softness),
            "mark": mark,
        }
        self.source = nn.ModuleList(source)
        self.needs_batch = any(getattr(transform, "needs_batch", False) for transform in source)

    def draw_parameters(self, shape: Sequence[int], stream: RandomStream) -> dict[str, Tensor]:
        """Draw the patches of every image and the parameters of the source."""
        flags, patches = self.flags, (shape[0], self.flags["count"], ATTEMPTS)
        is_rotated = stream.uniform(patches, 0.0, 1.0) < flags["rotation_p"]
        params = {
            "area": stream.uniform(patches, *flags["area"]),
            "aspect": stream.uniform(patches, *(math.log(bound) for bound in flags["aspect"])).exp(),
            "angle": stream.uniform(patches, -flags["rotation"], flags["rotation"]).deg2rad() * is_rotated,
            "center": stream.uniform((*patches, 2), 0.0, 1.0),
            "origin": stream.uniform((*patches, 2), 0.0, 1.0),
            "opacity": stream.uniform(patches, *flags["opacity"]),
            "softness": stream.uniform(patches, *flags["softness"]),
        }
        for number in range(flags["count"]):
            for index, transform in self._source():
                params |= add_prefix(f"source.{number}.{index}.", transform.draw(shape, stream))
        return params

    def plant(self, image: Tensor, params: dict[str, Tensor]) -> ForgedBatch:
        """Paste into the images that the gate chose, see :meth:`SyntheticAnomaly.plant`."""
        params = on_device(params, image.device)
        original = pasted = image.float()
        saliency = self.estimate_saliency(original, params)
        center = params["center"] if saliency is None else move_to_salient(params["center"], saliency)
        marked = torch.zeros_like(original[:, :1], dtype=torch.bool)
        for number in range(self.flags["count"]):
            source = original
            for index, transform in self._source():
                source = transform.transform_inputs(source, under_prefix(f"source.{number}.{index}.", params))
            patches = Patches.from_params(params | {"center": center}, number, original)
            pasted, inside = _paste(pasted, source, patches)
            marked |= inside
        marked &= self.is_chosen(params, image)
        forged = torch.where(marked, pasted.to(image.dtype), image)
        if self.flags["mark"] == "changed":
            marked = marked.logical_and(find_changed(forged, image))  # not in place: the gradient needs the former
        return ForgedBatch(forged, marked.to(image.dtype))

    def _source(self) -> list[tuple[int, SeededAugmentation]]:
        source: Any = self.source
        return list(enumerate(source))


def _paste(image: Tensor, source: Tensor, candidates: Patches) -> tuple[Tensor, Tensor]:
    """Paste into every image the first of its patches that differs; also return where: bool ``(B, 1, H, W)``."""
    stride = max(1, min(image.shape[-2:]) // PROBE_SIDE)
    is_visible = candidates.mean_difference(image, *candidates.sample(source, stride), stride) >= MIN_DIFFERENCE
    patch = candidates.select(is_visible.int().argmax(1))
    values, weights = patch.sample(source)
    visible = patch.mean_difference(image, values, weights).squeeze(1) >= MIN_DIFFERENCE
    inside = (weights > 0) & visible[:, None, None, None]
    return torch.where(inside, torch.lerp(image, values[:, :, 0], weights), image), inside


class HardCutPaste(CutPaste):
    """AnoSeg's synthetic anomalies: patches of the rotated, permuted and jittered image, pasted on the original.

    arXiv 2110.03396, Sec. 3.1 and Fig. 3: rotation, then perm, then colour jitter of the same image, each with
    probability 0.5; a patch of the result is pasted on a random region of the original.

    Args:
        area: See :class:`CutPaste`.
        aspect: See :class:`CutPaste`.
        rotation: See :class:`CutPaste`.
        rotation_p: See :class:`CutPaste`.
        count: See :class:`CutPaste`.
        opacity: See :class:`CutPaste`.
        softness: See :class:`CutPaste`.
        mark: See :class:`CutPaste`.
        saliency: See :class:`CutPaste`.
        hard_p: Probability of each of the three steps (the paper: 0.5).
        jitter: Amounts of brightness, contrast, saturation and hue, see :class:`RandomColorJitter`.
        p: See :class:`CutPaste`.
        keepdim: See :class:`CutPaste`.

    Raises:
        ValueError: If an argument is out of bounds.

    Convention:
        As :class:`CutPaste`; ``source.0.0`` is the first patch's rotation, ``source.0.1`` its perm and ``source.0.2``
        its jitter.

    Example:
        >>> import torch
        >>> from kornia.augmentation import AugmentationSequential
        >>> forge = AugmentationSequential(HardCutPaste(), data_keys=["input", "mask"])
        >>> image, mask = forge(torch.rand(4, 3, 64, 64), torch.zeros(4, 1, 64, 64))
        >>> mask.unique().tolist()
        [0.0, 1.0]
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.02, 0.2),
        aspect: tuple[float, float] = (0.3, 3.3),
        rotation: float = 45.0,
        rotation_p: float = 0.5,
        count: int = 1,
        opacity: tuple[float, float] = (1.0, 1.0),
        softness: tuple[float, float] = (0.0, 0.0),
        mark: Literal["patch", "changed"] = "patch",
        saliency: Saliency | str = "none",
        hard_p: float = 0.5,
        jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.2),
        p: float = 1.0,
        keepdim: bool = False,
    ) -> None:
        check_value("hard_p", hard_p, 0.0, 1.0)
        if len(jitter) != 4:  # noqa: PLR2004
            raise ValueError(f"jitter must be (brightness, contrast, saturation, hue), got {tuple(jitter)}.")
        for (name, largest), amount in zip(MAX_JITTER.items(), jitter, strict=True):
            check_value(f"jitter ({name})", amount, 0.0, largest)
        hard_augmentation = (
            RandomQuarterRotation(p=hard_p),
            RandomHalfSwap(p=hard_p),
            RandomColorJitter(*jitter, p=hard_p),
        )
        super().__init__(
            area=area,
            aspect=aspect,
            rotation=rotation,
            rotation_p=rotation_p,
            count=count,
            opacity=opacity,
            softness=softness,
            mark=mark,
            saliency=saliency,
            source=hard_augmentation,
            p=p,
            keepdim=keepdim,
        )
