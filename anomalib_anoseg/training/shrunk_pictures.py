"""Pictures at the size of the networks: rows of a tensor in memory, or of a file that processes share."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from anomalib.data import ImageItem
from torch import Tensor
from torchvision.tv_tensors import Image, Mask

from anomalib_anoseg.common.files import written_whole

__all__ = ["INDEX", "ShrunkPictures"]

# The index of the pixels, and the files of pixels, without a header, whose names are used once.
INDEX, PIXELS = "shrunk_pictures.pt", "shrunk_pictures-{}.f32"
PIXEL = torch.float32
# Pixels that no training has used for this long, in seconds, give way to new ones.
DAY = 86400.0
Entry = tuple[int, dict[str, Any]]


@dataclass
class ShrunkPictures:
    """Items of data sets by a key, with their images as rows of one tensor.

    Processes that workers start get no copy: torch sends a tensor by shared memory, and a file is mapped anew.

    Attributes:
        images: ``(N, 3, H, W)`` float32.
        entries: The row of each item and its other fields, such as label and mask.
        file: Where the pixels are; ``None`` in memory.
    """

    images: Tensor
    entries: Mapping[str, Entry]
    file: Path | None = None

    def item(self, key: str) -> ImageItem:
        """Make an item whose tensors are its own."""
        row, others = self.entries[key]
        own: dict[str, Any] = {
            name: value.clone() if isinstance(value, Tensor) else value for name, value in others.items()
        }
        if "gt_mask" in own:
            own["gt_mask"] = Mask(own["gt_mask"])
        return ImageItem(image=Image(self.images[row].clone()), **own)

    @classmethod
    def in_memory(cls, items: Iterable[tuple[str, ImageItem]], count: int, shape: torch.Size) -> "ShrunkPictures":
        """Keep items in memory.

        Args:
            items: Their keys and what is kept.
            count: How many there are.
            shape: That of each image, ``(3, H, W)``.
        """
        pictures = cls(torch.empty((count, *shape), dtype=PIXEL), {})
        pictures.entries = _collect(items, lambda row, image: pictures.images[row].copy_(image))
        return pictures

    @classmethod
    def in_file(cls, items: Iterable[tuple[str, ImageItem]], shape: torch.Size, folder: Path) -> "ShrunkPictures":
        """Keep items in a file, which is found in place of another once it is whole.

        Files that no training has used for a day are deleted: another one may run in the same folder.

        Raises:
            OSError: If it cannot be written.
        """  # noqa: DOC502 - what writes it raises
        with written_whole(folder / INDEX) as place:
            pixels = place.with_name(PIXELS.format(token_hex(4)))
            with pixels.open("wb") as file:
                entries = _collect(items, lambda _, image: file.write(image.contiguous().numpy().tobytes()))
            torch.save({"pixels": pixels.name, "shape": tuple(shape), "entries": entries}, place)
        for old in set(folder.glob(PIXELS.format("*"))) - {folder / pixels.name}:
            with suppress(OSError):  # another process may delete it, too
                if time.time() - old.stat().st_mtime > DAY:
                    old.unlink()
        images = _map(folder / pixels.name, torch.Size((len(entries), *shape)))
        return cls(images, entries, folder / pixels.name)

    @classmethod
    def find(cls, folder: Path) -> "ShrunkPictures | None":
        """Find the file of an earlier run; ``None`` if there is none that is whole."""
        try:
            index = torch.load(folder / INDEX, weights_only=True)
            file, entries = folder / Path(index["pixels"]).name, index["entries"]
            found = cls(_map(file, torch.Size((len(entries), *index["shape"]))), entries, file)
        except Exception:  # noqa: BLE001 - whatever is wrong with it: it will be made anew
            return None
        found._mark_used()
        return found

    def _mark_used(self) -> None:
        if self.file:
            with suppress(OSError):  # the folder may be read-only
                os.utime(self.file)

    def __getstate__(self) -> dict[str, Any]:
        """Send the place of a file, not its pixels."""
        self._mark_used()
        return {**self.__dict__, "images": self.images.shape if self.file else self.images}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map a file anew."""
        self.__dict__.update(state)
        if self.file:
            self.images = _map(self.file, torch.Size(state["images"]))


def _map(path: Path, shape: torch.Size) -> Tensor:
    """Map a file's pixels, of which the system keeps in memory what it has room for.

    Raises:
        ValueError: If it has another size.
    """
    if path.stat().st_size != shape.numel() * PIXEL.itemsize:
        raise ValueError(f"{path} is not whole")
    return torch.from_file(str(path), shared=False, size=shape.numel(), dtype=PIXEL).view(shape)


def _collect(items: Iterable[tuple[str, ImageItem]], keep: Callable[[int, Tensor], object]) -> dict[str, Entry]:
    """Keep images by a function, and the other fields of items in a dictionary, equal tensors once."""
    entries: dict[str, Entry] = {}
    known: dict[tuple[object, ...], Tensor] = {}
    for row, (key, item) in enumerate(items):
        image: Any = item.image
        keep(row, image.as_subclass(Tensor))
        others = {field.name: getattr(item, field.name) for field in fields(item) if field.name != "image"}
        for name, value in others.items():
            if isinstance(value, Tensor):
                plain = value.as_subclass(Tensor).contiguous()
                content = (plain.dtype, plain.shape, plain.numpy().tobytes())
                others[name] = known.setdefault(content, plain)
        entries[key] = row, {name: value for name, value in others.items() if value is not None}
    return entries
