"""CutPaste with rotated, clipped patches, plain and from hard-augmented images (AnoSeg's synthetic anomalies)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomalib_anoseg.common.checks import check_interval, check_value
from anomalib_anoseg.transforms.base import (
    SeededAugmentation,
    find_changed,
    under_prefix,
)
from anomalib_anoseg.transforms.color_jitter import MOST_JITTER, RandomColorJitter
from anomalib_anoseg.transforms.half_swap import RandomHalfSwap
from anomalib_anoseg.transforms.patches import Patches
from anomalib_anoseg.transforms.rotation import RandomQuarterTurn
from anomalib_anoseg.transforms.saliency import Saliency
from anomalib_anoseg.transforms.salient_anomaly import SalientAnomaly, move_to_salient

# Grey levels are 1/255 apart: a patch that differs by less on average cannot be seen, and would be a false label.
MIN_DIFFERENCE = 1 / 255
# Draws of a patch an image until one differs visibly. With a chance of one half that a patch differs (an object on a
# plain background), one image in 16 stays normal, and its mask says so.
ATTEMPTS = 4
# The attempts are compared on a grid of about this many pixels a side: enough for a mean over the patch.
PROBE_SIDE = 64


class CutPaste(SalientAnomaly):
    """Cut rectangles out of each image and paste them elsewhere in that image, upright or rotated.

    After CutPaste (Li et al., arXiv 2104.04015) in the form of AnoSeg (arXiv 2110.03396, Sec. 3.1): pasted patches
    are clipped by the border and the mask marks what was pasted. ``source`` transforms the image before the patches
    are cut: see :class:`HardCutPaste`. Size, shape and angle are our choices; the paper shows about 17 % of the area.
    Several patches, see-through and soft ones and masks of what changed are not the paper's: they imitate small, faint
    and irregular defects.

    Args:
        area: Range of a patch's area, as a fraction of the image's, within ``[0.0001, 1]``.
        aspect: Range of its width over its height, log-uniform, within ``[0.05, 20]``.
        rotation: The patch is rotated by ``U(-rotation, rotation)`` degrees, ``0 <= rotation <= 180`` ...
        rotation_p: ... with this probability, and pasted upright otherwise.
        count: Number of patches an image, 1 or more.
        opacity: Range of a patch's weight over what it covers, within ``[0.01, 1]``; 1 covers it fully.
        softness: Range of the fraction of the way from a patch's rim to its centre over which that weight rises, within
            ``[0, 1]``; 0 is a hard rim.
        mark: What the mask marks: the whole ``"patch"``, or those of its pixels that are ``"changed"`` by more
            than 3/255 in some channel, which a person can just about see.
        saliency: Where patches are pasted: their centres are as dense as the image is salient, by an estimator
            (``"border_contrast"``, ``"spectral_residual"``), a folder of maps made by any tool, or a module; anywhere
            for ``"none"``, and in images without an object.
        source: Transforms that the image goes through before the patches are cut out of it.
        p: Probability of pasting into an image.
        keepdim: Whether a ``(C, H, W)`` image keeps its shape.

    Raises:
        ValueError: If a range or probability is out of bounds.

    Convention:
        - ``_params`` hold :data:`ATTEMPTS` draws of each patch, each value ``(B, count, ATTEMPTS)`` (``center`` and
          ``origin`` ``(..., 2)``, x first, as fractions of the side), and the parameters of ``source``, drawn anew for
          every patch, under ``source.<patch>.<index>.<name>``. Once an image went through they also tell ``attempt``
          ``(B, count)`` (which draw was taken: the first that differs by 1/255 on average), ``visible`` ``(B, count)``
          (0 if none did: the patch is left out) and ``marked`` ``(B, 1, H, W)``.
        - The centre is uniform over the image, so that clipping leaves a quarter of a small patch at least. With
          ``saliency`` it is moved before it is used, and ``center`` tells where it came from. :meth:`forge` puts the
          images' ``saliency`` ``(B, 1, h, w)``, of any size of their shape, among ``_params`` if it gets their files,
          which a folder of maps needs.
        - A mask ``(B, 1, H, W)`` gets 1 where it is marked and keeps its values elsewhere. In a container give the
          keys as ``["input", "mask"]``, in this order: what is marked depends on the image.
        - Pixels outside the patches are bit-identical. Upright patches are cut at whole pixels, rotated ones are
          sampled bilinearly. No loop over the batch, no host synchronisation (but for reading a folder's files).
          Saliency wants RGB images.

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
        check_patches(area, aspect, rotation, rotation_p, count, opacity, softness, mark)
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

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw the patches of every image and the parameters of the source."""
        flags = self.flags
        shape = (batch_shape[0], flags["count"], ATTEMPTS)
        is_rotated = self.uniform(shape, 0.0, 1.0) < flags["rotation_p"]
        params = {
            "area": self.uniform(shape, *flags["area"]),
            "aspect": self.uniform(shape, *(math.log(bound) for bound in flags["aspect"])).exp(),
            "angle": self.uniform(shape, -flags["rotation"], flags["rotation"]).deg2rad() * is_rotated,
            "center": self.uniform((*shape, 2), 0.0, 1.0),
            "origin": self.uniform((*shape, 2), 0.0, 1.0),
            "opacity": self.uniform(shape, *flags["opacity"]),
            "softness": self.uniform(shape, *flags["softness"]),
            "attempt": torch.zeros(shape[:2], dtype=torch.int64, device=self.device),
            "visible": torch.zeros(shape[:2], device=self.device),
            "marked": torch.zeros(batch_shape[0], 1, *batch_shape[-2:], device=self.device),
        }
        for number in range(flags["count"]):
            for index, transform in enumerate(self._source()):
                transform.generator = self.generator
                drawn = transform.forward_parameters(batch_shape)
                params |= {f"source.{number}.{index}.{name}": value for name, value in drawn.items()}
        return params

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Paste into ``(B, C, H, W)`` images."""
        del transform
        image = input.float()
        placed = params | {"center": self._place(image, params)}
        original, marked = image, torch.zeros_like(image[:, :1], dtype=torch.bool)
        for number in range(flags["count"]):
            source = self._apply_source(original, params, number)
            image, inside = _paste(image, source, placed, number)
            marked |= inside
        output = torch.where(marked, image.to(input.dtype), input)
        if flags["mark"] == "changed":
            marked &= find_changed(output, input)
        params["marked"].copy_(marked, non_blocking=True)
        return output

    def apply_transform_mask(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Mark the patches of the images in ``(B, 1, H, W)`` masks."""
        del flags, transform
        marked = params["marked"].to(input.device, torch.bool, non_blocking=True)
        return torch.where(marked, torch.ones_like(input), input)

    def _place(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Find the patches' centres: as they were drawn, or moved to what is salient."""
        center, saliency = params["center"].to(image.device, non_blocking=True), self.estimate_saliency(image, params)
        return center if saliency is None else move_to_salient(center, saliency)

    def _source(self) -> Iterator[SeededAugmentation]:
        return (transform for transform in self.source if isinstance(transform, SeededAugmentation))

    def _apply_source(self, image: Tensor, params: dict[str, Tensor], number: int) -> Tensor:
        for index, transform in enumerate(self._source()):
            image = transform(image, params=under_prefix(f"source.{number}.{index}.", params))
        return image


def check_patches(
    area: tuple[float, float],
    aspect: tuple[float, float],
    rotation: float,
    rotation_p: float,
    count: int,
    opacity: tuple[float, float],
    softness: tuple[float, float],
    mark: str,
    prefix: str = "",
) -> None:
    """Check the arguments of :class:`CutPaste`, for whoever hands them on under names that start with ``prefix``.

    Raises:
        ValueError: If one is out of bounds; the message names it, with the prefix, its value and the bounds.
    """
    check_interval(f"{prefix}area", area, 1e-4, 1.0)
    check_interval(f"{prefix}aspect", aspect, 0.05, 20.0)
    check_value(f"{prefix}rotation", rotation, 0.0, 180.0)
    check_value(f"{prefix}rotation_p", rotation_p, 0.0, 1.0)
    check_value(f"{prefix}count", count, 1, 100)
    check_interval(f"{prefix}opacity", opacity, 0.01, 1.0)
    check_interval(f"{prefix}softness", softness, 0.0, 1.0)
    if mark not in {"patch", "changed"}:
        raise ValueError(f"{prefix}mark must be 'patch' or 'changed', got {mark!r}.")


def _paste(image: Tensor, source: Tensor, params: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor]:
    """Paste patch ``number`` of every image, and tell where it is: ``(B, C, H, W)`` and bool ``(B, 1, H, W)``."""
    candidates = Patches.from_params(params, number, image)
    stride = max(1, min(image.shape[-2:]) // PROBE_SIDE)
    is_visible = candidates.mean_difference(image, *candidates.sample(source, stride), stride) >= MIN_DIFFERENCE
    attempt = is_visible.int().argmax(1)
    patch = candidates.select(attempt)
    values, weights = patch.sample(source)
    visible = patch.mean_difference(image, values, weights).squeeze(1) >= MIN_DIFFERENCE
    # In place: a container hands the very same tensors to the mask.
    params["attempt"][:, number].copy_(attempt, non_blocking=True)
    params["visible"][:, number].copy_(visible, non_blocking=True)
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
        for (name, most), amount in zip(MOST_JITTER.items(), jitter, strict=True):
            check_value(f"jitter ({name})", amount, 0.0, most)
        hard_augmentation = (
            RandomQuarterTurn(p=hard_p),
            RandomHalfSwap(p=hard_p),
            RandomColorJitter(*jitter, p=hard_p),
        )
        super().__init__(
            area, aspect, rotation, rotation_p, count, opacity, softness, mark, saliency, hard_augmentation, p, keepdim
        )
