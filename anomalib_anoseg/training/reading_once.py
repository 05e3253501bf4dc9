"""Read each picture of a training once, and serve it in every epoch at the size of the networks.

anomalib reads a picture anew in each epoch, and shrinks it in the data set, before batches are made. Here the shrunk
pictures are kept: the data set's own items, so that networks see the same pixels. Random augmentations that come
before the resize need whole pictures, which are not kept. Those that come after it are applied to what is kept.
"""

import re
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataset, ImageItem
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from tqdm import tqdm

from anomalib_anoseg.common.memory import available_memory
from anomalib_anoseg.common.picture_files import reading_threads
from anomalib_anoseg.training.repeatable_items import RepeatableItems, find_obstacle, flatten
from anomalib_anoseg.training.shrunk_pictures import INDEX, PIXEL, ShrunkPictures

__all__ = ["ReadingOnce", "read_item", "served_paths", "served_reader"]

# The attribute that PyTorch's loaders ask for a batch of items.
SERVES = "__getitems__"
SHARE = 0.25  # of the available memory
UNKNOWN = 2**30  # bytes, where the system does not tell
THREADS = 4  # each holds a whole picture in floating point
AHEAD = 4 * THREADS  # shrunk pictures that wait for a slow disk
MEGABYTE = 1e6


@dataclass
class Served:
    """Serves a data set's items from what was kept.

    Attributes:
        items: The data set's items.
        pictures: What was kept of them.
    """

    items: RepeatableItems
    pictures: ShrunkPictures

    def __call__(self, indices: Iterable[int]) -> list[ImageItem]:
        """Make items with all augmentations."""
        return [self.items.finish(self.kept(index)) for index in indices]

    def kept(self, index: int) -> ImageItem:
        """Make an item as it was kept."""
        return self.pictures.item(self.items.keys[index])


