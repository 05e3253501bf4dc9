"""Which metrics this package's models log by default, and when."""

from typing import Any

from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_anoseg.common.one_or_many import as_list
from anomalib_anoseg.metrics.aupro import AUPRO
from anomalib_anoseg.metrics.defined import AUPR, AUROC, F1Score
from anomalib_anoseg.metrics.iou import BestIoU, IoU, IoUCurveArea

IMAGE = ("pred_score", "gt_label")
LABEL = ("pred_label", "gt_label")
PIXEL = ("anomaly_map", "gt_mask")
MASK = ("pred_mask", "gt_mask")


class LabelAwareEvaluator(Evaluator):
    """anomalib's evaluator, without validation metrics if the images cannot tell a good model from a bad one.

    Most users validate on normal images only, where AUROC is undefined. Validation metrics, ``strict`` or not, are
    computed, and printed, only if there are both normal and anomalous images. Those of anomaly maps are computed by
    ``anomalib validate``, but not during training: sorting all pixels after each epoch can take longer than the epoch.
    Test metrics are always computed; this package's are NaN, with a reason, where they are undefined.

    Args:
        val_metrics: Metrics for validation.
        test_metrics: Metrics for testing.
        compute_on_cpu: Whether metrics that keep all predictions keep them on the CPU.

    Example:
        >>> len(LabelAwareEvaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"])]).test_metrics)
        1
    """

    _has_both_labels = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check whether the validation data has normal and anomalous images."""
        del pl_module
        datasets = [loader.dataset for loader in as_list(trainer.val_dataloaders)]
        self._has_both_labels = all(
            any(getattr(dataset, name, False) for dataset in datasets) for name in ("has_normal", "has_anomalous")
        )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the validation metrics that are meaningful and fast enough."""
        del pl_module, outputs, batch_idx, dataloader_idx
        if not self._has_both_labels or trainer.sanity_checking:
            return
        metrics: Any = self.val_metrics
        for metric in metrics:
            if trainer.state.fn == TrainerFn.VALIDATING or "anomaly_map" not in metric.fields:
                metric.update(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics that were updated; the others would only raise a warning."""
        del trainer, pl_module
        metrics: Any = self.val_metrics
        log: Any = self.log  # Lightning gives it to callbacks
        for metric in metrics:
            if metric.update_called:
                log(metric.name, metric)


def segmentation_evaluator() -> LabelAwareEvaluator:
    """Make the default evaluator of all models of this package.

    Testing logs ``image_AUROC``, ``image_F1Score``, ``pixel_AUROC``, ``pixel_AUPR`` (average precision),
    ``pixel_AUPRO``, ``pixel_F1Score``, ``pixel_IoU``, ``pixel_BestIoU`` and ``pixel_IoUCurveArea``, those of pixels
    only if there are masks. Validation logs the first, third and fourth, see :class:`LabelAwareEvaluator`.

    Example:
        >>> [metric.name for metric in segmentation_evaluator().val_metrics]
        ['image_AUROC', 'pixel_AUROC', 'pixel_AUPR']
    """
    return LabelAwareEvaluator(
        val_metrics=[
            AUROC(fields=IMAGE, prefix="image_", strict=False),
            AUROC(fields=PIXEL, prefix="pixel_", strict=False),
            AUPR(fields=PIXEL, prefix="pixel_", strict=False),
        ],
        test_metrics=[
            AUROC(fields=IMAGE, prefix="image_"),
            F1Score(fields=LABEL, prefix="image_"),
            AUROC(fields=PIXEL, prefix="pixel_", strict=False),
            AUPR(fields=PIXEL, prefix="pixel_", strict=False),
            AUPRO(fields=PIXEL, prefix="pixel_", strict=False),
            F1Score(fields=MASK, prefix="pixel_", strict=False),
            IoU(fields=MASK, prefix="pixel_", strict=False),
            BestIoU(fields=PIXEL, prefix="pixel_", strict=False),
            IoUCurveArea(fields=PIXEL, prefix="pixel_", strict=False),
        ],
    )
