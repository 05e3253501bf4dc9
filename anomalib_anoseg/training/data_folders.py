"""The files in a datamodule's folders, and what anomalib's error about them means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from anomalib_anoseg.common.mask_files import examine_pairs
from anomalib_anoseg.common.picture_files import PICTURE_SUFFIXES, examine_file, shown

__all__ = ["DataFolders", "explain_error"]

# Arguments of `Folder`, and the folders of MVTec AD's layout.
NORMAL, ANOMALOUS, MASKS = ("normal_dir", "normal_test_dir"), "abnormal_dir", "mask_dir"
TEST, GROUND_TRUTH, GOOD = "test", "ground_truth", "good"
# What anomalib says of a path with a letter beyond ASCII.
NOT_ASCII = "Path contains non-printable characters"


class DataFolders(NamedTuple):
    """Files with the ending of a picture, whatever they are, in the folders that a datamodule names.

    Attributes:
        pictures: All that are no masks.
        anomalous: Those of them that are anomalous, as far as their folders tell.
        masks: The masks.

    Example:
        >>> from anomalib.data import Folder
        >>> DataFolders.of(Folder("parts", "nowhere"))
        DataFolders(pictures=[], anomalous=[], masks=[])
    """

    pictures: list[Path]
    anomalous: list[Path]
    masks: list[Path]

    @classmethod
    def of(cls, datamodule: Any) -> DataFolders:  # noqa: ANN401
        """List the files of a ``Folder``, or of a datamodule with ``root`` and ``category`` in MVTec AD's layout."""
        root = getattr(datamodule, "root", None)
        if hasattr(datamodule, NORMAL[0]):
            named = {name: _list(root, getattr(datamodule, name, None)) for name in (*NORMAL, ANOMALOUS, MASKS)}
            good = [path for name in NORMAL for path in named[name]]
            return cls([*good, *named[ANOMALOUS]], named[ANOMALOUS], named[MASKS])
        if root is None:
            return cls([], [], [])
        top = Path(root) / (getattr(datamodule, "category", None) or "")
        masks, tested = _list(top, GROUND_TRUTH), _list(top, TEST)
        anomalous = [path for path in tested if path.parent.name != GOOD]
        return cls([path for path in _list(top, ".") if path not in set(masks)], anomalous, masks)

    def problems(self) -> list[str]:
        """Say which files cannot be opened, and which masks and pictures do not fit together, by their names alone."""
        found = [problem for path in (*self.pictures, *self.masks) if (problem := examine_file(path))]
        return found + (examine_pairs(self.anomalous, self.masks) if self.masks else [])


def explain_error(datamodule: Any, error: BaseException) -> str | None:  # noqa: ANN401
    """Find the cause of an error that a datamodule raised while it listed its files, and the remedy.

    Returns:
        A sentence or two; ``None`` if the cause is not known.

    Example:
        >>> print(explain_error(None, ValueError("Path contains non-printable characters: /data/Teile/Prüfteile")))
        anomalib refuses the path /data/Teile/Prüfteile: it takes ASCII letters, digits and signs alone, not 'ü'. ...
    """
    if NOT_ASCII in str(error):
        path = str(error).partition(": ")[2]
        odd = ", ".join(sorted({repr(letter) for letter in path if not " " <= letter <= "~"}))
        return (
            f"anomalib refuses the path {shown(path)}: it takes ASCII letters, digits and signs alone, not {odd}. "
            "Rename the folder, or give the absolute path of a link to it with a plain name."
        )
    return next(iter(DataFolders.of(datamodule).problems()), None)


def _list(root: Any, folders: Any) -> list[Path]:  # noqa: ANN401
    """List what has the ending of a picture, in order; ``folders`` is one, several or none, below ``root``."""
    names = [folders] if isinstance(folders, (str, os.PathLike)) else folders or ()
    files = [path for name in names for path in sorted((Path(root or ".") / name).rglob("*"))]
    return [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
