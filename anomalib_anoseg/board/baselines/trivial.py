"""Models too simple to know what a defect is, for what they reveal about a data set.

A figure that one of them reaches says nothing about a model that reaches it, too: the images of a set may differ by
how they were taken, and the share of defects alone makes some F1 scores high. They have no weights, learn in one pass,
and give scores in ``[0, 1]`` with a fixed threshold at 0.5, so that they need no validation data.
"""

from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import Tensor
from torchvision.transforms.v2 import Compose, Resize

from anomalib_anoseg.board.baselines.trivial_models import ConstantMapModel, ImageStatisticsModel, Side, Statistic
from anomalib_anoseg.metrics import segmentation_evaluator

__all__ = ["ConstantMap", "ImageStatistics"]


class FixedThreshold(PostProcessor):
    """A threshold at 0.5 for scores that are in ``[0, 1]`` already; nothing is calibrated.

    anomalib's normalisation would clip the scores of test images that lie farther out than validation images, and so
    make them equal.

    Args:
        **kwargs: Arguments of :class:`anomalib.post_processing.PostProcessor`.

    Example:
        >>> FixedThreshold().image_threshold
        tensor(0.5000)
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**({"enable_normalization": False} | kwargs))
        self._image_threshold.fill_(0.5)
        self._pixel_threshold.fill_(0.5)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Learn nothing from validation images."""


class Untrained:
    """What trivial models share: one pass over the training images, a resize, and a fixed threshold at 0.5."""

    is_trivial = True  # every other model on a board has to beat it
    model: Any
    device: torch.device

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Show a batch to the model; the loss is there for Lightning alone."""
        del args, kwargs
        with torch.no_grad():
            self.model.learn(batch.image)
        return torch.zeros((), requires_grad=True, device=self.device)

    def validation_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> ImageBatch:  # noqa: ANN401
        """Predict anomaly maps and image scores."""
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self) -> None:
        """Configure no optimiser."""

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer options: one pass over the data."""
        return {"gradient_clip_val": 0, "max_epochs": 1, "num_sanity_val_steps": 0, "devices": 1}

    @property
    def learning_type(self) -> LearningType:
        """Trivial models see normal images alone."""
        return LearningType.ONE_CLASS

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure a resize, without normalisation."""
        return PreProcessor(transform=Compose([Resize(image_size or (256, 256), antialias=True)]))

    def configure_post_processor(self) -> PostProcessor:
        """Configure a threshold at 0.5."""
        return FixedThreshold()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure the metrics of the other models."""
        return segmentation_evaluator()


class ImageStatistics(Untrained, AnomalibModule):  # type: ignore[misc]
    """Scores an image by how far one statistic of it lies from the training images'.

    The map does the same with each small window. Three standard deviations are the threshold.

    Args:
        statistic (Literal["mean", "contrast", "edge_energy"]): Mean grey value, standard deviation of the grey values,
            or mean squared gradient. Defaults to ``"mean"``.
        side (Literal["both", "high", "low"]): Whether only higher or only lower values than the training images' are
            anomalous, or both; data sets leak either way. Defaults to ``"both"``.
        window (int): Odd side in pixels of the windows of the map. Defaults to ``15``.
        image_size (tuple[int, int]): Height and width in pixels to which the default pre-processor resizes images.
            Defaults to ``(256, 256)``.
        pre_processor (PreProcessor | bool): Defaults to ``True``, a resize.
        post_processor (PostProcessor | bool): Defaults to ``True``, a fixed threshold at 0.5.
        evaluator (Evaluator | bool): Defaults to ``True``, the metrics of AnoSeg.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        ValueError: If an argument is out of range; the message names it and the range.

    Example:
        >>> ImageStatistics("contrast", side="low").model.statistic
        'contrast'
    """

    model: ImageStatisticsModel

    def __init__(
        self,
        statistic: Statistic = "mean",
        side: Side = "both",
        window: int = 15,
        image_size: tuple[int, int] = (256, 256),
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        pre_processor = self.configure_pre_processor(_as_size(image_size)) if pre_processor is True else pre_processor
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.model = ImageStatisticsModel(statistic, side, window)


class ConstantMap(Untrained, AnomalibModule):  # type: ignore[misc]
    """Gives every image and every pixel the same score.

    Args:
        score (float): The score, in ``[0, 1]``. More than 0.5 calls everything anomalous, with which a constant
            reaches its highest F1 and IoU. Defaults to ``1``.
        image_size (tuple[int, int]): Height and width in pixels to which the default pre-processor resizes images.
            Defaults to ``(256, 256)``.
        pre_processor (PreProcessor | bool): Defaults to ``True``, a resize.
        post_processor (PostProcessor | bool): Defaults to ``True``, a fixed threshold at 0.5.
        evaluator (Evaluator | bool): Defaults to ``True``, the metrics of AnoSeg.
        visualizer (Visualizer | bool): Defaults to ``True``, anomalib's.

    Raises:
        ValueError: If an argument is out of range; the message names it and the range.

    Example:
        >>> ConstantMap().model.score
        1.0
    """

    model: ConstantMapModel

    def __init__(
        self,
        score: float = 1.0,
        image_size: tuple[int, int] = (256, 256),
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        pre_processor = self.configure_pre_processor(_as_size(image_size)) if pre_processor is True else pre_processor
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.model = ConstantMapModel(score)


def _as_size(image_size: Any) -> tuple[int, int]:  # noqa: ANN401
    if len(image_size) != 2 or min(image_size) < 1:  # noqa: PLR2004
        raise ValueError(f"image_size must be (height, width) of 1 pixel or more each, got {tuple(image_size)}.")
    return image_size[0], image_size[1]
