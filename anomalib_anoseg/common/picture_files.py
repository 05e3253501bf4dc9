"""What makes a file unusable as a picture, found before a network sees it: from a path to a sentence.

anomalib reads pictures with ``Image.open(path).convert("RGB")``. That clips 16 bits to white, drops transparency and
the EXIF tag that turns a picture, and waits for ever for a named pipe.
"""

import os
import stat
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_anoseg.common.picture_headers import BITS, bits_per_channel, count_pages, orientation_of

__all__ = [
    "PICTURE_SUFFIXES",
    "Picture",
    "examine_file",
    "examine_picture",
    "file_version",
    "open_picture",
    "read_examined",
    "read_picture",
    "reading_threads",
    "shown",
]

# The endings of which anomalib lists files.
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
EIGHT_BIT_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}
OPAQUE = 255
THUMBNAIL = 32  # side in pixels of the small grey copies by which pictures are compared
THREADS = 8  # at most; each holds a whole picture
OPENING = Lock()  # Pillow's limit of pixels belongs to all threads
Read = TypeVar("Read")
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device"}


class Picture(NamedTuple):
    """What is known of a file.

    Attributes:
        problem: Why it cannot be used, and the remedy, in sentences that begin with its name; empty if it can.
        size: Width and height in pixels, if known.
        thumbnail: The picture in grey levels, ``(32, 32)`` uint8, if it can be read.
        is_constant: Whether all of its pixels are equal.
    """

    problem: str = ""
    size: tuple[int, int] | None = None
    thumbnail: NDArray[np.uint8] | None = None
    is_constant: bool = False


