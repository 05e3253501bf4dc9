"""anomalib's AUPRO with two corrections."""

from typing import Any

import anomalib.metrics

from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.metrics.defined import Defined


class AUPRO(Defined, anomalib.metrics.AUPRO):  # type: ignore[misc]
    """Area under the per-region overlap, anomalib's with two corrections.

    anomalib's metric saves its ``fpr_limit`` in checkpoints, so checkpoints of a model with and without the metric are
    incompatible. If no pixel is anomalous in the ground truth, it returns 0, the value of the worst model; this one
    returns NaN, with a reason, see :class:`~anomalib_anoseg.metrics.defined.Defined`.

    Args:
        fields: Names of the scores and of the ground truth in a batch.
        prefix: Put before the metric's name.
        strict: Whether a batch without these fields is an error.
        **kwargs: Arguments of :class:`anomalib.metrics.AUPRO`.

    Raises:
        ValueError: If ``fpr_limit`` is not within ``(0, 1]``: there is no area up to 0.

    Example:
        >>> AUPRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_").name
        'pixel_AUPRO'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        fpr_limit: Any = self.fpr_limit
        check_value("fpr_limit", fpr_limit.item(), 1e-6, 1.0)
        self.register_buffer("fpr_limit", fpr_limit, persistent=False)
