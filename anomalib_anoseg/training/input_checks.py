"""Check pictures before hours are spent on them, and before a result is believed."""

from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torchvision.transforms.v2 import Normalize

from anomalib_anoseg.common.one_or_many import as_list
from anomalib_anoseg.training.data_folders import NO_TRAINING_IMAGES, UNCLEAR, explain_refusal
from anomalib_anoseg.training.file_checks import check_data_files, check_shapes, image_paths
from anomalib_anoseg.training.reading_once import read_item, served_paths

# Lightning's number of epochs if the user sets none.
DEFAULT_MAX_EPOCHS = 1000
# Resizing rounds white to a little more than 1.
MARGIN = 1e-3
# In which weights are float32, as images are.
PRECISIONS = {"32-true", "bf16-mixed", "16-mixed"}


class PrecisionCheck(Callback):
    """Check that a trainer leaves weights in float32, before any picture is read."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check.

        Raises:
            ValueError: If it does not.
        """
        del pl_module, stage
        if trainer.precision not in PRECISIONS:
            raise ValueError(
                f"--trainer.precision {trainer.precision} cannot be used: images are float32, so weights must be. Take "
                "32, or bf16-mixed or 16-mixed, which compute most in 16 bits where a processor or GPU does so faster."
            )


class InputCheck(Callback):
    """Check the images that a verb will read, and before a training their range and its length.

    Every file is read: anomalib would clip 16-bit images to white and drop an alpha channel without a warning, and
    would stop at a corrupt file in the middle of an epoch. :class:`~anomalib_anoseg.training.reading_once.ReadingOnce`
    has checked those that it keeps. A training is followed by a test, so it checks test images, too. Images that reach
    the trainer without a list of their files are checked in the first batch of a training.

    Args:
        max_epochs: The model's own number of epochs; without one, Lightning's default of 1000 epochs gets a warning.
        check_paths: Raises if something that the model needs beside an image, such as its saliency map, is missing.
        read_ignore_mask: Reads the ``ignore_mask`` and returns its width and height; ``None`` without one.
    """

    def __init__(
        self,
        max_epochs: int | None = None,
        check_paths: Callable[[Sequence[str]], None] | None = None,
        read_ignore_mask: Callable[[], tuple[int, int] | None] = lambda: None,
    ) -> None:
        self.max_epochs, self.check_paths, self.read_ignore_mask = max_epochs, check_paths, read_ignore_mask
        self._has_data = self._has_batch = False
        self._data: list[Any] = []
        self._shape: tuple[int, int] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise or warn about what is wrong, as soon as the datamodule knows its images.

        Raises:
            ValueError: If there are no training images, a file cannot be used, or images are not in ``[0, 1]``.
        """  # noqa: DOC502 - what checks them raises
        self._has_data = True
        self.read_ignore_mask()
        if stage == "fit":
            self._check_training(trainer, pl_module)
        else:
            self._check_files(trainer, _loaded_data(trainer, stage))

    def _check_files(self, trainer: Trainer, datasets: list[Any], known: Container[str] = ()) -> None:
        self._data = datasets if trainer.is_global_zero else []
        check_data_files(self._data, known)
        self._check_shapes()

    def _check_shapes(self) -> None:
        """Check that pictures have the shape of the ``ignore_mask``, which a checkpoint may bring."""
        size = self.read_ignore_mask()
        if size is not None and size != self._shape:
            self._shape = size
            check_shapes(size, (path for dataset in self._data for path in image_paths(dataset)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the shapes of pictures if a checkpoint has brought the mask; so do the other verbs."""
        del trainer, pl_module
        self._check_shapes()

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def _check_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.max_epochs == DEFAULT_MAX_EPOCHS and self.max_epochs is None:
            rank_zero_warn(
                f"Training is about to run {DEFAULT_MAX_EPOCHS} epochs, Lightning's default. Unless you chose that, "
                "set --trainer.max_epochs, or --model.max_epochs where no trainer options reach the model."
            )
        check_pre_processor(pl_module.pre_processor)
        train_data, val_data, test_data = (_get_data(trainer, f"{name}_data") for name in ("train", "val", "test"))
        if train_data is not None and len(train_data) == 0:
            raise ValueError(NO_TRAINING_IMAGES)
        datasets = [dataset for dataset in (train_data, val_data) if dataset is not None and len(dataset) > 0]
        known = {path for dataset in datasets for path in served_paths(dataset)}
        self._check_files(trainer, [*datasets, test_data], known)
        for dataset in datasets:
            check_dataset(dataset)
            if self.check_paths is not None:
                self.check_paths([str(path) for path in image_paths(dataset)])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Check the first batch as the networks will see it, see :func:`check_images`."""
        del trainer, pl_module, batch_idx
        if not self._has_batch:
            self._has_batch = True
            check_images(batch.image, "the first batch")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put cause and remedy in front of an error that a datamodule raises before :meth:`setup` sees its images."""
        del pl_module
        datamodule: Any = getattr(trainer, "datamodule", None)
        if datamodule is None or self._has_data or not isinstance(exception, UNCLEAR):
            return
        if cause := explain_refusal(datamodule, exception):
            exception.args = (cause,)
            if isinstance(exception, OSError):  # which shows these in place of its arguments
                del exception.filename, exception.strerror


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
    name = next(iter(image_paths(dataset)), "the first image")
    try:
        with isolate_rng():  # augmentations may be random
            image = getattr(read_item(dataset, 0), "image", None)
    except ValueError as error:
        raise ValueError(
            f"The augmentations of `data` produce something that is not a picture ({error}). Images must be RGB, "
            f"(3, H, W): change them to grey by Grayscale(num_output_channels=3). The first image was {name}."
        ) from error
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


