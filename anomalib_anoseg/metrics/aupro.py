"""anomalib's AUPRO, with two of its surprises taken away."""

from typing import Any

import anomalib.metrics
import torch
from torch import Tensor


class AUPRO(anomalib.metrics.AUPRO):
    """Area under the per-region overlap, anomalib's.

    anomalib's own saves its ``fpr_limit`` in checkpoints, so that those of a model with and without the metric do not
    fit each other, and gives 0, the value of the worst model, where nothing is anomalous in truth.

    Args:
        fields: Names of the scores and of the truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`anomalib.metrics.AUPRO`.

    Example:
        >>> AUPRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_").name
        'pixel_AUPRO'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        fpr_limit: Any = self.fpr_limit
        self.register_buffer("fpr_limit", fpr_limit, persistent=False)

    def compute(self) -> Tensor | None:
        """Compute the area; NaN if no pixel is anomalous in truth, None if nothing was seen and that is no error."""
        area: Tensor | None = super().compute()
        if area is None or any(bool(target.any()) for target in self.target):
            return area
        return torch.full_like(area, torch.nan)
