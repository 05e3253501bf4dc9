"""Textures from a folder of pictures."""

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import resize

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.common.messages import naming_what_cannot_be_read
from anomalib_anoseg.common.picture_files import examine_file
from anomalib_anoseg.transforms.textures.base import Textures
from anomalib_anoseg.transforms.textures.generated import BatchTextures
from anomalib_anoseg.transforms.textures.patterns import PatternTextures

DTD = "https://www.robots.ox.ac.uk/~vgg/data/dtd/"
TOO_DEEP = "textures: {} has more than 8 bits a channel. Convert it to 8 bits."
REMEDY = "Replace or remove it."
SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}


class TextureFolder(Textures):
    """Textures from a folder of pictures, such as the Describable Textures Dataset, as in DRAEM.

    The pictures are read at first use, and once more for images of another size: resized to the images, and kept as
    8-bit values on their device. DTD takes 1.1 GB at 256x256 pixels.

    Args:
        root: Folder of pictures (JPEG, PNG, WebP), including its subfolders.
        memory: Most memory for the pictures, in megabytes, ``1 <= memory <= 100000``. If not all fit, an evenly spaced
            selection is read. Those of several sizes share it: the size that was not used for longest goes first.

    Raises:
        ValueError: If ``memory`` is out of bounds.

    Example:
        >>> TextureFolder("nowhere")._paths()
        Traceback (most recent call last):
            ...
        FileNotFoundError: textures: there are no pictures (.jpeg, .jpg, .png, .webp) in 'nowhere'. ...
    """

    def __init__(self, root: str | Path, memory: int = 1500) -> None:
        check_value("memory", memory, 1, 100_000)
        super().__init__()
        self.root = Path(root)
        self.memory = memory
        self._pictures: dict[tuple[int, int], Tensor] = {}  # by height and width, the last used one last

    def check_files(self) -> None:
        """Read the header of each picture, which takes a second for DTD.

        Raises:
            ValueError: If one is no picture, or has more than 8 bits a channel.
        """  # noqa: DOC502 - the check of each raises
        for path in self._paths():
            _check(path)

    def look_up(self, image: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Take the picture at fraction ``index`` of the folder.

        Raises:
            ValueError: If the images have neither 1 nor 3 channels.
        """
        if image.shape[1] not in {1, 3}:
            raise ValueError(f"Textures are for images of 1 or 3 channels, got shape {tuple(image.shape)}.")
        size = image.shape[-2], image.shape[-1]
        pictures = (self._pictures.pop(size) if size in self._pictures else self._load(size)).to(image.device)
        self._pictures[size] = pictures
        number = (params["index"] * len(pictures)).long().clamp(max=len(pictures) - 1)
        texture = pictures.index_select(0, number)
        return texture.float().mean(1, keepdim=True).to(torch.uint8) if image.shape[1] == 1 else texture

    def __getstate__(self) -> dict[str, Any]:
        """Leave the pictures out of copies and pickles: these read them again."""
        return self.__dict__ | {"_pictures": {}}

    def extra_repr(self) -> str:
        """Name the folder and the memory."""
        return f"{str(self.root)!r}, memory={self.memory}"

    def _load(self, size: tuple[int, int]) -> Tensor:
        """Read the pictures, ``(N, 3, H, W)`` uint8, after dropping those of other sizes that leave no memory."""
        paths, limit = self._paths(), self.memory * 10**6
        bytes_each = 3 * math.prod(size)
        count = min(len(paths), max(1, limit // bytes_each))
        while self._pictures and sum(kept.nbytes for kept in self._pictures.values()) > limit - count * bytes_each:
            del self._pictures[next(iter(self._pictures))]
        pictures = torch.empty((count, 3, *size), dtype=torch.uint8)
        for number in range(count):
            pictures[number] = resize(_read(paths[number * len(paths) // count]), list(size), antialias=True)
        return pictures

    def _paths(self) -> list[Path]:
        paths = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise FileNotFoundError(
                f"textures: there are no pictures ({', '.join(sorted(SUFFIXES))}) in {str(self.root)!r}. Nothing is "
                f"downloaded: name a folder of pictures, for example of the Describable Textures Dataset from {DTD}, "
                "take `patterns`, which are drawn, or leave `textures` out for the default ones."
            )
        return paths


def _check(path: Path) -> None:
    """Check what a picture's header tells.

    Raises:
        ValueError: If it is no picture, or has more than 8 bits a channel.
    """
    if problem := examine_file(path):
        raise ValueError(f"textures: {problem}")
    with naming_what_cannot_be_read("textures", path, REMEDY), Image.open(path) as opened:
        mode = opened.mode
    if mode.startswith("I"):  # not of colours, whose 16 bits Pillow does not show
        raise ValueError(TOO_DEEP.format(path))


def _read(path: Path) -> Tensor:
    """Read a picture, ``(3, H, W)`` uint8.

    Raises:
        ValueError: If it has more than 8 bits a channel.
    """
    _check(path)
    with naming_what_cannot_be_read("textures", path, REMEDY):
        picture = decode_image(str(path), ImageReadMode.RGB)
    if picture.dtype != torch.uint8:
        raise ValueError(TOO_DEEP.format(path))
    return picture


def create_textures(textures: Textures | str | Path | None) -> Textures:
    """Make textures from a transform's argument: textures, ``"patterns"``, a folder, or ``None`` for the batch."""
    if isinstance(textures, Textures):
        return textures
    if textures == "patterns":
        return PatternTextures()
    return BatchTextures() if textures is None else TextureFolder(textures)