def as_images(batch: torch.Tensor) -> torch.Tensor:
    """Make the images, ``(B, 3, H, W)``, that networks take from what a user passes in memory.

    Args:
        batch: ``(B, 3, H, W)`` or ``(3, H, W)``, floating point, in ``[0, 1]``; float64 becomes float32.

    Raises:
        ValueError: If they are not RGB, or no floating point numbers in ``[0, 1]``.

    Example:
        >>> as_images(torch.rand(3, 64, 64, dtype=torch.float64)).shape
        torch.Size([1, 3, 64, 64])
    """
    if batch.ndim not in {3, 4} or batch.shape[-3] != 3 or not batch.is_floating_point():  # noqa: PLR2004
        raise ValueError(
            f"Images must be RGB, (B, 3, H, W) or (3, H, W), floating point in [0, 1]; got {batch.dtype} "
            f"{tuple(batch.shape)}. Repeat the channel of grey images; divide 8-bit values by 255."
        )
    if not torch.compiler.is_compiling():  # an exported file knows no values
        check_images(batch, "what was passed")
    images = batch if batch.ndim == 4 else batch[None]  # noqa: PLR2004
    return images.float() if images.dtype == torch.float64 else images


def _loaded_data(trainer: Trainer, stage: str) -> list[Any]:
    """Find the data sets that a verb reads, before Lightning makes its loaders and reads the first batches.

    Raises:
        ValueError: If the datamodule has none.
        AttributeError: If it lacks anything else.
    """
    loops: Any = {"validate": trainer.validate_loop, "test": trainer.test_loop, "predict": trainer.predict_loop}
    source = loops[stage]._data_source  # noqa: SLF001 - no public name at this time
    try:
        loaders = source.dataloader() if source.is_defined() else []
    except AttributeError as error:
        if error.name not in {"val_data", "test_data"}:
            raise
        raise ValueError(
            f"`data` has no images to {TrainerFn(stage).value} on: set its val_split_mode, or test_split_mode, to "
            f"another one than none ({error})."
        ) from error
    return [getattr(loader, "dataset", None) for loader in as_list(loaders)]


def _get_data(trainer: Trainer, name: str) -> Any:  # noqa: ANN401
    return getattr(getattr(trainer, "datamodule", None), name, None)


def _normalizes(transform: Any) -> bool:  # noqa: ANN401
    """Tell whether a transform is a ``Normalize`` or contains one, at any depth."""
    if isinstance(transform, (Normalize, torchvision.transforms.Normalize)):
        return True
    children = transform.children() if isinstance(transform, nn.Module) else ()
    return any(_normalizes(child) for child in (*children, *getattr(transform, "transforms", ())))
