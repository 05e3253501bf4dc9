"""A small data set, made on the user's machine in seconds, so that a first training needs no download."""

import logging
import math
import shutil
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from numpy.typing import NDArray
from PIL import Image
from platformdirs import user_cache_dir
from torchvision.transforms.v2 import Transform

from anomalib_anoseg.common.checks import check_finite
from anomalib_anoseg.data.defects import DEFECTS, mark_changes
from anomalib_anoseg.data.surfaces import SURFACES, Camera

logger = logging.getLogger(__name__)

EDITION = 2  # part of the folder's name; raise it whenever a pixel changes
IMAGE_SIZES = (64, 160)  # pixels; a rotated and zoomed crop of the largest size still fits into the test columns
COUNTS = (1, 10_000)  # file names have four digits: anomalib pairs pictures and masks in the order of their names
DEFECT_AREA = (0.0015, 0.15)  # smallest and largest fraction of the picture that a defect changes
README = """\
DemoTextures, edition {edition}: {category}

A demonstration set for anomaly detection, made by the Python package anomalib-anoseg. It shows that a pipeline works.
It is no benchmark: the defects are drawn, and results on it do not carry over to real parts.

Pictures      {size} x {size} pixels, cut from one photograph; training pictures from its left part, test pictures from
              its right part. Colours, light, sensor noise and defects were added by computer (seed {seed}).
Masks         255 where the defect changes the picture visibly, before sensor noise; 0 elsewhere.
Photograph    skimage/data/{file} of scikit-image (https://scikit-image.org), whose documentation says that the
              original comes from CC0Textures, under the Creative Commons CC0 licence.

This folder is a cache: it can be deleted at any time and is made again, byte for byte, when it is needed.
"""


class DemoTextures(AnomalibDataModule):
    """Photographed surfaces with drawn defects, in MVTec AD's layout.

    Normal pictures are crops of one photograph that scikit-image ships, varied as a camera would vary them; test
    pictures come from a part of it that no training picture shows. Validation uses training pictures only, because a
    user of a one-class model has no defective parts to choose a threshold with. The set is a demonstration, not a
    benchmark.

    Args:
        root (Path | str | None): Folder under which the set is written. Defaults to ``None``: the user's cache folder
            (``~/.cache/anomalib-anoseg`` on Linux).
        category (Literal["brick", "gravel"]): Surface: a brick wall (scratches, stains, chips, foreign objects,
            smears) or, harder, gravel (the same without scratches). Defaults to ``"brick"``.
        image_size (int | tuple[int, int]): Side of the square pictures in pixels, 64 to 160, or that number twice, as
            anomalib's benchmark gives it. A pixel shows the same length of the surface at every size. Defaults to
            ``128``.
        num_train (int): Number of normal training pictures, 1 to 10000; validation takes its share of them.
            Defaults to ``120``.
        num_test_good (int): Number of normal test pictures, 1 to 10000. Defaults to ``20``.
        num_test_per_defect (int): Number of test pictures per kind of defect, 1 to 10000. Defaults to ``20``; with
            few, results depend on the randomly drawn defects.
        train_batch_size (int): Pictures per training batch. Defaults to ``16``.
        eval_batch_size (int): Pictures per validation and test batch. Defaults to ``16``.
        num_workers (int): Processes that load pictures; 0 loads them in the main process. Defaults to ``0``.
        train_augmentations (Transform | None): Augmentations of training pictures. Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations of validation pictures. Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations of test pictures. Defaults to ``None``.
        augmentations (Transform | None): Augmentations of stages without their own. Defaults to ``None``.
        val_split_mode (ValSplitMode | str): Source of validation pictures; ``"same_as_test"`` and
            ``"from_test"`` let a threshold see the test set. Defaults to ``ValSplitMode.FROM_TRAIN``.
        val_split_ratio (float): Fraction of the source that validation takes, between 0 and 1 (exclusive).
            Defaults to ``0.15``.
        seed (int): Seed of the pictures and of the validation split, 0 to 2**63 - 1. Defaults to ``0``.

    Raises:
        ValueError: If an argument is outside the range given above.

    Shape:
        Batches hold images ``(B, 3, image_size, image_size)``, float32 in [0, 1], and masks
        ``(B, image_size, image_size)``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     data = DemoTextures(folder, image_size=64, num_train=10, num_test_good=2, num_test_per_defect=1)
        ...     data.setup()
        ...     batch = next(iter(data.test_dataloader()))
        >>> batch.image.shape, batch.gt_mask.shape
        (torch.Size([7, 3, 64, 64]), torch.Size([7, 64, 64]))
        >>> len(data.train_data), len(data.val_data)
        (9, 1)
    """

    def __init__(
        self,
        root: Path | str | None = None,
        category: Literal["brick", "gravel"] = "brick",
        image_size: int | tuple[int, int] = 128,
        num_train: int = 120,
        num_test_good: int = 20,
        num_test_per_defect: int = 20,
        train_batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_TRAIN,
        val_split_ratio: float = 0.15,
        seed: int = 0,
    ) -> None:
        if category not in SURFACES:
            raise ValueError(f"category must be one of {', '.join(map(repr, SURFACES))}, got {category!r}")
        image_size = _as_side(image_size)
        for name, value in {"train_batch_size": train_batch_size, "eval_batch_size": eval_batch_size}.items():
            check_finite(name, value)
        check_finite("num_workers", num_workers)
        _check_range("num_train", num_train, *COUNTS)
        _check_range("num_test_good", num_test_good, *COUNTS)
        _check_range("num_test_per_defect", num_test_per_defect, *COUNTS)
        _check_range("seed", seed, 0, 2**63 - 1)
        _check_validation(val_split_mode, val_split_ratio, num_train)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            test_split_mode=TestSplitMode.FROM_DIR,
            seed=seed,
        )
        settings = f"{image_size}px-{num_train}-{num_test_good}-{num_test_per_defect}-seed{seed}-edition{EDITION}"
        self.root = Path(root or user_cache_dir("anomalib-anoseg")).expanduser() / "DemoTextures" / settings
        self.category = category
        self.image_size = image_size
        self._counts = {"train": num_train, "good": num_test_good, "defect": num_test_per_defect}

    def prepare_data(self) -> None:
        """Write the set unless it exists.

        It is written to a draft folder and then renamed, so that a set that exists is complete, and processes that
        write it at the same time do no harm.

        Raises:
            OSError: If the folder cannot be written.
        """
        folder = self.root / self.category
        if folder.is_dir():
            logger.info("Found the demonstration set in %s", folder)
            return
        draft = self.root / f".{self.category}-{uuid4().hex}"
        try:
            self._write(draft)
            draft.rename(folder)
            logger.info("Wrote the demonstration set to %s", folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same bytes
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        surface = SURFACES[self.category]
        parts = [("train", "good", self._counts["train"]), ("test", "good", self._counts["good"])]
        parts += [("test", defect, self._counts["defect"]) for defect in surface.defects]
        for split, kind, count in parts:
            (folder / split / kind).mkdir(parents=True)
            for index in range(count):
                picture, mask = render(self.category, split, kind, index, size=self.image_size, seed=self.seed or 0)
                Image.fromarray(picture).save(folder / split / kind / f"{index:04d}.png")
                if kind != "good":
                    path = folder / "ground_truth" / kind / f"{index:04d}_mask.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
        values = {"edition": EDITION, "category": self.category, "size": self.image_size}
        readme = README.format(**values, seed=self.seed, file=surface.file)
        (folder / "README.txt").write_text(readme, encoding="utf-8", newline="\n")

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()  # users of anomalib call only `setup`
        self.train_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TRAIN)
        self.test_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TEST)


