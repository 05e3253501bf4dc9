"""The pictures that a calibration reads: those that are held out, or else some of the training."""

from typing import Any

import torch
from anomalib.data.transforms.utils import extract_transforms_by_type
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Normalize

from anomalib_anoseg.common.appearance import measure
from anomalib_anoseg.training.calibration import Normalisation

# Normal images: enough for a threshold, and a bound on the cost of a calibration, which every validation repeats.
MAX_NORMAL_IMAGES = 64
# Of red, green and blue, as in Pillow.
GREY = (0.299, 0.587, 0.114)


def count_good(dataset: Any) -> int:  # noqa: ANN401
    """Count the good pictures of a data set; without labels, all of them.

    Example:
        >>> count_good(["picture", "picture"]), count_good(None)
        (2, 0)
    """
    labels = getattr(getattr(dataset, "samples", None), "label_index", None)
    if labels is not None:
        return int((labels == 0).sum())
    return 0 if dataset is None else len(dataset)


def count_data(trainer: Trainer) -> tuple[int, int] | None:
    """Count the good pictures that are held out, and all that the training has; ``None`` before they are known."""
    datamodule: Any = getattr(trainer, "datamodule", None)
    training = getattr(datamodule, "train_data", None)
    if training is None:
        return None
    held_out = count_good(getattr(datamodule, "val_data", None))
    return held_out, held_out + count_good(training)


def paths_of(batch: Any) -> list[str]:  # noqa: ANN401
    """Files of a batch's images; none if the data set does not provide them."""
    return list(getattr(batch, "image_path", None) or [])


def normalisation(pl_module: LightningModule, image: Tensor) -> Normalisation:
    """Find mean and standard deviation by which the model's pre-processor normalises: ``(C, 1, 1)`` each."""
    pre_processor = getattr(pl_module, "pre_processor", None)
    found: list[Any] = extract_transforms_by_type(getattr(pre_processor, "transform", None), Normalize)
    mean, std = (found[-1].mean, found[-1].std) if found else ([0.0], [1.0])
    return Normalisation(image.new_tensor(mean).view(-1, 1, 1), image.new_tensor(std).view(-1, 1, 1))


def measure_looks(pl_module: LightningModule, image: Tensor) -> Tensor:
    """Measure how pictures look as the model sees them.

    Args:
        pl_module: The model, whose pre-processor may normalise.
        image: ``(N, 3, H, W)``, normalised.

    Returns:
        ``(N, 5)``: height, width, and what :func:`~anomalib_anoseg.common.appearance.measure` finds.
    """
    mean, std = normalisation(pl_module, image)
    levels = (255 * (image * std + mean) * image.new_tensor(GREY).view(-1, 1, 1)).sum(1)
    found = torch.from_numpy(measure(levels.float().cpu().numpy())).float()
    return torch.cat((found.new_tensor(image.shape[-2:]).expand(len(image), 2), found), dim=1).to(image.device)


def has_anomalies(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader serves anomalous images; one that does not say counts as anomalous."""
    return bool(getattr(loader.dataset, "has_anomalous", True))


def some_images(loader: DataLoader[Any], pl_module: LightningModule) -> tuple[Tensor, list[str]]:
    """Evenly spaced training images, as the model sees them, ``(N, 3, H, W)``, ``N`` up to 64, and their files."""
    dataset: Any = loader.dataset
    count = min(len(dataset), MAX_NORMAL_IMAGES)
    items = [dataset[place * len(dataset) // count] for place in range(count)]
    images = torch.stack([item.image for item in items]).to(pl_module.device)
    paths = [item.image_path for item in items if getattr(item, "image_path", None)]
    transform: Any = getattr(pl_module.pre_processor, "transform", None)
    return transform(images) if transform else images, paths
