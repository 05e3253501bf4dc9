"""The region of a picture that does not count, as a model carries it: in checkpoints, and as a constant in exports.

Networks see grey there, in training as well as later. Otherwise what lies there would change maps beside it, as far as
a network looks. So losses, AnoSeg's detector, and SGSF's references and memory need no mask of their own: all of them
see grey that is normal.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_anoseg.common.ignore_mask import read_ignore_mask
from anomalib_anoseg.transforms import Outside, SyntheticAnomaly

# What networks see in the region: a grey that 8-bit pictures have, too.
FILL = 128 / 255
# Name of the region's tensor in the weights of a network.
WEIGHT = "region.ignored"
# Key of the file's name in a checkpoint.
NAME = "anomalib_anoseg_ignore_mask"


def read_region(model: Any) -> tuple[int, int] | None:  # noqa: ANN401 - a SelfSupervisedModel
    """Read a model's ``ignore_mask`` at the size of its networks' images, see :meth:`IgnoredRegion.read`."""
    region: IgnoredRegion = model.region
    return region.read(model.ignore_mask, getattr(model.pre_processor, "transform", None))


def add_name(model: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ANN401 - a SelfSupervisedModel
    """Add the name of a model's ``ignore_mask``, if it has one, to a checkpoint that is about to be saved."""
    if model.ignore_mask is not None:
        checkpoint[NAME] = str(model.ignore_mask)