class ReadingOnce(Callback):
    """Read and examine the pictures of a training once, if their data sets allow it.

    They stay in memory, up to a quarter of what is available. More of them, and those of several processes, are in a
    file beside the folders of the runs, where another training finds them. A picture that changes is read anew.
    """

    def __init__(self) -> None:
        self._kept: list[RepeatableItems] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the pictures before a training, in the first of its processes.

        Raises:
            ValueError: If one cannot be used; the message names the file, the cause and the remedy.
        """  # noqa: DOC502 - what examines them raises
        del pl_module
        if stage != "fit":
            return
        datamodule = getattr(trainer, "datamodule", None)
        for name in ("train", "val"):
            dataset = getattr(datamodule, f"{name}_data", None)
            if not isinstance(dataset, AnomalibDataset) or len(dataset) == 0:
                continue
            if obstacle := find_obstacle(dataset, name):
                rank_zero_info(f"Pictures of {name}_data are read anew in every epoch, {obstacle}")
                continue
            items = RepeatableItems.of(dataset)
            if self._kept and items.size != self._kept[0].size:
                sizes = ["x".join(map(str, each.size)) for each in (items, self._kept[0])]
                rank_zero_info(
                    f"Pictures of {name}_data are read anew in every epoch, because they are resized to {sizes[0]} "
                    f"pixels, and those of train_data to {sizes[1]}."
                )
                continue
            self._kept.append(items)
        if self._kept and trainer.is_global_zero:
            self._serve(_read(self._kept, find_folder(trainer.default_root_dir), trainer.world_size > 1))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In every other process, find what the first one has read."""
        del pl_module
        if self._kept and not trainer.is_global_zero:
            self._serve(_find(self._kept, find_folder(trainer.default_root_dir)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the pictures: other verbs read each once anyway."""
        del trainer, pl_module
        if stage == "fit":
            self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the pictures."""
        del trainer, pl_module, exception
        self._release()

    def _serve(self, pictures: ShrunkPictures | None) -> None:
        if pictures is None:
            return
        for items in self._kept:
            setattr(items.dataset, SERVES, Served(items, pictures))

    def _release(self) -> None:
        for items in self._kept:
            vars(items.dataset).pop(SERVES, None)
        self._kept.clear()


def read_item(dataset: Any, index: int) -> Any:  # noqa: ANN401
    """Get an item of a data set, without reading its file if it is kept."""
    served = _served(dataset)
    return served([index])[0] if served else dataset[index]


def served_paths(dataset: Any) -> Iterator[str]:  # noqa: ANN401
    """List the pictures of a data set that have been examined and are kept.

    Yields:
        str: Their paths.
    """
    if _served(dataset):
        yield from map(str, dataset.samples.image_path)


def served_reader(dataset: Any, transforms: Sequence[Any]) -> Callable[[int], ImageItem] | None:  # noqa: ANN401
    """Find a function that returns kept items, if these transforms, in place of the augmentations, gave their images.

    Args:
        dataset: Any.
        transforms: Transforms or ``None``, applied in this order.

    Returns:
        A function of the index; ``None`` if such images are not kept.
    """
    served = _served(dataset)
    wanted = [step for transform in transforms for step in flatten(transform)]
    return served.kept if served and repr(list(served.items.steps)) == repr(wanted) else None


def find_folder(root: str | Path) -> Path:
    """Find the folder that all runs of a model on a data set share.

    Example:
        >>> find_folder("/results/AnoSeg/parts/v3").as_posix(), find_folder("/runs").as_posix()
        ('/results/AnoSeg/parts', '/runs')
    """
    root = Path(root).resolve()
    return root.parent if re.fullmatch(r"v\d+", root.name) else root


def _served(dataset: Any) -> Served | None:  # noqa: ANN401
    served = getattr(dataset, SERVES, None)
    return served if isinstance(served, Served) else None


def _find(sets: Sequence[RepeatableItems], folder: Path) -> ShrunkPictures | None:
    """Find a file that has all items."""
    found = ShrunkPictures.find(folder)
    return found if found and all(key in found.entries for items in sets for key in items.keys) else None


def _read(sets: Sequence[RepeatableItems], folder: Path, is_shared: bool) -> ShrunkPictures | None:
    """Read all items; ``None`` if they cannot be kept, with a line that says why."""
    wanted = {key: (items, index) for items in sets for index, key in enumerate(items.keys)}
    found = ShrunkPictures.find(folder)
    if found and wanted.keys() <= found.entries.keys():
        rank_zero_info(f"Found all {len(wanted)} pictures of this training, shrunk, in {folder / INDEX}.")
        return found
    shape = torch.Size((3, *sets[0].size))
    size = len(wanted) * shape.numel() * PIXEL.itemsize
    limit = UNKNOWN if (available := available_memory()) is None else SHARE * available
    in_file = is_shared or size > limit
    place = f"in {folder / INDEX}" if in_file else "of memory"
    sides = "x".join(map(str, sets[0].size))
    what = f"{len(wanted)} pictures once, shrunk to {sides} pixels, into {size / MEGABYTE:,.1f} MB {place}"

    def read(key: str) -> tuple[str, ImageItem]:
        items, index = wanted[key]
        return key, found.item(key) if found and key in found.entries else items.read(index)

    try:
        pictures = _keep(read, wanted, shape, folder if in_file else None, f"Reading {what}")
    except OSError as error:
        too_large = f"more than the memory limit for cached pictures, {limit / MEGABYTE:,.1f} MB"
        rank_zero_info(
            f"Pictures are read anew in every epoch. Shrunk, they take {size / MEGABYTE:,.1f} MB, "
            f"{too_large if size > limit else 'which several processes share in a file alone'}, "
            f"and no file holds them: {error}"
        )
        return None
    rank_zero_info(f"Read {what}.")
    return pictures


def _keep(
    read: Callable[[str], tuple[str, ImageItem]],
    keys: Collection[str],
    shape: torch.Size,
    folder: Path | None,
    title: str,
) -> ShrunkPictures:
    """Read items side by side, and keep them in memory, or in a file that leaves some room on the disk.

    Raises:
        OSError: If it cannot be written.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if len(keys) * shape.numel() * PIXEL.itemsize > (1 - SHARE) * free:
            raise OSError(f"{folder} has only {free / MEGABYTE:,.1f} MB left")
    with reading_threads(THREADS) as threads:
        items = tqdm(_read_ahead(threads, read, keys), title, len(keys), leave=False, unit="image")
        if folder is None:
            return ShrunkPictures.in_memory(items, len(keys), shape)
        return ShrunkPictures.in_file(items, shape, folder)


def _read_ahead(
    threads: ThreadPoolExecutor, read: Callable[[str], tuple[str, ImageItem]], keys: Iterable[str]
) -> Iterator[tuple[str, ImageItem]]:
    """Read items side by side, some ahead of the consumer.

    Yields:
        tuple[str, ImageItem]: What is read, in the order of the keys.
    """
    waiting: deque[Future[tuple[str, ImageItem]]] = deque()
    for key in keys:
        if len(waiting) == AHEAD:
            yield waiting.popleft().result()
        waiting.append(threads.submit(read, key))
    while waiting:
        yield waiting.popleft().result()
