"""What makes masks mislead: their pixels, their size, and the picture that they are paired with.

anomalib takes each pixel of a mask that is not black as defective, and pairs pictures and masks by their order: both
lists are sorted, apart from each other.
"""

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_anoseg.common.picture_files import examine_file, file_version, open_picture, shown

__all__ = ["belong_together", "examine_mask", "examine_pairs"]

WHITE = 255
# A mask with at most this many grey levels encodes classes.
CLASSES = 8
# How much larger than its core the area of a mask with soft edges may be. In a JPEG file no grey is meant.
TOLERATED_GROWTH = 1.1
REMEDY = "Save masks as PNG, black and white (255), without transparency."


def examine_mask(mask: str | Path, picture: str | Path) -> str:
    """Say why a mask would mark the wrong pixels of a picture; empty if it does not.

    Files that did not change since they were last examined by this process are not read again.

    Example:
        >>> from tempfile import mkdtemp
        >>> picture, mask = Path(mkdtemp()) / "0.png", Path(mkdtemp()) / "0_mask.png"
        >>> Image.new("RGB", (8, 8)).save(picture)
        >>> Image.new("L", (8, 4)).save(mask)
        >>> examine_mask(mask, picture).removeprefix(str(mask.parent))[1:60]
        '0_mask.png has 8 x 4 pixels, its picture 0.png has 8 x 8. M'
    """
    mask, picture = Path(mask), Path(picture)
    if problem := examine_file(mask):
        return problem
    if not belong_together(picture, mask):
        return _mispaired(picture, mask)
    return _examine(mask, picture, file_version(mask), file_version(picture))


@lru_cache(maxsize=100_000)
def _examine(mask: Path, picture: Path, *_versions: tuple[int, int]) -> str:
    name = shown(mask)
    try:
        with open_picture(mask) as image, open_picture(picture) as whole:
            if image.size != whole.size:
                width, height = image.size
                return (
                    f"{name} has {width} x {height} pixels, its picture {picture.name} has {whole.width} x "
                    f"{whole.height}. Make masks of the size of their pictures."
                )
            return f"{name} {problem}" if (problem := _find_problem(image)) else ""
    except Exception as error:  # noqa: BLE001 - each format fails in its own way
        return f"{name} is not a mask, or is corrupt ({error}). Replace it."


def _find_problem(image: Image.Image) -> str:
    levels = np.asarray(image.convert("L"))
    marked = levels > 0
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < WHITE and ((marked & (alpha == 0)).any() or not marked.any()):
            return f"marks by transparency, which anomalib ignores: {marked.mean():.0%} would be defective. {REMEDY}"
    bright: NDArray[np.bool_] = levels > levels.max() / 2
    is_jpeg = image.format == "JPEG"
    grey = ~bright & (marked if is_jpeg else _is_slope(levels))
    growth = 1 + float(grey.sum() / max(1, bright.sum()))
    is_soft = growth > 1 if is_jpeg else growth > TOLERATED_GROWTH and len(np.unique(levels)) > CLASSES
    why = "JPEG blurs its edges" if is_jpeg else "soft edges"
    what = f"has grey pixels ({why}), which count as defective: {growth:.2f} times the area of its bright ones."
    return f"{what} {REMEDY}" if is_soft else ""


def _is_slope(levels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find pixels with a darker one on one side and a brighter one opposite; where numbers of classes meet are few."""
    found = np.zeros(levels.shape, bool)
    for seen, grey in ((found, levels), (found.T, levels.T)):
        first, middle, last = grey[:-2], grey[1:-1], grey[2:]
        seen[1:-1] |= ((first < middle) & (middle < last)) | ((first > middle) & (middle > last))
    return found


def belong_together(picture: str | Path, mask: str | Path) -> bool:
    """Tell whether a mask is not named after another picture; data sets with a list may pair any names.

    Example:
        >>> belong_together("bad/1.png", "masks/1_mask.png"), belong_together("bad/1.png", "masks/10_mask.png")
        (True, False)
    """
    picture, mask = Path(picture), Path(mask)
    if mask.parent.name == picture.stem:
        return True  # a folder of masks for each picture
    if picture.stem in mask.stem and not _is_named_after(picture.stem, mask.stem):
        return False
    of_other = mask.parents[1] / picture.parent.name / mask.name if len(mask.parents) > 1 else mask
    return of_other in {mask, picture} or mask.parent == picture.parent or not of_other.exists()


def examine_pairs(pictures: Sequence[Path], masks: Sequence[Path]) -> list[str]:
    """Say which pictures have no mask, which masks no picture, and whether the order of names pairs them wrongly.

    Args:
        pictures: Anomalous pictures.
        masks: All masks.

    Example:
        >>> bad, masks = [Path("bad/1.png"), Path("bad/2.png")], [Path("masks/1.png")]
        >>> examine_pairs(bad, masks)
        ['bad/2.png has no mask. Add one of its name to masks; a black one if nothing shall be marked.']
        >>> bad, masks = [Path("bad/a-1.png"), Path("bad/a-10.png")], [Path("m/a-10_m.png"), Path("m/a-1_m.png")]
        >>> examine_pairs(bad, masks)  # doctest: +ELLIPSIS
        ['m/a-10_m.png would be the mask of bad/a-1.png: anomalib sorts pictures and masks apart and pairs them by ...']
    """
    free, missing = [(mask, mask.stem) for mask in masks], []
    for picture in pictures:
        stem = picture.stem
        found = [one for one in free if stem in one[1] and _is_named_after(stem, one[1])]
        if found:
            free.remove(next((one for one in found if one[0].parent.name == picture.parent.name), found[0]))
        else:
            missing.append(picture)
    where = shown(masks[0].parent) if masks else "the folder of masks"
    problems = [
        f"{shown(one)} has no mask. Add one of its name to {where}; a black one if nothing shall be marked."
        for one in missing
    ]
    problems += [f"{shown(one)} is the mask of no picture. Rename or remove it." for one, _ in free]
    if not problems:
        pairs = zip(sorted(pictures, key=os.fspath), sorted(masks, key=os.fspath), strict=True)
        wrong = next(((one, mask) for one, mask in pairs if not _is_named_after(one.stem, mask.stem)), None)
        problems = [_mispaired(*wrong)] if wrong else []
    return problems


def _is_named_after(picture: str, mask: str) -> bool:
    """Find the picture's name in the mask's name; numbers must match as a whole, but for leading zeros."""
    before, after = r"(?<!\d)0*" if picture[:1].isdigit() else "", r"(?!\d)" if picture[-1:].isdigit() else ""
    return re.search(f"{before}{re.escape(picture)}{after}", mask) is not None


def _mispaired(picture: Path, mask: Path) -> str:
    return (
        f"{shown(mask)} would be the mask of {shown(picture)}: anomalib sorts pictures and masks apart and pairs them "
        "by order. Give each mask the name and the folder of its picture, or number them with leading zeros."
    )
