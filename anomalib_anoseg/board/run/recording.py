"""What a job writes down while it trains and tests."""

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC
from anomalib.visualization import Visualizer
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor

from anomalib_anoseg.board.run.budget import Stopwatch
from anomalib_anoseg.board.run.run_folder import Figures
from anomalib_anoseg.metrics import BestIoU, IoU, IoUCurve, PerDefect

IMAGE_COLUMNS = ("image_path", "mask_path", "defect", "gt_label", "pred_score", "pred_label", "iou", "map_path")


class ResumePoint(ModelCheckpoint):
    """Keeps the latest state of a training, after an epoch and not more often than every so many seconds.

    Writing a large model after each epoch can take longer than the epoch. A new file is complete before the last one
    is deleted.

    Args:
        folder: Where the file goes.
        every_seconds: Least time between two of them.
        stopwatch: Stands still meanwhile, because the size of a model must not shorten its training.
    """

    def __init__(self, folder: Path, every_seconds: float, stopwatch: Stopwatch) -> None:
        super().__init__(folder, filename="{epoch}", save_top_k=1, save_on_train_epoch_end=True)
        self.every_seconds, self.stopwatch = every_seconds, stopwatch
        self._last = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if it is time for one."""
        if time.perf_counter() - self._last >= self.every_seconds:
            with self.stopwatch.paused():
                super().on_train_epoch_end(trainer, pl_module)
            self._last = time.perf_counter()

    @staticmethod
    def latest(folder: Path) -> Path | None:
        """Find the latest checkpoint of a folder that is whole."""
        whole = filter(is_zipfile, folder.glob("*.ckpt"))
        return max(whole, key=lambda path: path.stat().st_mtime, default=None)


class TestRecorder(Visualizer):
    """Writes maps, a line for each test image and the IoU curve, and takes figures apart by kind of defect.

    It takes the visualizer's place in a model, which comes after post-processing.

    Args:
        folder: The job's folder.
    """

    __test__ = False  # pytest takes it for tests

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: list[dict[str, Any]] = []
        self._mask_paths: dict[str, Any] = {}
        pixels, mask = ("anomaly_map", "gt_mask"), ("pred_mask", "gt_mask")
        self._curve: Any = IoUCurve(fields=pixels, strict=False)
        self._per_defect = [
            PerDefect(IoU(fields=mask, prefix="pixel_", strict=False)),
            PerDefect(BestIoU(fields=pixels, prefix="pixel_", strict=False)),
            PerDefect(AUROC(fields=pixels, prefix="pixel_", strict=False)),
            PerDefect(AUROC(fields=("pred_score", "gt_label"), prefix="image_")),
        ]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folder of maps, and look up where masks are."""
        del pl_module
        (self.folder / "maps").mkdir(parents=True, exist_ok=True)
        # Batches do not tell: anomalib leaves out of them what their first image lacks, and good ones have no mask.
        loaders: Any = trainer.test_dataloaders
        samples = loaders.dataset.samples
        if "mask_path" in samples:
            self._mask_paths = dict(zip(map(str, samples["image_path"]), samples["mask_path"], strict=True))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record a batch."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        self._curve.update(batch)
        for metric in self._per_defect:
            metric.update(batch)
        for index in range(len(batch.image_path)):  # type: ignore[arg-type]
            self._lines.append(self._record(batch, index))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the tables."""
        del trainer, pl_module
        write_csv(self.folder / "images.csv", IMAGE_COLUMNS, [list(line.values()) for line in self._lines])
        curve = self._curve.compute()
        if curve is not None:  # without masks there is none
            iou, thresholds = (values.tolist() for values in curve)
            write_csv(self.folder / "curve.csv", ("threshold", "iou"), list(zip(thresholds, iou, strict=True)))

    def defects(self) -> dict[str, Figures]:
        """Give the figures of each kind of defect, against all good images."""
        figures: dict[str, Figures] = {}
        for metric in self._per_defect:
            for defect, value in metric.compute().items():
                figures.setdefault(defect, {})[metric.name] = None if value is None else float(value)
        return figures

    def _record(self, batch: Any, index: int) -> dict[str, Any]:  # noqa: ANN401
        is_anomalous = bool(batch.gt_label[index])
        image_path, mask = Path(batch.image_path[index]), None if batch.gt_mask is None else batch.gt_mask[index]
        map_path = ""
        if batch.anomaly_map is not None:
            map_path = f"maps/{len(self._lines):04}.png"
            _save_map(batch.anomaly_map[index], self.folder / map_path)
        iou: float | str = ""
        if is_anomalous and mask is not None and batch.pred_mask is not None:
            iou = _intersection_over_union(batch.pred_mask[index], mask)
        return {
            "image_path": str(image_path),
            "mask_path": (self._mask_paths.get(str(image_path)) or "") if is_anomalous else "",
            "defect": image_path.parent.name if is_anomalous else "good",
            "gt_label": int(is_anomalous),
            "pred_score": float(batch.pred_score[index]),
            "pred_label": int(batch.pred_label[index]) if batch.pred_label is not None else "",
            "iou": iou,
            "map_path": map_path,
        }


def write_csv(path: Path, columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Write a table.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_csv(Path(folder) / "curve.csv", ("threshold", "iou"), [(0.5, 0.25)])
        ...     (Path(folder) / "curve.csv").read_text().split()
        ['threshold,iou', '0.5,0.25']
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(lines)


def _save_map(anomaly_map: Tensor, path: Path) -> None:
    grey = (anomaly_map.squeeze().clamp(0, 1) * 255).round().to(torch.uint8)
    Image.fromarray(grey.cpu().numpy()).save(path)


def _intersection_over_union(predicted: Tensor, mask: Tensor) -> float | str:
    predicted, mask = predicted.bool().squeeze(), mask.bool().squeeze()
    union = (predicted | mask).sum()
    return float((predicted & mask).sum() / union) if union else ""
