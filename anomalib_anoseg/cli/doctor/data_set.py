"""A whole data set: which of its files mislead a training or a test, in one list."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from anomalib_anoseg.common.ignore_mask import explain_shape, read_ignore_mask
from anomalib_anoseg.common.mask_files import examine_mask
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.common.offline import no_network
from anomalib_anoseg.common.picture_files import (
    Picture,
    examine_file,
    examine_picture,
    read_picture,
    reading_threads,
)
from anomalib_anoseg.deploy.inspection.shift import explain_shift, look_at
from anomalib_anoseg.training.data_folders import NO_TRAINING_IMAGES, DataFolders, explain_missing_folder, set_up
from anomalib_anoseg.training.file_checks import image_paths, mask_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_anoseg.cli.doctor.output import Findings
    from anomalib_anoseg.deploy.record import Appearance

__all__ = ["examine_data"]

SETS = {"train_data": "training", "val_data": "validation", "test_data": "test"}
# Fewer held-out pictures than these give a rough threshold.
FEW = 5
# Small copies whose grey levels differ by no more are of one picture, saved or resized anew. Where a picture has nearly
# one colour all over, small copies of different ones are alike, too: the difference must be a part of its contrast.
ALIKE, PART_OF_CONTRAST = 4, 16


class _Set(NamedTuple):
    """A part of a data set: its files, and its masks, each with its picture."""

    paths: list[str]
    masks: list[tuple[str, str]]


def examine_data(
    datamodule: Any,  # noqa: ANN401
    findings: Findings,
    ignore_mask: str | Path | None = None,
    appearance: Appearance | None = None,
) -> None:
    """Look at all files of a datamodule, without network access, and collect what misleads a training or a test.

    Problems are what anomalib or :class:`~anomalib_anoseg.training.input_checks.InputCheck` would refuse, test
    pictures that were trained on, and an empty validation set. Notes are what may be meant so.

    Args:
        datamodule: A datamodule of anomalib's, as built.
        findings: Collects problems and notes, and prints a summary.
        ignore_mask: File with the region that does not count, if there is one.
        appearance: Of the good pictures that a model's thresholds rest on, with which all parts are compared.
    """
    sets, error = _list_sets(datamodule)
    found: list[str] = []
    if error is not None:
        folders = DataFolders.of(datamodule)
        found = folders.problems() or [explain_missing_folder(datamodule) or one_line(str(error) or error, 600)]
        sets = {"all": _Set([str(path) for path in folders.pictures if not examine_file(path)], [])}
    pictures = _examine_pictures({path for part in sets.values() for path in part.paths})
    found += (picture.problem for picture in pictures.values())
    pairs = dict.fromkeys(pair for part in sets.values() for pair in part.masks)
    with reading_threads() as threads:
        found += threads.map(
            lambda pair: examine_mask(*pair), (pair for pair in pairs if not pictures[pair[1]].problem)
        )
    found += _examine_ignore_mask(ignore_mask, pictures) if ignore_mask else []
    for problem in dict.fromkeys(filter(None, found)):
        findings.problem(problem)
    _examine_split(datamodule, sets, findings)
    _examine_contents(pictures, findings)
    if {"training", "test"} <= sets.keys():
        _compare(sets["training"].paths, sets["test"].paths, pictures, findings)
    if appearance is not None:
        _compare_looks(sets, pictures, appearance, findings)
    rows = [(name, str(len(part.paths)), str(len(part.masks)), _sizes(part, pictures)) for name, part in sets.items()]
    findings.table(f"Data: {type(datamodule).__name__}", rows, ("part", "pictures", "masks", "sizes in pixels"))


def _list_sets(datamodule: Any) -> tuple[dict[str, _Set], Exception | None]:  # noqa: ANN401
    """List the files of each part of a data set; if anomalib cannot, return the error."""
    try:
        with no_network():
            set_up(datamodule)
    except Exception as error:  # noqa: BLE001 - datamodules fail in any way
        return {}, error
    parts = {title: getattr(datamodule, name, None) for name, title in SETS.items()}
    return {
        title: _Set(list(map(str, image_paths(part))), list(mask_pairs(part)))
        for title, part in parts.items()
        if part is not None
    }, None


def _examine_pictures(paths: Iterable[str]) -> dict[str, Picture]:
    names = sorted(paths)
    with reading_threads() as threads:
        found = threads.map(examine_picture, names)
        progress = track(found, "Reading pictures", len(names), console=Console(stderr=True), transient=True)
        return dict(zip(names, progress, strict=True))


def _examine_ignore_mask(path: str | Path, pictures: dict[str, Picture]) -> list[str]:
    """Say what is wrong with the mask of what does not count, once for each size of pictures that it does not fit."""
    try:
        height, width = read_ignore_mask(path).shape
    except ValueError as error:
        return [str(error)]
    first = {picture.size: name for name, picture in reversed(pictures.items())}
    return [explain_shape((width, height), pictures[name], name) for name in first.values()]


def _examine_split(datamodule: Any, sets: dict[str, _Set], findings: Findings) -> None:  # noqa: ANN401
    if "training" in sets and not sets["training"].paths:
        findings.problem(NO_TRAINING_IMAGES)
    if "validation" not in sets:
        return
    held_out, mode = len(sets["validation"].paths), str(getattr(datamodule.val_split_mode, "value", ""))
    if held_out == 0:
        findings.problem(
            f"No picture is held out to set thresholds: val_split_mode {mode}, val_split_ratio "
            f"{datamodule.val_split_ratio:g}, {len(sets['training'].paths)} training pictures. Raise the ratio, or add "
            "pictures."
        )
    elif held_out < FEW:
        findings.note(f"Thresholds will rest on {held_out} held-out pictures (val_split_ratio, {mode}).")


def _examine_contents(pictures: dict[str, Picture], findings: Findings) -> None:
    sizes = {picture.size for picture in pictures.values() if picture.size}
    if len(sizes) > 1:
        findings.note(
            f"Pictures have {len(sizes)} sizes, from {_shape(min(sizes))} to {_shape(max(sizes))} pixels; all are "
            "stretched to image_size. If their scales differ, crop them to one size."
        )
    for path, picture in pictures.items():
        if picture.is_constant:
            findings.note(f"{path} has one colour all over. If the camera failed, remove it.")


def _compare(training: Sequence[str], test: Sequence[str], pictures: dict[str, Picture], findings: Findings) -> None:
    """Find test pictures that were trained on, byte by byte or nearly."""
    known = [path for path in training if pictures[path].thumbnail is not None]
    if not known:
        return
    copies = np.stack([_levels(pictures[path]) for path in known])
    for path in (path for path in test if pictures[path].thumbnail is not None):
        levels = _levels(pictures[path])
        differences = np.abs(copies - levels).max(axis=(1, 2))
        first = int(differences.argmin())
        if differences[first] == 0 and (
            same := _same_bytes(path, [known[n] for n in np.flatnonzero(differences == 0)])
        ):
            findings.problem(
                f"{path} is a test picture and, byte by byte, the training picture {same}: test figures will be too "
                "good. Remove one of them."
            )
        elif (
            differences[first] <= min(ALIKE, np.ptp(levels) // PART_OF_CONTRAST) and np.ptp(levels) >= PART_OF_CONTRAST
        ):
            findings.note(f"{path} looks like the training picture {known[first]}. If it is the same part, remove one.")


def _compare_looks(
    sets: dict[str, _Set], pictures: dict[str, Picture], appearance: Appearance, findings: Findings
) -> None:
    for name, part in sets.items():
        usable = [path for path in part.paths if not pictures[path].problem]
        with reading_threads() as threads:
            looks = list(threads.map(lambda path: look_at(read_picture(path), appearance), usable))
        if looks and (line := explain_shift(np.stack(looks), appearance, subject=f"The {name} pictures")):
            findings.problem(line)


def _levels(picture: Picture) -> NDArray[np.int16]:
    return np.asarray(picture.thumbnail, np.int16)


def _same_bytes(path: str, others: Sequence[str]) -> str | None:
    return next((other for other in others if filecmp.cmp(path, other, shallow=False)), None)


def _sizes(part: _Set, pictures: dict[str, Picture]) -> str:
    sizes = sorted({size for path in part.paths if (size := pictures[path].size)})
    return _shape(sizes[0]) + (f" to {_shape(sizes[-1])}" if len(sizes) > 1 else "") if sizes else ""


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
