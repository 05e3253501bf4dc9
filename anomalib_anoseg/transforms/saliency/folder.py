"""Saliency from maps made by any other tool, found by the paths of the images."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from anomalib_anoseg.common.messages import naming_what_cannot_be_read
from anomalib_anoseg.common.picture_files import examine_file, file_version
from anomalib_anoseg.transforms.saliency.base import Saliency
from anomalib_anoseg.transforms.saliency.estimators import ESTIMATORS

REMEDY = "Replace the map."
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
EIGHT_BITS = {"1", "L", "LA", "P", "RGB", "RGBA"}


class SaliencyFolder(Saliency):
    """Reads maps from a folder: 8-bit pictures, white where salient, of any size.

    An image's map is the picture that shares the longest end of the image's path, regardless of suffixes: for
    ``bottle/train/good/0.png`` a map ``train/good/0.jpg`` precedes ``good/0.png``, which precedes ``0.png``.

    The folder is listed, and maps are read, at first use; each is kept in memory, at the size of its image, one byte
    per pixel. Maps fit images that were resized after reading, but not images that were cropped or rotated: leave that
    to the transforms that take saliency.

    Args:
        root: The folder.

    Raises:
        ValueError: At use, if there are no paths, or a map is ambiguous.
        FileNotFoundError: At use, if the folder or a map is missing.

    Example:
        >>> SaliencyFolder("maps")
        SaliencyFolder(root='maps')
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__()
        self.root = Path(root)
        self._cache: dict[str, Tensor] = {}
        self._owners: dict[Path, Path] = {}
        self._pictures: dict[tuple[str, ...], Path] | None = None

    def estimate(self, image: Tensor, paths: Sequence[str] | None) -> Tensor:
        """Look up the images' maps.

        Raises:
            ValueError: If there are no paths, or not as many as images.
        """
        if paths is None or len(paths) != len(image):
            got = "none" if paths is None else str(len(paths))
            raise ValueError(
                f"Maps from the folder {self.root} are found by the images' paths, one for each of {len(image)}, got "
                f"{got}: pass paths=batch.image_path, or use an estimator, one of {', '.join(ESTIMATORS)}."
            )
        height, width = image.shape[-2:]
        maps = torch.stack([self._map(str(path), (height, width)) for path in paths])
        return maps.to(image.device, non_blocking=True).float() / 255

    def check_paths(self, paths: Sequence[str]) -> None:
        """Find the map of every image, and read its header."""
        for path in paths:
            _check(self._find(Path(path)))

    def extra_repr(self) -> str:
        """Name the folder."""
        return f"root={str(self.root)!r}"

    def _map(self, path: str, size: tuple[int, int]) -> Tensor:
        if path not in self._cache or self._cache[path].shape[-2:] != size:
            self._cache[path] = resize(_read(self._find(Path(path))), list(size), antialias=True)
        return self._cache[path]

    def _find(self, image: Path) -> Path:
        """Find the map of an image and record that it belongs to this image.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it belongs to another image.
        """
        if self._pictures is None:
            self._pictures = _list_pictures(self.root)
        parts = image.with_suffix("").parts
        tails = (parts[start:] for start in range(len(parts)))
        found = next((self._pictures[tail] for tail in tails if tail in self._pictures), None)
        if found is None:
            names = ["/".join(name) for name in self._pictures]
            near = ", ".join(get_close_matches("/".join(parts[-2:]), names, cutoff=0.3)) or "none"
            raise FileNotFoundError(
                f"No saliency map for {image} among the {len(names)} below {self.root}; nearest: {near}. A map has the "
                "name of its image, in folders of the same names, with any suffix of a picture."
            )
        owner = self._owners.setdefault(found, image.absolute())
        if owner != image.absolute():
            raise ValueError(
                f"{found} would be the saliency map of two images, {owner} and {image.absolute()}. Keep the maps in "
                f"folders named after those of the images, such as {'/'.join(parts[-2:])}{found.suffix}."
            )
        return found


def _check(picture: Path) -> None:
    """Check what a map's header tells.

    Raises:
        ValueError: If it cannot be read, or its values do not have 8 bits: they would be cut off.
    """
    if problem := examine_file(picture):
        raise ValueError(f"saliency: {problem}")
    with naming_what_cannot_be_read("saliency", picture, REMEDY):
        mode = _read_mode(picture, file_version(picture))
    if mode not in EIGHT_BITS:
        raise ValueError(
            f"Saliency maps must have 8 bits per channel, but {picture} has mode {mode!r}. Convert the maps to 8 bits."
        )


@lru_cache(maxsize=100_000)
def _read_mode(picture: Path, _version: tuple[int, int]) -> str:
    """Read a map's header, once until it changes: several transforms may check the same maps."""
    with Image.open(picture) as opened:
        mode: str = opened.mode
        return mode


def _read(picture: Path) -> Tensor:
    """Read a map, ``(1, H, W)`` uint8."""
    _check(picture)
    with naming_what_cannot_be_read("saliency", picture, REMEDY), Image.open(picture) as opened:
        return pil_to_tensor(opened.convert("L"))


def _list_pictures(root: Path) -> dict[tuple[str, ...], Path]:
    """List all pictures below a folder by their relative paths without suffixes.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If two pictures differ in nothing but their suffixes.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder of saliency maps {str(root)!r}, nor an estimator of that name: these are "
            f"{', '.join(ESTIMATORS)}."
        )
    pictures: dict[tuple[str, ...], Path] = {}
    for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES):
        name = path.relative_to(root).with_suffix("").parts
        if name in pictures:
            raise ValueError(f"{pictures[name]} and {path} would both be the map of one image; remove one.")
        pictures[name] = path
    return pictures


def create_saliency(name: str) -> Saliency:
    """Create a source of saliency from its name in a configuration or checkpoint.

    Args:
        name: ``"none"``, ``"spectral_residual"``, ``"border_contrast"``, or the path of a folder of maps, which need
            not exist before first use.

    Example:
        >>> create_saliency("none"), create_saliency("my/maps")
        (NoSaliency(), SaliencyFolder(root='my/maps'))
    """
    return ESTIMATORS[name]() if name in ESTIMATORS else SaliencyFolder(name)