def check_region(model: Any, checkpoint: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:  # noqa: ANN401
    """Check a model's ``ignore_mask`` against a checkpoint and its weights, see :meth:`IgnoredRegion.check_saved`.

    A file of the name that was trained with is not read: the checkpoint has its region, and the file may be gone. The
    saved arguments do not tell this name, because Lightning overwrites them with those of ``load_from_checkpoint``.
    """
    trained = checkpoint.get(NAME, model.ignore_mask if WEIGHT in weights else None)
    if str(model.ignore_mask) != str(trained):
        read_region(model)
    model.region.check_saved(weights, model.ignore_mask)


class IgnoredRegion(nn.Module):
    """Hides a region of images from networks, and keeps their maps at 0 there; without a region it does nothing.

    A pixel of the networks' images is ignored as soon as an ignored pixel of the camera's picture takes part in it. So
    no pixel of the region is marked in a map that is resized back to the picture, and the region has no influence on
    scores and maps, because the networks see grey in its place. It grows by up to one pixel of the map for that.

    Attributes:
        ignored: ``(H, W)`` bool, at the size of the networks' images; ``None`` without a region.
        picture_size: ``(2,)`` int64, width and height of the mask that was drawn; likewise.

    Example:
        >>> region = IgnoredRegion()
        >>> region.take(torch.eye(2, dtype=torch.bool), (2, 2))
        >>> region.mask_maps(torch.ones(1, 1, 2, 2)).tolist()
        [[[[0.0, 1.0], [1.0, 0.0]]]]
    """

    ignored: Tensor | None
    picture_size: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ignored", None)
        self.register_buffer("picture_size", None)

    def read(self, path: str | Path | None, transform: Callable[[Tensor], Tensor] | None) -> tuple[int, int] | None:
        """Read the region from a file, see :func:`~anomalib_anoseg.common.ignore_mask.read_ignore_mask`.

        Args:
            path: The file; it is not read if there is a region already, as from a checkpoint.
            transform: What brings pictures to the networks' size.

        Returns:
            Width and height of the mask that was drawn; ``None`` if there is no region.

        A file that cannot be used, or leaves nothing to inspect, raises a ``ValueError``.
        """
        if path is not None and self.ignored is None:
            self._read(path, transform)
        if self.picture_size is None:
            return None
        width, height = self.picture_size.tolist()
        return width, height

    def _read(self, path: str | Path, transform: Callable[[Tensor], Tensor] | None) -> None:
        mask = torch.from_numpy(read_ignore_mask(path))
        picture = mask.float().expand(3, -1, -1)
        # Resized as pictures are: what is above 0 is where the region takes part.
        ignored = ((transform(picture) if transform else picture) > 0).any(0)
        if ignored.all():
            size = " x ".join(map(str, reversed(ignored.shape)))
            raise ValueError(
                f"ignore_mask: at the {size} pixels that the model sees, {path} leaves nothing to inspect. Leave wider "
                "gaps, or set a larger image_size."
            )
        self.take(ignored, (mask.shape[1], mask.shape[0]))

    def take(self, ignored: Tensor, picture_size: tuple[int, int]) -> None:
        """Take a region, see the attributes."""
        self.ignored, self.picture_size = ignored, torch.tensor(picture_size, device=ignored.device)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the networks' images; ``None`` without a region."""
        return None if self.ignored is None else (self.ignored.shape[0], self.ignored.shape[1])

    def mask_images(self, image: Tensor) -> Tensor:
        """Make the region of ``(..., C, H, W)`` images grey; those of another size raise a ``ValueError``."""
        return image if self.ignored is None else image.masked_fill(self._fit(image), FILL)

    def mask_maps(self, anomaly_map: Tensor) -> Tensor:
        """Set ``(..., 1, H, W)`` maps to 0, their lowest value, in the region."""
        return anomaly_map if self.ignored is None else anomaly_map.masked_fill(self._fit(anomaly_map), 0)

    def _fit(self, image: Tensor) -> Tensor:
        ignored: Tensor = self.ignored  # type: ignore[assignment]
        if not torch.compiler.is_compiling() and image.shape[-2:] != ignored.shape:
            height, width = ignored.shape
            raise ValueError(
                f"ignore_mask covers images of {height}x{width} pixels, got {image.shape[-2]}x{image.shape[-1]}. Let "
                "pre_processor resize them, or give masks and pictures of one size."
            )
        return ignored.to(image.device)

    def outside(self, anomaly: SyntheticAnomaly) -> SyntheticAnomaly:
        """Let a transform forge nothing in the region, and make it grey, also in the images that it rotates."""
        return anomaly if self.ignored is None else Outside(anomaly, self.ignored.to(anomaly.device), FILL)

    def mask_truth(self, mask: Tensor | None, label: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Take true defects in the region for good.

        Args:
            mask: ``(B, H, W)`` bool, the true defects.
            label: ``(B,)`` bool, which images have some.

        Returns:
            The mask without what lies in the region, and labels that are false where nothing else was marked.
        """
        if self.ignored is None or mask is None:
            return mask, label
        outside = mask & ~self._fit(mask)
        if label is not None:
            label = label.logical_and(outside.flatten(1).any(1) | ~mask.flatten(1).any(1))
        return outside, label

    def record(self) -> dict[str, str | float] | None:
        """Describe the region for records: a digest, and the share of the map's pixels; ``None`` without one."""
        if self.ignored is None:
            return None
        pixels = self.ignored.cpu().to(torch.uint8)
        name = f"{tuple(pixels.shape)} ".encode()
        return {
            "digest": f"sha256:{hashlib.sha256(name + pixels.numpy().tobytes()).hexdigest()}",
            "share": round(pixels.float().mean().item(), 4),
        }

    def check_saved(self, weights: Mapping[str, Tensor], name: object) -> None:
        """Check that this region, if there is one, is that of a checkpoint.

        Args:
            weights: The network's weights in the checkpoint.
            name: Of the file that this region was read from.

        Raises:
            ValueError: If the checkpoint has another one, or none.
        """
        saved = weights.get(WEIGHT)
        if self.ignored is None or (saved is not None and torch.equal(saved.cpu(), self.ignored.cpu())):
            return
        trained = "without an ignore_mask" if saved is None else "with another ignore_mask"
        raise ValueError(
            f"The checkpoint was trained {trained}, and this model has {name}. Leave --model.ignore_mask out of the "
            "command, or train again with it: thresholds and weights depend on it."
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Take the region that is loaded, where this model has none yet."""
        for name in ("ignored", "picture_size"):
            loaded = state_dict.get(prefix + name)
            if loaded is not None and getattr(self, name) is None:
                setattr(self, name, torch.empty_like(loaded))
        super()._load_from_state_dict(state_dict, prefix, *args)
