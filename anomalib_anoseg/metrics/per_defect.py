"""A metric broken down by the type of defect."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from anomalib.data import ImageBatch
from anomalib.metrics import AnomalibMetric
from torch import Tensor

from anomalib_anoseg.metrics.defined import score_field

# Good images belong to no defect.
GOOD = None


class PerDefect:
    """Any anomalib metric, computed separately for each type of defect.

    The type of defect is the name of the folder that an anomalous image lies in, as in MVTec AD and in ``Folder`` with
    several folders of anomalous images. A defect's value is that of its own images together with all good ones,
    because a ranking needs both, and because false alarms on good images count against every defect. So pixel metrics
    are lower for a rare defect than for a frequent one that is found equally well.

    With several processes ``compute`` gathers the metric's state on all of them, whichever defects each has seen.

    Args:
        metric: The metric; it is copied and not changed.
        with_good: Whether good images count. Metrics that rank images need them; pixel metrics also find normal
            pixels around each defect.

    Raises:
        TypeError: If the metric is not an anomalib metric.
        ValueError: If its states cannot be merged.

    Example:
        >>> import torch
        >>> from anomalib_anoseg.metrics import IoU
        >>> mask = torch.tensor([[[1, 1], [0, 0]]]).bool()
        >>> paths = ["test/crack/0.png", "test/dent/0.png"]
        >>> batch = ImageBatch(
        ...     image=torch.rand(2, 3, 2, 2), image_path=paths, gt_label=torch.ones(2).bool(),
        ...     gt_mask=torch.cat((mask, mask)), pred_mask=torch.cat((mask, ~mask)),
        ... )
        >>> metric = PerDefect(IoU(fields=["pred_mask", "gt_mask"]))
        >>> metric.update(batch)
        >>> metric.compute()
        {'crack': tensor(1.), 'dent': tensor(0.)}
    """

    def __init__(self, metric: AnomalibMetric, with_good: bool = True) -> None:
        if not isinstance(metric, AnomalibMetric):
            raise TypeError(
                f"metric must be an anomalib metric, got {type(metric).__name__}; "
                "anomalib.metrics.create_anomalib_metric makes one from a torchmetrics metric."
            )
        base: Any = metric
        if base.full_state_update is not False or base.dist_sync_on_step:
            raise ValueError(
                f"metric must have states that can be merged; {type(metric).__name__} does not. Set its class's "
                "full_state_update to False if that is true of it, and dist_sync_on_step to False."
            )
        self.metric = base.clone()
        self.metric.reset()
        self.metric.distributed_available_fn = _never  # compute() gathers the states: processes see different defects
        self.with_good = with_good
        self._parts: dict[str | None, Any] = {}

    @property
    def name(self) -> str:
        """Name of the metric."""
        return str(self.metric.name)

    def update(self, batch: ImageBatch) -> None:
        """Give each image of a batch to the metric of its defect.

        Raises:
            ValueError: If the batch lacks ``image_path`` or ``gt_label``.
        """  # noqa: DOC502 - grouping raises
        image: Any = batch.image
        for defect, rows in _group_by_defect(batch).items():
            if defect not in self._parts:
                self._parts[defect] = self.metric.clone().to(image.device)
            self._parts[defect].update(_Rows(batch, rows, (*self.metric.fields, score_field(self.metric.fields))))

    def compute(self) -> dict[str, Any]:
        """Compute the metric's value for each defect, sorted by name."""
        merged: dict[str | None, Any] = {}
        for parts in self._gather():
            for defect, part in parts.items():
                if defect in merged:
                    merged[defect].merge_state(part)
                else:
                    merged[defect] = part.clone()
        good = merged.pop(GOOD, None)
        if good is not None and self.with_good:
            for part in merged.values():
                part.merge_state(good)
        return {str(defect): merged[defect].compute() for defect in sorted(merged, key=str)}

    def reset(self) -> None:
        """Forget all images."""
        self._parts = {}

    def _gather(self) -> list[dict[str | None, Any]]:
        if not (dist.is_available() and dist.is_initialized()):
            return [self._parts]
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, {defect: part.clone().cpu() for defect, part in self._parts.items()})
        return gathered


class _Rows(SimpleNamespace):
    """Some images of a batch, with only the fields that a metric reads."""

    def __init__(self, batch: ImageBatch, rows: list[int], fields: Sequence[str]) -> None:
        values = {field: getattr(batch, field, None) for field in fields}
        super().__init__(**{field: _select(value, rows) for field, value in values.items()})


def _select(value: Any, rows: list[int]) -> Any:  # noqa: ANN401
    if value is None or isinstance(value, Tensor):
        return value if value is None else value[rows]
    return [value[row] for row in rows]


def _group_by_defect(batch: Any) -> dict[str | None, list[int]]:  # noqa: ANN401
    if batch.image_path is None or batch.gt_label is None:
        missing = "image_path" if batch.image_path is None else "gt_label"
        raise ValueError(f"The batch has no {missing}, which the break-down by defect needs; anomalib's data has both.")
    groups: dict[str | None, list[int]] = {}
    for row, (path, is_anomalous) in enumerate(zip(batch.image_path, batch.gt_label.tolist(), strict=True)):
        groups.setdefault(Path(path).parent.name if is_anomalous else GOOD, []).append(row)
    return groups


def _never() -> bool:
    return False
