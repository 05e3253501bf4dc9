"""Operating points while a model trains, and in its checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from anomalib_anoseg.common.appearance import summarize
from anomalib_anoseg.training.calibration import Labelled, Prediction
from anomalib_anoseg.training.good_scores import GoodScores
from anomalib_anoseg.training.operating_points import tabulate


class OperatingTables(nn.Module):
    """Collect the scores of good pictures during a validation, and keep the tables that follow from them.

    Each table is a buffer with the name of an image score, see
    :func:`~anomalib_anoseg.training.operating_points.tabulate`. A checkpoint without tables loads, too.

    Attributes:
        is_saved: Whether checkpoints carry the tables.
        appearance: How the good pictures look, see :func:`~anomalib_anoseg.common.appearance.summarize`; empty where
            that is not known, or they have several sizes.

    Example:
        >>> operating = OperatingTables()
        >>> operating.add(Prediction({"only": torch.arange(19.0)}))
        >>> operating.compute([])
        19
        >>> operating.tables["only"].shape  # of 19 pictures: 5 %, 10 % and 20 %
        torch.Size([3, 6])
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_saved = True
        self.appearance: dict[str, Any] = {}
        self._good: list[GoodScores] = []

    @property
    def tables(self) -> dict[str, Tensor]:
        """The tables by name of the image score; none without good pictures that were held out."""
        return {name: table for name, table in self._buffers.items() if table is not None}

    def reset(self) -> None:
        """Forget scores that were collected."""
        self._good = []

    def add(self, prediction: Prediction, paths: Sequence[str] = (), looks: Tensor | None = None) -> None:
        """Collect what was predicted for good pictures; a file counts once, but each picture without a path counts."""
        self._good.append(GoodScores.of(prediction, paths, looks))

    def compute(self, batches: Sequence[Labelled], wanted: float | None = None) -> int:
        """Replace the tables by those of the scores that were collected; all processes do so together.

        Args:
            batches: Predictions with ground truth, whose anomalous pictures tell what a rate costs.
            wanted: A rate beside the usual ones.

        Returns:
            Number of good pictures.
        """
        good, anomalous = _gather(self._good, batches)
        self.reset()
        self._replace(tabulate(good, anomalous, wanted))
        self.appearance = _summarize(good.looks)
        return min((len(scores) for scores in good.images.values()), default=0)

    def _replace(self, tables: Mapping[str, Tensor]) -> None:
        for name in list(self._buffers):
            delattr(self, name)
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=self.is_saved)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Make room for the tables that were saved, and load them."""
        saved = {key.removeprefix(prefix): table for key, table in state_dict.items() if key.startswith(prefix)}
        self._replace({name: torch.empty_like(table) for name, table in saved.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


def _gather(good: Sequence[GoodScores], batches: Sequence[Labelled]) -> tuple[GoodScores, dict[str, Tensor]]:
    """Join the scores of good pictures, and image scores of anomalous ones by name, from all processes."""
    images, anomalous = {}, {}
    for name in dict.fromkeys(name for scores in good for name in scores.images):
        images[name] = _join([scores.images[name] for scores in good])
        judged = [(batch.prediction.scores[name], batch.label) for batch in batches if name in batch.prediction.scores]
        chosen = [scores[label.bool()] for scores, label in judged if label is not None]
        anomalous[name] = _join(chosen or [images[name][:0]])
    maps = [scores.maps for scores in good if scores.maps is not None]
    files = [scores.files for scores in good if scores.files is not None]
    looks = [scores.looks for scores in good if scores.looks is not None]
    joined = _join(looks).view(-1, looks[0].shape[1]) if looks else None
    found = GoodScores(images, _join(maps) if maps else None, _join(files) if files else None, joined)
    return found.once(), anomalous


def _summarize(looks: Tensor | None) -> dict[str, Any]:
    """Describe good pictures that were measured at one size."""
    if looks is None or len(looks) == 0 or (looks[:, :2] != looks[0, :2]).any():
        return {}
    height, width = (int(side) for side in looks[0, :2])
    return summarize(looks[:, 2:].cpu().double().numpy(), (height, width))


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Join the parts of this process with those of all others."""
    joined = torch.cat([(part.float() if part.is_floating_point() else part).detach().flatten() for part in parts])
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.cat(gather_all_tensors(joined)) if is_distributed else joined
