"""The part of a data set's items that is the same in every epoch and can be cached.

anomalib's data sets shrink pictures themselves, before batches are made, as the last of their augmentations.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataset, ImageItem, MVTecLOCODataset
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

from anomalib_anoseg.common.picture_files import file_version, read_examined

__all__ = ["RepeatableItems", "find_obstacle", "flatten"]

# Classes whose items follow from their files and augmentations alone: subclasses with a reading of their own may draw.
READERS = (AnomalibDataset.__getitem__, MVTecLOCODataset.__getitem__)
# Transforms that draw nothing.
FIXED = (Resize, CenterCrop)
# What decides how pixels are computed.
VERSIONS = ("anomalib-anoseg", "anomalib", "torch", "torchvision", "pillow")


@dataclass
class RepeatableItems:
    """The items of a data set, as far as they depend on its files alone.

    Attributes:
        dataset: The data set.
        steps: The first of its augmentations, which are not random and leave images of one size.
        rest: All others, to be applied anew each time; ``None`` if there are none.
        keys: A key for each item, which changes with everything that the item depends on.
    """

    dataset: AnomalibDataset
    steps: Sequence[Any]
    rest: Compose | None
    keys: Sequence[str]

    @classmethod
    def of(cls, dataset: AnomalibDataset) -> "RepeatableItems":
        """Split the augmentations of a data set without an obstacle, see :func:`find_obstacle`."""
        steps, rest = _split(dataset.augmentations)
        return cls(dataset, steps, Compose(rest) if rest else None, list(_find_keys(dataset, steps)))

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of the images in pixels."""
        return tuple(self.steps[-1].size)

    def read(self, index: int) -> ImageItem:
        """Read, examine and shrink a picture.

        Raises:
            ValueError: If it cannot be used; the message names the file, the cause and the remedy.
        """
        plain: Any = copy.copy(self.dataset)
        plain.augmentations = Compose(self.steps)
        path = self.dataset.samples.image_path[index]
        try:
            return read_examined(path, lambda: plain[index])
        except OSError as error:
            raise ValueError(f"{path} or its mask cannot be read ({error}). Replace or remove it.") from error

    def finish(self, item: ImageItem) -> ImageItem:
        """Apply the other augmentations, as the data set does."""
        if self.rest is None:
            return item
        if item.gt_mask is None:
            return item.update(image=self.rest(item.image))
        image, mask = self.rest(item.image, item.gt_mask)
        return item.update(image=image, gt_mask=mask)


def flatten(transform: Any) -> list[Any]:  # noqa: ANN401
    """List the steps of a transform in order.

    Example:
        >>> [type(step).__name__ for step in flatten(Compose([Compose([Resize((8, 8))]), CenterCrop(4)]))]
        ['Resize', 'CenterCrop']
    """
    if isinstance(transform, Compose):
        return [step for part in transform.transforms for step in flatten(part)]
    return [] if transform is None else [transform]


def _split(augmentations: Any) -> tuple[list[Any], list[Any]]:  # noqa: ANN401
    """Split augmentations into the first ones, which draw nothing, up to the last resize, and the others."""
    steps = flatten(augmentations)
    fixed = next((place for place, step in enumerate(steps) if type(step) not in FIXED), len(steps))
    resizes = [place for place in range(fixed) if _fixes_size(steps[place])]
    end = resizes[-1] + 1 if resizes else 0
    return steps[:end], steps[end:]


def _fixes_size(step: Any) -> bool:  # noqa: ANN401
    return isinstance(step, CenterCrop) or (isinstance(step, Resize) and len(step.size or ()) > 1)


def find_obstacle(dataset: AnomalibDataset, name: str) -> str:
    """Say why a data set's pictures cannot be kept; empty if they can.

    Args:
        dataset: The data set.
        name: The first word of its augmentations' name.
    """
    if type(dataset).__getitem__ not in READERS:
        return f"because {type(dataset).__name__} reads them in a way of its own."
    if hasattr(type(dataset), "__copy__"):  # the first copy of anomalib's synthetic anomalies deletes their files
        return f"because {type(dataset).__name__} is copied in a way of its own."
    steps, rest = _split(dataset.augmentations)
    resize = next((step for step in rest if isinstance(step, Resize)), None)
    if steps or not rest:
        return "" if steps else "because they are not resized."
    first = type(rest[0]).__name__
    if resize is None or rest[0] is resize:
        return f"because {first} may leave pictures of several sizes."
    return (
        f"because {first} changes them before they are resized. If it may come later, begin {name}_augmentations of "
        f"`data` with Resize({list(resize.size)})."
    )


def _find_keys(dataset: AnomalibDataset, steps: Sequence[Any]) -> Iterator[str]:
    """Make a key for each item from everything that it depends on.

    Yields:
        str: Equal for equal files, label, transforms, versions and kind of processor.
    """
    samples = dataset.samples
    versions = [*(version(name) for name in VERSIONS), torch.backends.cpu.get_cpu_capability()]
    around = (type(dataset).__name__, str(samples.attrs.get("task")), repr(steps), versions)
    for sample in samples.to_dict("records"):
        masks = sample.get("mask_path")
        files = [sample["image_path"], *(masks if isinstance(masks, (list, tuple)) else [masks])]
        state = [(str(file), _find_version(file)) for file in files]
        yield blake2b(repr((around, sample.get("label_index"), state)).encode("utf-8", "replace")).hexdigest()


def _find_version(file: Any) -> tuple[int, int] | None:  # noqa: ANN401
    try:
        return file_version(Path(file)) if file else None
    except (OSError, TypeError):  # reading it says what is wrong
        return None
