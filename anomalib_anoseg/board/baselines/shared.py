"""What players share."""

from typing import Any

from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor

ImageSize = tuple[int, int]


class OwnLength:
    """Lets a model carry its length, for anomalib's benchmark, which passes no trainer options on."""

    max_epochs: int | None

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer options that override the user's: the model's own, and its length if it was given one."""
        own: dict[str, Any] = super().trainer_arguments  # type: ignore[misc]
        return own if self.max_epochs is None else {**own, "max_epochs": self.max_epochs}


def resized(model: AnomalibModule, pre_processor: PreProcessor | bool, size: ImageSize) -> PreProcessor | bool:
    """Configure the model's own pre-processor for a size, if it shall be used."""
    return model.configure_pre_processor((size[0], size[1])) if pre_processor is True else pre_processor
