"""Check the files of data sets: each picture that a verb will read, and each mask, is opened once."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anomalib_anoseg.common.ignore_mask import explain_shape
from anomalib_anoseg.common.mask_files import examine_mask
from anomalib_anoseg.common.picture_files import Picture, examine_picture, open_picture, reading_threads


def check_image_files(paths: Iterable[str | Path]) -> None:
    """Check that files can be read as pictures, see :func:`~anomalib_anoseg.common.picture_files.examine_picture`.

    Raises:
        ValueError: If one cannot be used; the message names the file, the cause and the remedy.
    """
    names = list(dict.fromkeys(paths))
    with reading_threads() as threads:
        pictures = threads.map(examine_picture, names)
        for picture in tqdm(pictures, "Checking images", len(names), leave=False, disable=not names, unit="image"):
            if picture.problem:
                raise ValueError(picture.problem)


def check_shapes(size: tuple[int, int], paths: Iterable[str | Path]) -> None:
    """Check that pictures have the aspect ratio of the ``ignore_mask``, whose width and height are ``size``.

    Raises:
        ValueError: If one has another.
    """
    for path in dict.fromkeys(map(str, paths)):
        with open_picture(Path(path)) as image:  # reads the header alone
            picture = Picture(size=image.size)
        if problem := explain_shape(size, picture, path):
            raise ValueError(problem)


def check_data_files(datasets: Iterable[Any], known: Container[str] = ()) -> None:
    """Check the images of data sets, and then their masks; a data set without a list of its files is left out.

    Args:
        datasets: The data sets.
        known: Images that have been checked.

    Raises:
        ValueError: If one cannot be used; the message names the file, the cause and the remedy.
    """
    datasets = list(datasets)
    paths = (path for dataset in datasets for path in image_paths(dataset))
    check_image_files(path for path in paths if str(path) not in known)
    pairs = dict.fromkeys(pair for dataset in datasets for pair in mask_pairs(dataset))
    with reading_threads() as threads:
        for problem in threads.map(lambda pair: examine_mask(*pair), pairs):
            if problem:
                raise ValueError(problem)


def mask_pairs(dataset: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """List a data set's masks of anomalous pictures, each with its picture; none if it keeps no list.

    Yields:
        tuple[str, str]: Their paths.
    """
    samples = getattr(dataset, "samples", None)
    if samples is None or not {"mask_path", "label_index"} <= set(samples):
        return
    for picture, mask, label in zip(samples.image_path, samples.mask_path, samples.label_index, strict=True):
        several = mask if isinstance(mask, (list, tuple)) else [mask]  # MVTec LOCO has one for each part of a defect
        yield from ((one, str(picture)) for one in several if label == 1 and isinstance(one, str) and one)


def image_paths(dataset: Any) -> Iterable[str]:  # noqa: ANN401
    """Paths of a data set's images; none if it keeps no list."""
    return getattr(getattr(dataset, "samples", None), "image_path", getattr(dataset, "image_filenames", ()))
