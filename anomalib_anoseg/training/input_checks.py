"""Check the training data before hours are spent on it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import Normalize
from tqdm import tqdm

# Lightning's number of epochs if the user sets none.
DEFAULT_MAX_EPOCHS = 1000
EIGHT_BIT_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}
# What Pillow raises for corrupt files, depending on where they are corrupt.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

# Resizing rounds white to a little more than 1.
MARGIN = 1e-3

NO_TRAINING_IMAGES = (
    "No training images were found. Put normal images into the folder that `data` names (train/good in MVTec AD's "
    "layout, normal_dir of Folder), or lower val_split_ratio and test_split_ratio."
)
NO_TEST_IMAGES = "There are no test images to validate on. Set val_split_mode of `data` to from_train, or add some."


class InputCheck(Callback):
    """Check the images, their range, and the length of the training when a fit starts.

    Every file to train or validate on is read once: anomalib would clip 16-bit images to white and drop an alpha
    channel without a warning, and would stop at a corrupt file in the middle of an epoch. Images that reach the trainer
    without a datamodule are checked in the first batch.

    Args:
        max_epochs: The model's own number of epochs; without one, Lightning's default of 1000 epochs gets a warning.
        check_paths: Raises if something that the model needs beside an image, such as its saliency map, is missing.
    """

    def __init__(
        self, max_epochs: int | None = None, check_paths: Callable[[Sequence[str]], None] | None = None
    ) -> None:
        self.max_epochs, self.check_paths = max_epochs, check_paths
        self._has_data = self._has_batch = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise or warn about what is wrong, as soon as the datamodule knows its images.

        Raises:
            ValueError: If there are no training images, a file cannot be used, or images are not in ``[0, 1]``.
        """
        if stage != "fit":
            return
        self._has_data = True
        if trainer.max_epochs == DEFAULT_MAX_EPOCHS and self.max_epochs is None:
            rank_zero_warn(
                f"Training is about to run {DEFAULT_MAX_EPOCHS} epochs, Lightning's default. Unless you chose that, "
                "set --trainer.max_epochs, or --model.max_epochs where no trainer options reach the model."
            )
        check_pre_processor(pl_module.pre_processor)
        train_data, val_data = _get_data(trainer, "train_data"), _get_data(trainer, "val_data")
        if train_data is not None and len(train_data) == 0:
            raise ValueError(NO_TRAINING_IMAGES)
        datasets = [dataset for dataset in (train_data, val_data) if dataset is not None and len(dataset) > 0]
        if trainer.is_global_zero:
            check_image_files(dict.fromkeys(path for dataset in datasets for path in _image_paths(dataset)))
        for dataset in datasets:
            check_dataset(dataset)
            if self.check_paths is not None:
                self.check_paths([str(path) for path in _image_paths(dataset)])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Check the first batch as the networks will see it, see :func:`check_images`."""
        del trainer, pl_module, batch_idx
        if not self._has_batch:
            self._has_batch = True
            check_images(batch.image, "the first batch")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the remedy in front of an error that a datamodule raises before :meth:`setup` sees its images."""
        del pl_module
        datamodule: Any = getattr(trainer, "datamodule", None)
        is_unclear = isinstance(exception, (LookupError, TypeError, ValueError))
        if trainer.state.fn != "fit" or datamodule is None or self._has_data or not is_unclear:
            return
        if not _get_data(trainer, "train_data"):
            remedy = NO_TRAINING_IMAGES
        elif not _get_data(trainer, "test_data"):
            remedy = NO_TEST_IMAGES
        else:
            return
        exception.args = (f"{remedy} ({type(datamodule).__name__} stopped with: {exception})",)


def check_pre_processor(pre_processor: Any) -> None:  # noqa: ANN401
    """Check that a pre-processor leaves images in ``[0, 1]``.

    Raises:
        ValueError: If its transform normalises.
    """
    if _normalizes(getattr(pre_processor, "transform", None)):
        raise ValueError(
            "pre_processor must keep images in [0, 1]: anomalies are forged in this range and the reconstruction ends "
            "in a sigmoid. Remove Normalize from its transform."
        )