def examine_file(path: str | Path) -> str:
    """Say why a path is no file that could be opened: it is a folder, a pipe, a link to nothing, or has a strange name.

    Example:
        >>> examine_file("nowhere.png")
        'nowhere.png does not exist. Restore it, or remove it from the list of pictures.'
    """
    path, name = Path(path), shown(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            return f"{name} is a link to {shown(path.readlink())}, which cannot be reached. Restore that, or remove it."
        if isinstance(error, FileNotFoundError):
            return f"{name} does not exist. Restore it, or remove it from the list of pictures."
        return f"{name} cannot be reached ({error.strerror}). Change its permissions, or move it."
    if not stat.S_ISREG(mode):
        return f"{name} is {KINDS.get(stat.S_IFMT(mode), 'no file')}, not a picture. Rename, move or remove it."
    if name != str(path):
        return f"{name} has a name that is not UTF-8, which anomalib cannot handle. Rename it."
    return ""


def examine_picture(path: str | Path) -> Picture:
    """Read a picture as anomalib would, and say what would be lost, clipped, turned or refused.

    A file that did not change since it was last examined by this process is not read again.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "deep.png"
        >>> Image.new("I;16", (8, 8)).save(path)
        >>> examine_picture(path).problem.removeprefix(str(path))[:62]
        " has pixels of mode 'I;16' (more than 8 bits a channel), which"
        >>> Image.new("RGB", (8, 8)).save(path)
        >>> examine_picture(path).problem
        ''
    """
    path = Path(path)
    if problem := examine_file(path):
        return Picture(problem)
    return _examine(path, file_version(path))


def read_examined(path: str | Path, read: Callable[[], Read]) -> Read:
    """Examine a picture while something else reads it, so that its pixels are decoded once.

    Args:
        path: The picture.
        read: Reads all of its pixels.

    Returns:
        What ``read`` returns.

    Raises:
        ValueError: If it cannot be used, see :func:`examine_picture`; else what ``read`` raises.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "grey.png"
        >>> Image.new("L", (8, 8), 7).save(path)
        >>> read_examined(path, lambda: Image.open(path).convert("RGB").getpixel((0, 0)))
        (7, 7, 7)
    """
    with suppress(Exception):  # examine_picture finds the words for it
        if not examine_file(path) and not _find_problem_in_header(Path(path)):
            return read()
    if problem := examine_picture(path).problem:
        raise ValueError(problem)
    return read()


def read_picture(path: str | Path) -> Image.Image:
    """Read a picture in RGB, as anomalib does.

    Raises:
        ValueError: If it cannot be used; the message is that of :func:`examine_picture`.

    Example:
        >>> read_picture("nowhere.png")
        Traceback (most recent call last):
        ValueError: nowhere.png does not exist. Restore it, or remove it from the list of pictures.
    """
    path = Path(path)
    if problem := examine_file(path):
        raise ValueError(problem)
    try:
        with open_picture(path) as image:
            image.load()
            if not (problem := _find_problem(image)):
                return image.convert("RGB")
    except Exception as error:  # noqa: BLE001 - each format fails in its own way
        raise ValueError(_refusal(path, error).problem) from None
    raise ValueError(f"{shown(path)} {problem}")


def file_version(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change of a file, by which a cache knows that it is still the same."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def open_picture(path: Path) -> Image.Image:
    """Open a picture in Pillow and read its header, one thread at a time."""
    with OPENING:
        return Image.open(path)


@contextmanager
def reading_threads(count: int = THREADS) -> Generator[ThreadPoolExecutor]:
    """Make threads that examine files side by side, without warnings: these appear later, when a picture is read.

    Args:
        count: At most; no more than there are processors.

    Yields:
        ThreadPoolExecutor: The threads; what waits at the end is dropped.

    Example:
        >>> with reading_threads() as threads:
        ...     [problem[:18] for problem in threads.map(examine_file, ["a.png", "b.png"])]
        ['a.png does not exi', 'b.png does not exi']
    """
    # Filters of warnings belong to all threads, so they change here and not where a file is read.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(count, os.cpu_count() or 1)) as threads:
        warnings.simplefilter("ignore")
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def shown(path: str | Path) -> str:
    r"""Write a path such that it can be printed, also if its name is not UTF-8.

    Example:
        >>> shown(os.fsdecode(b"caf\xe9.png"))
        'caf\\xe9.png'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@lru_cache(maxsize=100_000)
def _examine(path: Path, _version: tuple[int, int]) -> Picture:
    try:
        return _read(path)
    except Exception as error:  # noqa: BLE001 - each format fails in its own way
        return _refusal(path, error)


def _refusal(path: Path, error: Exception) -> Picture:
    """Say why a file cannot be read."""
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(path)
    if isinstance(error, PermissionError):
        return Picture(f"{shown(path)} may not be read. Change its permissions.")
    return Picture(f"{shown(path)} is not an image, or is corrupt ({error}). Replace or remove it.")


def _read(path: Path) -> Picture:
    with open_picture(path) as image:
        image.load()
        if problem := _find_problem(image):
            return Picture(f"{shown(path)} {problem}", image.size)
        thumbnail = np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
        return Picture("", image.size, thumbnail, np.ptp(thumbnail) == 0 and _is_constant(image))


def _find_problem_in_header(path: Path) -> str:
    with open_picture(path) as image:
        return _find_problem(image)


def _find_problem(image: Any) -> str:  # noqa: ANN401 - formats have attributes of their own
    """Say what is wrong with a picture that can be read; empty if nothing is.

    Pixels are decoded only if the header does not tell.
    """
    mode, bits, problem = image.mode, bits_per_channel(image), ""
    if mode == "LAB":
        return (
            "is in the colour space LAB (mode 'LAB'), which has 8 bits a channel but cannot be read as RGB. "
            "Convert it to RGB with the program that made it."
        )
    if mode not in EIGHT_BIT_MODES:
        odd = mode.startswith("F") and not np.isfinite(np.asarray(image)).all()
        return (
            f"has pixels of mode {mode!r} (more than 8 bits a channel{', some of them not a number' if odd else ''}), "
            "which would be clipped to white. Convert the images to 8 bits, with the same scale for all of them."
        )
    if bits > BITS:
        problem = (
            f"has {bits} bits a channel, of which anomalib reads the upper 8: pictures of a 12-bit camera become "
            "nearly black. Convert the images to 8 bits, with the same scale for all of them."
        )
    elif image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != OPAQUE:
        problem = "has transparent pixels, whose colour is arbitrary. Flatten the images onto a background."
    elif (orientation := orientation_of(image)) > 1:
        problem = (
            f"is stored turned or mirrored (EXIF orientation {orientation}), which anomalib ignores: it would lie on "
            "its side. Write it upright, with PIL.ImageOps.exif_transpose or `mogrify -auto-orient`."
        )
    elif (pages := count_pages(image)) > 1:
        problem = f"holds {pages} pictures, of which anomalib reads the first alone. Save each as a file of its own."
    return problem


def _is_constant(image: Image.Image) -> bool:
    extrema: Any = image.convert("RGB").getextrema()
    return all(low == high for low, high in extrema)


def _too_large(path: Path) -> Picture:
    """Name the size of a picture that Pillow refuses; only its header is read."""
    with OPENING:
        limit = Image.MAX_IMAGE_PIXELS
        try:
            Image.MAX_IMAGE_PIXELS = None
            with Image.open(path) as image:
                width, height = image.size
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    return Picture(
        f"{shown(path)} has {width} x {height} pixels, more than the {2 * (limit or 0):,} that Pillow reads. Cut it "
        "into tiles or shrink it; in Python, PIL.Image.MAX_IMAGE_PIXELS raises the limit for files that you trust.",
        (width, height),
    )
