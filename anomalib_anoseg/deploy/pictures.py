"""The pictures of a datamodule as exported files take them: float32 in ``[0, 1]``, as large as they are.

In a test anomalib resizes a picture, and its mask with it, before the networks see it. An exported file resizes the
picture itself, so it gets the picture as an integrator hands it over; masks are resized here, as in a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from anomalib.data.transforms.utils import extract_transforms_by_type
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize
from torchvision.tv_tensors import Mask

from anomalib_anoseg.common.picture_files import examine_picture
from anomalib_anoseg.training.calibration import Calibratable
from anomalib_anoseg.training.file_checks import check_data_files, check_image_files, image_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["CalibrationData", "LabelledPictures", "Pictures", "resize_of"]


def resize_of(model: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401
    """Find the resize of a model's pre-processor; without one, pictures stay as they are.

    Example:
        >>> import torch
        >>> from anomalib_anoseg import AnoSeg
        >>> resize_of(AnoSeg((64, 96), network={"width": 0.125}))(torch.zeros(3, 10, 10)).shape
        torch.Size([3, 64, 96])
    """
    resizes = extract_transforms_by_type(getattr(model.pre_processor, "transform", None), Resize)
    return resizes[0] if resizes else lambda picture: picture


class LabelledPictures(NamedTuple):
    """A batch with its ground truth.

    Attributes:
        image: ``(B, 3, H, W)``, float32 in ``[0, 1]``, as large as the pictures are.
        label: ``(B,)``, bool.
        mask: ``(B, h, w)``, bool, as large as the model's maps are.
    """

    image: Tensor
    label: Tensor
    mask: Tensor


class Pictures:
    """Serves the pictures of a datamodule to the exported files of one model.

    Args:
        datamodule (Any): A datamodule of anomalib's, as built; it is set up here, once.
        model (Any): The model, whose pre-processor resizes the masks.

    Raises:
        ValueError: If a test picture or its mask cannot be used.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from anomalib_anoseg import AnoSeg
        >>> from anomalib_anoseg.data import DemoTextures
        >>> with TemporaryDirectory() as folder:
        ...     data = DemoTextures(folder, image_size=96, num_train=10, num_test_good=1, num_test_per_defect=1)
        ...     pictures = Pictures(data, AnoSeg((64, 64), network={"width": 0.125}))
        ...     pictures.size, pictures.input_size, len(pictures.for_calibration(8))
        ((64, 64), (96, 96), 8)
    """

    def __init__(self, datamodule: Any, model: Any) -> None:  # noqa: ANN401
        datamodule.prepare_data()
        datamodule.setup()
        check_data_files([datamodule.test_data])
        self._data = datamodule
        self._transform = getattr(model.pre_processor, "transform", None)
        self._resize = resize_of(model)
        self._region: Any = model.region if isinstance(model, Calibratable) else None

    def __len__(self) -> int:
        """Count the test images."""
        return len(self._data.test_data)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at which the networks see the first test image."""
        height, width = self._resize(self._data.test_data[0].image).shape[-2:]
        return height, width

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of all test images, for a file that takes no others; ``None`` if they differ."""
        dataset = self._data.test_data
        if hasattr(dataset, "samples") and not dataset.augmentations:  # what a check has found already
            sizes = {size[::-1] for path in image_paths(dataset) if (size := examine_picture(path).size)}
        else:
            sizes = {tuple(dataset[index].image.shape[-2:]) for index in range(len(dataset))}
        return sizes.pop() if len(sizes) == 1 else None

    def for_test(self, batch: int = 8) -> Iterator[LabelledPictures]:
        """Serve the test images in order.

        Yields:
            LabelledPictures: Up to ``batch`` of them, of one size.
        """
        dataset = self._data.test_data
        read = (dataset[index] for index in range(len(dataset)))
        for _, alike in groupby(read, key=lambda item: item.image.shape):
            while items := list(islice(alike, batch)):
                image = torch.stack([item.image for item in items]).float()
                label = torch.tensor([bool(item.gt_label) for item in items])
                mask = torch.stack([self._mask(item) for item in items])
                if self._region is not None:
                    mask, label = self._region.mask_truth(mask, label)
                yield LabelledPictures(image, label, mask)

    def for_calibration(self, count: int) -> Sequence[Tensor]:
        """Choose validation images, then evenly spaced training images, of which none is a test image.

        Returns:
            Sequence[Tensor]: ``(3, H, W)`` each, read when it is asked for.

        Raises:
            ValueError: If there are none, or one cannot be used.
        """
        tested = set(map(str, self._data.test_data.samples.image_path))
        chosen: list[tuple[Any, int]] = []
        for name in ("val_data", "train_data"):
            dataset = getattr(self._data, name, None)
            if dataset is None:
                continue
            paths = dataset.samples.image_path
            free = [index for index, path in enumerate(paths) if str(path) not in tested]
            wanted = count - len(chosen)
            indices = free[:: max(1, len(free) // wanted or 1)][:wanted]
            check_image_files(paths[index] for index in indices)
            chosen += [(dataset, index) for index in indices]
            if len(chosen) >= count:
                break
        if not chosen:
            raise ValueError("There are no training or validation images to calibrate INT8 on")
        return _Unread(chosen)

    def _mask(self, item: Any) -> Tensor:  # noqa: ANN401
        mask = item.gt_mask if item.gt_mask is not None else torch.zeros(item.image.shape[-2:])
        mask = Mask(mask.to(torch.uint8).reshape(1, *mask.shape[-2:]))
        return torch.as_tensor(self._transform(mask) if self._transform else mask)[0].bool()


class _Unread(Sequence[Any]):
    """Pictures that are read one by one: as large as they are, hundreds do not fit into memory."""

    def __init__(self, places: list[tuple[Any, int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:  # noqa: ANN401
        dataset, index = self._places[place]
        return dataset[index].image.float()


class CalibrationData:
    """Stands in for a datamodule while anomalib calibrates an INT8 file.

    anomalib calibrates on the validation loader: on test images where a data set validates on those. Here the caller
    provides the pictures.

    Args:
        pictures (Sequence[Tensor]): ``(3, H, W)`` each, in ``[0, 1]``.

    Example:
        >>> import torch
        >>> data = CalibrationData([torch.zeros(3, 8, 8)] * 2)
        >>> [batch["image"].shape for batch in data.val_dataloader()]
        [torch.Size([1, 3, 8, 8]), torch.Size([1, 3, 8, 8])]
    """

    train_batch_size = 1

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        self.pictures = pictures

    def setup(self, stage: str | None = None) -> None:
        """Do nothing: the pictures are there."""

    def val_dataloader(self) -> DataLoader[Any]:
        """Serve the pictures one by one."""
        pictures: Any = self.pictures
        return DataLoader(pictures, batch_size=1, collate_fn=lambda batch: {"image": torch.stack(batch)})