def check_dataset(dataset: Any) -> None:  # noqa: ANN401
    """Check the augmentations of a data set and the first image that they leave.

    Raises:
        ValueError: If images are not RGB or not in ``[0, 1]``.
    """
    if _normalizes(getattr(dataset, "augmentations", None)):
        raise ValueError("The augmentations of `data` must keep images in [0, 1]. Remove Normalize from them.")
    name = next(iter(_image_paths(dataset)), "the first image")
    try:
        with isolate_rng():  # augmentations may be random
            image = getattr(dataset[0], "image", None)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error} Images must be RGB, (3, H, W).") from error
    if image is not None:
        check_images(image, name)


def check_images(images: torch.Tensor, name: str) -> None:
    """Check images, ``(..., 3, H, W)``, as they come out of a data set.

    Raises:
        ValueError: If they have another shape or leave ``[0, 1]``.
    """
    if images.ndim < 3 or images.shape[-3] != 3:  # noqa: PLR2004
        raise ValueError(f"Images must be RGB, (3, H, W); {name} has shape {tuple(images.shape)}. Convert it to RGB.")
    low, high = images.aminmax()
    if not (images.is_floating_point() and low >= -MARGIN and high <= 1 + MARGIN):  # false for NaN, too
        raise ValueError(
            f"Images must be floating point in [0, 1]; {name} is {images.dtype} in [{low:.3g}, {high:.3g}]. Divide "
            "8-bit values by 255; remove Normalize and bicubic resizing, which overshoots, from the augmentations of "
            "`data` and from pre_processor."
        )


def check_batch(image: torch.Tensor, min_side: int) -> None:
    """Check the shape of a batch, which costs nothing; :class:`InputCheck` looks at its values once.

    Raises:
        ValueError: If the images are not RGB or a side is shorter than ``min_side`` pixels.
    """
    if image.shape[1] != 3 or min(image.shape[-2:]) < min_side:  # noqa: PLR2004
        raise ValueError(
            f"Training images must be (B, 3, H, W) with sides of {min_side} pixels or more, got {tuple(image.shape)}. "
            "Convert them to RGB and set image_size."
        )


def check_image_files(paths: Iterable[str | Path]) -> None:
    """Check that image files can be read, have 8 bits a channel, and no transparent pixels.

    Raises:
        ValueError: If one cannot be used; the message names the file and the remedy.
    """
    for path in tqdm(list(paths), desc="Checking images", leave=False, unit="image"):
        try:
            with Image.open(path) as image:
                image.load()
                mode, has_alpha = image.mode, image.has_transparency_data
                is_opaque = not has_alpha or image.convert("RGBA").getchannel("A").getextrema()[0] == 255  # noqa: PLR2004
        except UNREADABLE as error:
            raise ValueError(f"{path} is not an image, or is corrupt ({error}). Replace or remove it.") from error
        if mode not in EIGHT_BIT_MODES:
            raise ValueError(
                f"{path} has pixels of mode {mode!r} (more than 8 bits a channel), which would be clipped to white. "
                "Convert the images to 8 bits, with the same scale for all of them."
            )
        if not is_opaque:
            raise ValueError(
                f"{path} has transparent pixels, whose colour is arbitrary. Flatten the images onto a background."
            )


def _get_data(trainer: Trainer, name: str) -> Any:  # noqa: ANN401
    return getattr(getattr(trainer, "datamodule", None), name, None)


def _image_paths(dataset: Any) -> Iterable[str]:  # noqa: ANN401
    """Paths of a data set's images; none if it keeps no list."""
    return getattr(getattr(dataset, "samples", None), "image_path", ())


def _normalizes(transform: Any) -> bool:  # noqa: ANN401
    """Tell whether a transform is a ``Normalize`` or contains one, at any depth."""
    if isinstance(transform, (Normalize, torchvision.transforms.Normalize)):
        return True
    children = transform.children() if isinstance(transform, nn.Module) else ()
    return any(_normalizes(child) for child in (*children, *getattr(transform, "transforms", ())))