def render(
    category: str, split: str, kind: str, index: int, *, size: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Render one picture; equal arguments give equal pixels, whatever other pictures are rendered.

    Args:
        category (str): Key of ``SURFACES``.
        split (str): ``"train"`` or ``"test"``.
        kind (str): ``"good"`` or a defect of the surface.
        index (int): Number of the picture among those of its split and kind.
        size (int): Side in pixels.
        seed (int): Seed of the set.

    Returns:
        tuple[NDArray[np.uint8], NDArray[np.bool_]]: Picture ``(size, size, 3)`` and the defect's mask ``(size, size)``.

    Raises:
        RuntimeError: If no draw gives a defect of acceptable area.

    Example:
        >>> picture, mask = render("brick", "test", "chip", 0, size=64, seed=0)
        >>> picture.shape, bool(mask.any())
        ((64, 64, 3), True)
    """
    surface = SURFACES[category]
    rng = np.random.default_rng([seed, index, *f"{category}/{split}/{kind}".encode()])
    ground = surface.paint(surface.crop(split, size, rng))
    camera = Camera.draw(size, rng)
    exposed = camera.expose(ground)
    if kind == "good":
        return camera.read(exposed), np.zeros((size, size), dtype=np.bool_)
    for _ in range(100):
        changed, mask = mark_changes(exposed, camera.expose(DEFECTS[kind](ground, rng, surface.strength)))
        if DEFECT_AREA[0] <= mask.mean() <= DEFECT_AREA[1]:
            return camera.read(changed), mask
    raise RuntimeError(f"No {kind} of the accepted area was drawn on {category} at {size} pixels, seed {seed}")


def _as_side(image_size: int | tuple[int, int]) -> int:
    check_finite("image_size", image_size)
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    if len(set(sides)) != 1:
        raise ValueError(f"image_size must be one number, because pictures are square, got {image_size}")
    _check_range("image_size", sides[0], *IMAGE_SIZES)
    return sides[0]


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")


def _check_validation(mode: ValSplitMode | str, ratio: float, num_train: int) -> None:
    # anomalib would replace a ratio of 0 by its default, and accept a validation set without a picture
    modes = [known.value for known in ValSplitMode if known is not ValSplitMode.FROM_DIR]  # there is no such folder
    if mode not in modes:
        raise ValueError(f"val_split_mode must be one of {', '.join(map(repr, modes))}, got {mode!r}")
    if not 0 < ratio < 1:
        raise ValueError(f"val_split_ratio must be between 0 and 1 (exclusive), got {ratio}")
    least = math.ceil(1 / ratio)
    if mode in {ValSplitMode.FROM_TRAIN, ValSplitMode.SYNTHETIC} and num_train < least:
        raise ValueError(f"num_train must be at least {least} for val_split_ratio={ratio}, got {num_train}")
