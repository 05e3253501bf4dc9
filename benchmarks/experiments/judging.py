"""Judge AnoSeg without test images: by anomalies on held-out normal images, and figures of its maps.

Anomalies are of two kinds. `forged` ones come from an augmentation of this package, as in a training. `drawn` ones come
from the demonstration data's code, from which no model learns.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import MVTecAD
from anomalib.data.datamodules.base import AnomalibDataModule
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_jaccard_index,
    binary_precision_recall_curve,
)

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.data import DemoTextures, defects
from anomalib_anoseg.transforms.saliency import BorderContrast

DEMO: Any = "brick"
HELD_OUT = 24  # images of a set to judge on, at most
JUDGING_SEED = 10_000
ATTEMPTS = 50  # draws of a defect until it lies on the object


def make_data(folder: Path | None, batch: int = 8, seed: int = 0, held_out: float = 0.2) -> AnomalibDataModule:
    """Make the data module of a set in MVTec AD's layout, of which a share is held out, or of the demonstration."""
    split: dict[str, Any] = {"val_split_mode": "from_train", "val_split_ratio": held_out, "seed": seed}
    sizes: dict[str, Any] = {"train_batch_size": batch, "eval_batch_size": batch, "num_workers": 0}
    if folder is None:
        return DemoTextures(category=DEMO, **sizes)
    return MVTecAD(folder.parent, folder.name, **sizes, **split)


def held_out(data: Any, model: AnoSeg, number: int = HELD_OUT) -> Tensor:  # noqa: ANN401
    """Read normal images that no training sees, resized for the model: ``(N, 3, H, W)``."""
    return as_tested(model, [data.val_data[index] for index in range(min(number, len(data.val_data)))])


def as_tested(model: Any, items: list[Any]) -> Tensor:  # noqa: ANN401
    """Resize images ``(N, 3, H, W)`` as training and test do: antialiased, which the call of a pre-processor is not."""
    return torch.stack([model.pre_processor.transform(item.image) for item in items])


def find_object(normal: Tensor) -> Tensor:
    """Find what stands out from the border of images, or all of an image if nothing does: bool ``(B, 1, H, W)``."""
    salient = BorderContrast()(normal) > 0.5
    return salient | ~salient.flatten(1).any(1)[:, None, None, None]


def draw(
    normal: Tensor, places: Tensor, strength: float = 1.0, kinds: Mapping[str, Any] = defects.DEFECTS
) -> tuple[Tensor, Tensor]:
    """Draw a defect of each kind on each image, at least half of it in those places: images and masks.

    The strength is the opacity of the drawn defect, from 0 to 1. The kinds' own argument ``strength`` is not used: its
    effect differs between kinds, and a splinter ignores it.
    """
    rng = np.random.default_rng(JUDGING_SEED)
    pairs = [
        draw_one(kind, strength, surface, place.squeeze(0).numpy(), rng)
        for surface, place in zip(as_surfaces(normal), places, strict=True)
        for kind in kinds.values()
    ]
    return as_tensors(pairs)


def draw_one(kind: Any, strength: float, surface: Any, place: Any, rng: np.random.Generator) -> tuple[Any, Any]:  # noqa: ANN401
    """Draw a defect until half of it lies in its place, or all attempts are used: a picture and its mask."""
    for _ in range(ATTEMPTS):
        faded = (1 - strength) * surface + strength * kind(surface, rng, 1.0)
        picture, mask = defects.mark_changes(surface, faded)
        if 2 * place[mask].sum() >= mask.sum():
            break
    return picture, mask


def as_surfaces(images: Tensor) -> list[Any]:
    """Turn images ``(N, 3, H, W)`` into the float64 arrays ``(H, W, 3)`` on which defects are drawn."""
    return [image.permute(1, 2, 0).double().numpy() for image in images]


def as_tensors(pairs: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Stack pictures ``(H, W, 3)`` and their masks ``(H, W)``: ``(N, 3, H, W)`` and ``(N, 1, H, W)``, float32."""
    images = torch.stack([torch.from_numpy(picture).permute(2, 0, 1).float() for picture, _ in pairs])
    return images, torch.stack([torch.from_numpy(mask)[None].float() for _, mask in pairs])


def after_normal(normal: Tensor, anomalous: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Put normal images, with empty masks, before anomalous images and masks."""
    image, mask = anomalous
    return torch.cat((normal, image)), torch.cat((torch.zeros_like(normal[:, :1]), mask))


def scores(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Measure AUROC, average precision and IoU at the best threshold over all pixels."""
    prediction, target = maps.flatten(), masks.flatten().int()
    precision, recall, thresholds = binary_precision_recall_curve(prediction, target)
    iou = 1 / (1 / precision.clamp(min=1e-9) + 1 / recall.clamp(min=1e-9) - 1)
    return {
        "auroc": round(binary_auroc(prediction, target).item(), 4),
        "ap": round(binary_average_precision(prediction, target).item(), 4),
        "best_iou": round(iou.max().item(), 4),
        "best_threshold": thresholds[iou[:-1].argmax()].item(),
        "mean_map": round(prediction.mean().item(), 4),
    }


def iou_at(maps: Tensor, masks: Tensor, threshold: float) -> float:
    """Measure the IoU over all pixels at a threshold."""
    return round(binary_jaccard_index((maps >= threshold).int(), masks.int()).item(), 4)
