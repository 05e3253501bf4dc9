"""Models too simple to know what a defect is: their figures reveal properties of a data set.

A model that only reaches their figures shows no skill: the images of a set may differ by how they were taken, and the
share of defects alone makes some F1 scores high. They have no weights, learn in one pass, and give scores in ``[0, 1]``
with a fixed threshold at 0.5, so that they need no validation data.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from anomalib_anoseg.board.run.protocol import Trivial
from anomalib_anoseg.training.one_class import OneClass

__all__ = ["ConstantMap", "ImageStatistics"]

Statistic = Literal["mean", "contrast", "edge_energy"]
Side = Literal["both", "high", "low"]
# Standard deviations from the mean at which an image or a pixel counts as anomalous.
THREE_SIGMA = 3.0
# Against division by zero where all training images are alike; a hundredth of an 8-bit grey level.
SMALLEST_DEVIATION = 4e-5


class ImageStatisticsModel(nn.Module):
    """The network behind :class:`ImageStatistics`, which has nothing to train.

    Example:
        >>> model = ImageStatisticsModel("mean", "high", window=3)
        >>> model.learn(torch.linspace(0.4, 0.6, 5).view(5, 1, 1, 1).expand(5, 3, 8, 8))
        >>> score = model(torch.tensor([0.5, 0.9]).view(2, 1, 1, 1).expand(2, 3, 8, 8)).pred_score
        >>> (score > 0.5).tolist()
        [False, True]
    """

    # Number of values seen, their mean, and the sum of their squared distances from it; of images and of windows.
    seen: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self, statistic: Statistic = "mean", side: Side = "both", window: int = 15) -> None:
        super().__init__()
        for name, value, choices in (("statistic", statistic, get_args(Statistic)), ("side", side, get_args(Side))):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be an odd number of pixels, 1 or more, got {window}.")
        self.statistic, self.side, self.window = statistic, side, window
        for name in ("seen", "mean", "scatter"):
            self.register_buffer(name, torch.zeros(2))

    def learn(self, image: Tensor) -> None:
        """Update the statistics with ``(B, 3, H, W)`` training images, which are not kept."""
        for index, values in enumerate(self._measure(image)):
            seen, mean = values.numel(), values.mean()
            scatter = (values - mean).square().sum()
            total = self.seen[index] + seen  # Chan's rule for merging two parts of a sample
            step = mean - self.mean[index]
            self.scatter[index] += scatter + step.square() * self.seen[index] * seen / total
            self.mean[index] += step * seen / total
            self.seen[index] = total

    def forward(self, image: Tensor) -> InferenceBatch:
        """Score ``(B, 3, H, W)`` images: ``pred_score`` ``(B,)`` and ``anomaly_map`` ``(B, 1, H, W)``."""
        deviation = (self.scatter / self.seen).sqrt().clamp_min(SMALLEST_DEVIATION)
        whole, window = (
            self._score((values - mean) / spread)
            for values, mean, spread in zip(self._measure(image), self.mean, deviation, strict=True)
        )
        return InferenceBatch(pred_score=whole.flatten(), anomaly_map=window)

    def _measure(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the statistic of images, ``(B, 1, 1, 1)``, and of their windows, ``(B, 1, H, W)``."""
        grey = image.mean(1, keepdim=True)
        return (
            self._statistic(grey, lambda values: values.mean((2, 3), keepdim=True)),
            self._statistic(grey, lambda values: avg_pool2d(values, self.window, 1, self.window // 2, False, False)),
        )

    def _statistic(self, grey: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
        if self.statistic == "mean":
            return average(grey)
        if self.statistic == "contrast":
            return (average(grey.square()) - average(grey).square()).clamp_min(0).sqrt()
        return average(_squared_gradient(grey))

    def _score(self, distance: Tensor) -> Tensor:
        """Map distances in standard deviations to ``(0, 1)``, three of them to 0.5, without ties."""
        beyond = {"both": distance.abs(), "high": distance, "low": -distance}[self.side] - THREE_SIGMA
        return 0.5 + 0.5 * beyond / (1 + beyond.abs())


class ConstantMapModel(nn.Module):
    """The network behind :class:`ConstantMap`."""

    def __init__(self, score: float = 1.0) -> None:
        super().__init__()
        if not 0 <= score <= 1:
            raise ValueError(f"score must be in [0, 1], got {score}.")
        self.score = score

    def learn(self, image: Tensor) -> None:
        """Learn nothing."""

    def forward(self, image: Tensor) -> InferenceBatch:
        """Score images alike."""
        anomaly_map = torch.zeros_like(image[:, :1]) + self.score
        return InferenceBatch(pred_score=anomaly_map.amax((1, 2, 3)), anomaly_map=anomaly_map)


def _squared_gradient(grey: Tensor) -> Tensor:
    """Sum of the squared differences to the right and to the lower neighbour, ``(B, 1, H, W)``."""
    padded = pad(grey, (0, 1, 0, 1), mode="replicate")
    right, down = padded[..., :-1, 1:] - grey, padded[..., 1:, :-1] - grey
    return right.square() + down.square()


class FixedThreshold(PostProcessor):
    """A threshold at 0.5 for scores that are in ``[0, 1]`` already; nothing is calibrated.

    anomalib's normalisation would clip the scores of test images that lie farther out than validation images, and so
    make them equal.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**({"enable_normalization": False} | kwargs))
        self._image_threshold.fill_(0.5)
        self._pixel_threshold.fill_(0.5)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Learn nothing from validation images."""


class Untrained(Trivial, OneClass):
    """What trivial models share: one pass over the training images, and a fixed threshold at 0.5."""

    model: Any
    device: torch.device

    def training_step(self, batch: ImageBatch, *_: Any, **__: Any) -> Tensor:  # noqa: ANN401
        """Show a batch to the model; only Lightning needs the loss."""
        with torch.no_grad():
            self.model.learn(batch.image)
        return torch.zeros((), requires_grad=True, device=self.device)

    def validation_step(self, batch: ImageBatch, *_: Any, **__: Any) -> ImageBatch:  # noqa: ANN401
        """Predict anomaly maps and image scores."""
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self) -> None:
        """Configure no optimiser."""

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Trainer options: one pass over the data."""
        return {"gradient_clip_val": 0, "max_epochs": 1, "num_sanity_val_steps": 0, "devices": 1}

    def configure_post_processor(self) -> PostProcessor:
        """Configure a threshold at 0.5."""
        return FixedThreshold()


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
        **components: Pre-processor, post-processor, evaluator and visualizer of an anomalib model.
    """

    def __init__(
        self,
        statistic: Statistic = "mean",
        side: Side = "both",
        window: int = 15,
        image_size: tuple[int, int] = (256, 256),
        **components: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**_with_resize(components, image_size))
        self.model = ImageStatisticsModel(statistic, side, window)


class ConstantMap(Untrained, AnomalibModule):  # type: ignore[misc]
    """Gives every image and every pixel the same score.

    Args:
        score (float): The score, in ``[0, 1]``. Above 0.5 everything is anomalous, which gives a constant its highest
            F1 and IoU. Defaults to ``1``.
        image_size (tuple[int, int]): Height and width in pixels to which the default pre-processor resizes images.
            Defaults to ``(256, 256)``.
        **components: Pre-processor, post-processor, evaluator and visualizer of an anomalib model.
    """

    def __init__(
        self,
        score: float = 1.0,
        image_size: tuple[int, int] = (256, 256),
        **components: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**_with_resize(components, image_size))
        self.model = ConstantMapModel(score)


def _with_resize(components: dict[str, Any], image_size: Any) -> dict[str, Any]:  # noqa: ANN401
    if len(image_size) != 2 or min(image_size) < 1:  # noqa: PLR2004
        raise ValueError(f"image_size must be (height, width) of 1 pixel or more each, got {tuple(image_size)}.")
    is_default = components.get("pre_processor", True) is True
    return components | ({"pre_processor": Untrained.configure_pre_processor(tuple(image_size))} if is_default else {})
