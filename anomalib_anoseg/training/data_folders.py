"""The files in a datamodule's folders, and what anomalib's error about them means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from anomalib.data.errors import MisMatchError

from anomalib_anoseg.common.mask_files import examine_pairs
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.common.picture_files import PICTURE_SUFFIXES, examine_file, shown

__all__ = ["NO_TRAINING_IMAGES", "UNCLEAR", "DataFolders", "explain_missing_folder", "explain_refusal", "set_up"]

NO_TRAINING_IMAGES = (
    "No training images were found. Put normal images into the folder that `data` names (train/good in MVTec AD's "
    "layout, normal_dir of Folder), or lower val_split_ratio and test_split_ratio."
)
NO_TEST_IMAGES = "There are no test images to validate on. Set val_split_mode of `data` to from_train, or add some."
# What datamodules raise over their files, without a word of the cause.
UNCLEAR = (LookupError, MisMatchError, OSError, TypeError, ValueError)

# Arguments of `Folder`, and the folders of MVTec AD's layout, which other data sets have, too.
NORMAL, ANOMALOUS, MASKS = ("normal_dir", "normal_test_dir"), "abnormal_dir", "mask_dir"
TRAIN, TEST, GROUND_TRUTH, GOOD = "train", "test", "ground_truth", {"good", "ok"}
# What anomalib says of a path with a letter beyond ASCII.
NOT_ASCII = "Path contains non-printable characters"


class DataFolders(NamedTuple):
    """Files with the ending of a picture, whatever they are, in the folders that a datamodule names.

    Attributes:
        pictures: All files but the masks.
        anomalous: Pictures that are anomalous, as far as their folders tell.
        masks: The masks, if each belongs to a picture of its own.
        lacks_normal: Whether it is known that no picture is to be trained on.

    Example:
        >>> from anomalib.data import Folder
        >>> DataFolders.of(Folder("parts", "nowhere"))
        DataFolders(pictures=[], anomalous=[], masks=[], lacks_normal=True)
    """

    pictures: list[Path]
    anomalous: list[Path]
    masks: list[Path]
    lacks_normal: bool

    @classmethod
    def of(cls, datamodule: Any) -> DataFolders:  # noqa: ANN401
        """List the files of a ``Folder``, or of a datamodule with ``root`` and ``category`` in MVTec AD's layout."""
        root = getattr(datamodule, "root", None)
        if hasattr(datamodule, NORMAL[0]):
            named = {name: _list(root, getattr(datamodule, name, None)) for name in (*NORMAL, ANOMALOUS, MASKS)}
            good = [path for name in NORMAL for path in named[name]]
            return cls([*good, *named[ANOMALOUS]], named[ANOMALOUS], named[MASKS], not named[NORMAL[0]])
        if root is None:
            return cls([], [], [], lacks_normal=False)
        top = Path(root) / (getattr(datamodule, "category", None) or "")
        masks = set(_list(top, GROUND_TRUTH))
        pictures = [path for path in _list(top, ".") if path not in masks]
        anomalous = [path for path in _list(top, TEST) if path.parent.name not in GOOD]
        lacks_normal = (top / TRAIN).is_dir() and not any(path.parent.name in GOOD for path in _list(top, TRAIN))
        is_nested = any(path.parents[1].name != GROUND_TRUTH for path in masks)  # several masks a picture
        return cls(pictures, anomalous, [] if is_nested else sorted(masks), lacks_normal)

    def problems(self) -> list[str]:
        """Say which files cannot be opened, and which masks and pictures do not fit together, by their names alone."""
        found = [problem for path in (*self.pictures, *self.masks) if (problem := examine_file(path))]
        return found + (examine_pairs(self.anomalous, self.masks) if self.masks else [])


def set_up(datamodule: Any) -> None:  # noqa: ANN401
    """Let a datamodule list the files of its parts for a training.

    Raises:
        ValueError: If it cannot, with the cause if that is known, else with the datamodule's own words.
    """
    try:
        datamodule.prepare_data()
        datamodule.setup("fit")
    except (*UNCLEAR, RuntimeError) as error:
        ending = "" if isinstance(error, ValueError) else f" ({type(datamodule).__name__}: {type(error).__name__})"
        raise ValueError(explain_refusal(datamodule, error) or f"{error}{ending}") from error


def explain_refusal(datamodule: Any, error: BaseException) -> str | None:  # noqa: ANN401
    """Find the cause of an error that a datamodule raised while it listed its files, and the remedy.

    Returns:
        A sentence or two, and the error; ``None`` if the cause is not known.

    Example:
        >>> print(explain_refusal(None, ValueError("Path contains non-printable characters: /data/Teile/Prüfteile")))
        anomalib refuses the path /data/Teile/Prüfteile: it takes ASCII letters, digits and signs alone, not 'ü'. ...
    """
    cause = _find_cause(datamodule, error)
    return f"{cause} ({type(datamodule).__name__} stopped with: {one_line(shown(str(error)))})" if cause else None


def explain_missing_folder(datamodule: Any) -> str | None:  # noqa: ANN401
    """Name the folder of pictures that a datamodule was given and that does not exist, and the settings to correct.

    Example:
        >>> from anomalib.data import Folder
        >>> print(explain_missing_folder(Folder("parts", "nowhere/good")))
        There is no folder nowhere/good. Correct root or normal_dir of `data`.
    """
    root = getattr(datamodule, "root", None)
    setting = NORMAL[0] if hasattr(datamodule, NORMAL[0]) else "category"
    missing = [path for path in _folders(root, getattr(datamodule, setting, None)) if not path.exists()]
    return f"There is no folder {shown(str(missing[0]))}. Correct root or {setting} of `data`." if missing else None


def _find_cause(datamodule: Any, error: BaseException) -> str | None:  # noqa: ANN401
    if NOT_ASCII in str(error):
        path = str(error).partition(": ")[2]
        odd = ", ".join(sorted({repr(letter) for letter in path if not " " <= letter <= "~"}))
        return (
            f"anomalib refuses the path {shown(path)}: it takes ASCII letters, digits and signs alone, not {odd}. "
            "Rename the folder, or give the absolute path of a link to it with a plain name."
        )
    train_data = getattr(datamodule, "train_data", None)
    if train_data:
        is_split = getattr(getattr(datamodule, "val_split_mode", None), "value", None) == "from_test"
        return NO_TEST_IMAGES if is_split and not getattr(datamodule, "test_data", None) else None
    if missing := explain_missing_folder(datamodule):
        return missing
    folders = DataFolders.of(datamodule)
    is_empty = (train_data is not None or folders.lacks_normal) and not isinstance(error, OSError)
    return next(iter(folders.problems()), NO_TRAINING_IMAGES if is_empty else None)


def _list(root: Any, folders: Any) -> list[Path]:  # noqa: ANN401
    """List what has the ending of a picture, in order, in folders as for :func:`_folders`."""
    files = [path for folder in _folders(root, folders) for path in sorted(folder.rglob("*"))]
    return [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]


def _folders(root: Any, names: Any) -> list[Path]:  # noqa: ANN401
    """Return the paths of one, several or no folders below ``root``."""
    return [Path(root or ".") / name for name in ([names] if isinstance(names, (str, os.PathLike)) else names or ())]
