"""Record what a job predicts in its test."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.data import ImageBatch
from anomalib.visualization import Visualizer
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from anomalib_anoseg.board.run.run_folder import Figures
from anomalib_anoseg.common.files import write_texts
from anomalib_anoseg.common.thumbnails import read_thumbnail
from anomalib_anoseg.metrics import AUROC, BestIoU, IoU, IoUCurve, PerDefect, binary_iou


class TestRecorder(Visualizer):
    """Writes maps, a line for each test image and the IoU curve, and splits figures by kind of defect.

    It takes the visualizer's place in a model, which comes after post-processing, and writes into the job's folder.
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

    def on_test_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """Make the folders of pictures, and look up where masks are."""
        for name in ("maps", "pictures"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # Not from batches: anomalib drops from a batch what its first image lacks, and good images have no mask.
        loaders: Any = trainer.test_dataloaders
        samples = loaders.dataset.samples
        if "mask_path" in samples:
            self._mask_paths = dict(zip(map(str, samples["image_path"]), samples["mask_path"], strict=True))

    def on_test_batch_end(
        self, _trainer: Trainer, _module: LightningModule, _outputs: object, batch: ImageBatch, *_: int
    ) -> None:
        """Record a batch."""
        self._curve.update(batch)
        for metric in self._per_defect:
            metric.update(batch)
        for index in range(len(batch.image_path)):  # type: ignore[arg-type]
            self._lines.append(self._record(batch, index))

    def on_test_epoch_end(self, _trainer: Trainer, _module: LightningModule) -> None:
        """Write the tables."""
        tables = {"images.csv": pd.DataFrame(self._lines)}
        curve = self._curve.compute()
        if curve is not None:  # without masks there is none
            iou, thresholds = (values.tolist() for values in curve)
            tables["curve.csv"] = pd.DataFrame({"threshold": thresholds, "iou": iou})
        write_texts({self.folder / name: table.to_csv(index=False) for name, table in tables.items()})

    def defects(self) -> dict[str, Figures]:
        """Return the figures of each kind of defect, against all good images."""
        figures: dict[str, Figures] = {}
        for metric in self._per_defect:
            for defect, value in metric.compute().items():
                figures.setdefault(defect, {})[metric.name] = None if value is None else float(value)
        return figures

    def _record(self, batch: Any, index: int) -> dict[str, Any]:  # noqa: ANN401
        is_anomalous = bool(batch.gt_label[index])
        image_path, mask = Path(batch.image_path[index]), None if batch.gt_mask is None else batch.gt_mask[index]
        mask_path = (self._mask_paths.get(str(image_path)) or "") if is_anomalous else ""
        map_path = ""
        if batch.anomaly_map is not None:
            map_path = f"maps/{len(self._lines):04}.png"
            grey = (batch.anomaly_map[index].squeeze().clamp(0, 1) * 255).round().to(torch.uint8)
            Image.fromarray(grey.cpu().numpy()).save(self.folder / map_path)
        iou: float | str = ""
        if is_anomalous and mask is not None and batch.pred_mask is not None:
            masks = batch.pred_mask[index].squeeze().int(), mask.squeeze().int()
            iou = float(binary_iou(*masks, zero_division=float("nan")))
        return {
            "image_path": str(image_path),
            "mask_path": mask_path,
            "picture_path": self._keep(image_path, "RGB"),
            "truth_path": self._keep(mask_path, "L"),
            "defect": image_path.parent.name if is_anomalous else "good",
            "gt_label": int(is_anomalous),
            "pred_score": float(batch.pred_score[index]),
            "pred_label": int(batch.pred_label[index]) if batch.pred_label is not None else "",
            "iou": iou,
            "map_path": map_path,
        }

    def _keep(self, path: Path | str, mode: str) -> str:
        """Keep a small copy of a picture, so that a report needs nothing outside of the run's folder."""
        pixels = read_thumbnail(Path(str(path)), mode)
        if pixels is None:
            return ""
        kept = f"pictures/{len(self._lines):04}.{'jpg' if mode == 'RGB' else 'png'}"
        Image.fromarray(pixels).save(self.folder / kept, quality=92)
        return kept
