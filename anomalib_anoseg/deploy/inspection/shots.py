"""The pictures to inspect: which there are, and each read once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anomalib_anoseg.common.picture_files import PICTURE_SUFFIXES, file_version, read_picture, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

# In each folder of results: by what they were made.
ORIGIN = "inspection.json"
# In folders of results: those of pictures that were drawn.
DRAWN = ("overlays", "masks")

__all__ = ["DRAWN", "ORIGIN", "Key", "Shot", "is_picture", "key_of", "list_pictures", "pictures_within", "take"]


class Key(NamedTuple):
    """What makes a picture a new one, also under an old name.

    Attributes:
        path: Absolute, without links among its folders, as it can be printed.
        bytes: Size of the file; ``None`` if it is gone.
        modified_ns: When it was last changed, in nanoseconds since 1970; likewise.
    """

    path: str
    bytes: int | None
    modified_ns: int | None


class Shot(NamedTuple):
    """A picture as it was read.

    Attributes:
        key: Of the file before it was read.
        picture: In RGB; ``None`` if it cannot be used.
        problem: Why not, and the remedy.
    """

    key: Key
    picture: Image.Image | None
    problem: str


def key_of(path: Path) -> Key:
    """Look at a file."""
    path = path.parent.resolve() / path.name
    try:
        return Key(shown(path), *file_version(path))
    except OSError:
        return Key(shown(path), None, None)


def take(path: Path) -> Shot:
    """Read a picture."""
    key = key_of(path)
    try:
        return Shot(key, read_picture(path), "")
    except ValueError as error:
        return Shot(key, None, str(error))


def list_pictures(named: Sequence[Path], own: Sequence[Path]) -> list[Path]:
    """List files, and the pictures within folders and theirs.

    Args:
        named: Files and folders, as the user named them.
        own: Folders that hold no pictures to inspect, because their pictures are results.

    Raises:
        ValueError: If one does not exist, or there is no picture.
    """
    for path in named:
        if not os.path.lexists(path):
            raise ValueError(f"PICTURES: there is no file or folder {shown(path)}. Name one that there is.")
    found = [file for path in named for file in (pictures_within(path, own) if path.is_dir() else [path])]
    if not found:
        endings = ", ".join(sorted(PICTURE_SUFFIXES))
        raise ValueError(f"PICTURES: there are no pictures ({endings}) in {', '.join(map(shown, named))}.")
    return found


def pictures_within(folder: Path, own: Sequence[Path]) -> Iterator[Path]:
    """List the pictures in a folder and its folders by name; hidden ones are left out.

    Yields:
        Path: Each picture.
    """
    left_out = {path.resolve() for path in own}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and Path(place, name).resolve() not in left_out
            and not (name in DRAWN and ORIGIN in files)
        )
        yield from (Path(place, name) for name in sorted(files) if is_picture(Path(name)))


def is_picture(path: Path) -> bool:
    """Tell by its name whether a file is a picture; hidden ones are files that are not finished.

    Example:
        >>> [is_picture(Path(name)) for name in ("a/part.PNG", "a/.part.png", ".a/part.png", "a/part.txt")]
        [True, False, False, False]
    """
    return path.suffix.lower() in PICTURE_SUFFIXES and not any(part.startswith(".") for part in path.parts)
