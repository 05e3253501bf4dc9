"""The networks behind the trivial models, which have nothing to train."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

Statistic = Literal["mean", "contrast", "edge_energy"]
Side = Literal["both", "high", "low"]
# Standard deviations from the mean at which an image or a pixel counts as anomalous.
THREE_SIGMA = 3.0
# Against division by zero where all training images are alike; a hundredth of an 8-bit grey level.
SMALLEST_DEVIATION = 4e-5


class ImageStatisticsModel(nn.Module):
    """Distance of an image's statistic, and of each small window's, from those of the training images.

    Args:
        statistic: Which statistic of the grey values.
        side: Whether only higher or only lower values than the training images' are anomalous, or both.
        window: Odd side in pixels of the windows of the map.

    Raises:
        ValueError: If an argument is none of these.

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
        _check_choice("statistic", statistic, get_args(Statistic))
        _check_choice("side", side, get_args(Side))
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be an odd number of pixels, 1 or more, got {window}.")
        self.statistic, self.side, self.window = statistic, side, window
        for name in ("seen", "mean", "scatter"):
            self.register_buffer(name, torch.zeros(2))

    def learn(self, image: Tensor) -> None:
        """Take ``(B, 3, H, W)`` training images into the statistics, which never keep the images."""
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
        return self._statistic(grey, _average_image), self._statistic(grey, self._average_window)

    def _statistic(self, grey: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
        if self.statistic == "mean":
            return average(grey)
        if self.statistic == "contrast":
            return (average(grey.square()) - average(grey).square()).clamp_min(0).sqrt()
        return average(_squared_gradient(grey))

    def _average_window(self, values: Tensor) -> Tensor:
        return avg_pool2d(values, self.window, stride=1, padding=self.window // 2, count_include_pad=False)

    def _score(self, distance: Tensor) -> Tensor:
        """Map distances in standard deviations to ``(0, 1)``, three of them to 0.5, without making any two equal."""
        if self.side == "both":
            distance = distance.abs()
        elif self.side == "low":
            distance = -distance
        beyond = distance - THREE_SIGMA
        return 0.5 + 0.5 * beyond / (1 + beyond.abs())


class ConstantMapModel(nn.Module):
    """One score for every image and pixel.

    Args:
        score: The score.

    Raises:
        ValueError: If the score is not in ``[0, 1]``.

    Example:
        >>> ConstantMapModel(0.25)(torch.rand(1, 3, 1, 2)).anomaly_map
        tensor([[[[0.2500, 0.2500]]]])
    """

    def __init__(self, score: float = 1.0) -> None:
        super().__init__()
        if not 0 <= score <= 1:
            raise ValueError(f"score must be in [0, 1], got {score}.")
        self.score = score

    def learn(self, image: Tensor) -> None:
        """Learn nothing."""

    def forward(self, image: Tensor) -> InferenceBatch:
        """Score ``(B, 3, H, W)`` images: ``pred_score`` ``(B,)`` and ``anomaly_map`` ``(B, 1, H, W)``."""
        anomaly_map = torch.zeros_like(image[:, :1]) + self.score
        return InferenceBatch(pred_score=anomaly_map.amax((1, 2, 3)), anomaly_map=anomaly_map)


def _average_image(values: Tensor) -> Tensor:
    return values.mean((2, 3), keepdim=True)


def _squared_gradient(grey: Tensor) -> Tensor:
    """Sum of the squared differences to the right and to the lower neighbour, ``(B, 1, H, W)``."""
    padded = pad(grey, (0, 1, 0, 1), mode="replicate")
    right, down = padded[..., :-1, 1:] - grey, padded[..., 1:, :-1] - grey
    return right.square() + down.square()


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")
