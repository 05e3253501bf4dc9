"""Metrics that are NaN, with a reason, where a number would say nothing about the model.

torchmetrics gives 0 for an AUROC without anomalous images and for an F1 score without anomalous pixels, the values of
the worst model. anomalib's AUROC ranks scores that are NaN in the order of the images, often with the best value, 1.
"""

from typing import Any, ClassVar

import anomalib.metrics
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

# The scores from which labels and masks were made: a comparison with NaN gives a label like any other.
SCORES = {"pred_label": "pred_score", "pred_mask": "anomaly_map"}


def score_field(fields: Any) -> str:  # noqa: ANN401 - a sequence, whose type the host leaves open
    """Name the field of the scores that are behind the first of a metric's fields."""
    return SCORES.get(fields[0], fields[0])


class Defined:
    """A mixin, listed before an anomalib metric whose fields are a prediction and a truth.

    The value is NaN, with a warning that says why, if a score is NaN or infinite, or the truth lacks a label.

    Attributes:
        needs_normal: Whether the value also means nothing without normal images, or pixels, as for a ranking.
        counts: Int64 ``(3,)``: normal and anomalous images, or pixels, and scores that are not finite.
    """

    needs_normal: ClassVar[bool] = True
    counts: Tensor
    fields: Any
    name: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        metric: Any = self
        metric.add_state("counts", torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, batch: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Update the metric with a batch, and count its labels."""
        parent: Any = super()
        parent.update(batch, *args, **kwargs)
        if any(getattr(batch, field, None) is None for field in self.fields):
            return
        truth = getattr(batch, self.fields[1]).bool()
        scores = getattr(batch, score_field(self.fields), None)
        bad = truth.new_zeros(1) if scores is None else ~scores.isfinite()
        self.counts += torch.stack(((~truth).sum(), truth.sum(), bad.sum())).to(self.counts.device)

    def compute(self) -> Tensor | None:
        """Compute the value; NaN if it would mean nothing, None without data if that is no error."""
        metric: Any = self
        parent: Any = super()
        if not metric.update_called and not metric.strict:
            return None
        if reason := self._explain():
            rank_zero_warn(f"{self.name} is NaN: {reason}.")
            return torch.full((), torch.nan, device=self.counts.device)
        value: Tensor | None = parent.compute()
        return value

    def _explain(self) -> str | None:
        """Say why the value would mean nothing."""
        normal, anomalous, bad = self.counts.tolist()
        what = "images" if self.fields[1] == "gt_label" else "pixels"
        if bad:
            return f"{bad} scores of {what} are NaN or infinite"
        if not anomalous:
            return f"no {what} are anomalous"
        return f"no {what} are normal" if self.needs_normal and not normal else None


class AUROC(Defined, anomalib.metrics.AUROC):  # type: ignore[misc]
    """anomalib's area under the ROC curve; NaN, with a reason, where it is undefined.

    Args:
        fields: Names of the scores and of the ground truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`anomalib.metrics.AUROC`.

    Example:
        >>> AUROC(fields=["pred_score", "gt_label"], prefix="image_").name
        'image_AUROC'
    """


class AUPR(Defined, anomalib.metrics.AUPR):  # type: ignore[misc]
    """anomalib's average precision; NaN, with a reason, where it is undefined.

    Args:
        fields: Names of the scores and of the ground truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`anomalib.metrics.AUPR`.

    Example:
        >>> AUPR(fields=["anomaly_map", "gt_mask"], prefix="pixel_").name
        'pixel_AUPR'
    """


class F1Score(Defined, anomalib.metrics.F1Score):  # type: ignore[misc]
    """anomalib's F1 score; NaN, with a reason, where nothing is anomalous.

    Args:
        fields: Names of the prediction and of the ground truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`anomalib.metrics.F1Score`.

    Example:
        >>> F1Score(fields=["pred_label", "gt_label"], prefix="image_").name
        'image_F1Score'
    """

    needs_normal = False
