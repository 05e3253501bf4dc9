"""Thresholds and ranges of scores, found on real anomalies or on anomalies forged on normal images.

Pure functions of a model's predictions and of the anomalies that it declares, see :class:`Calibratable`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1AdaptiveThreshold, MinMax
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from anomalib_anoseg.transforms import ForgedBatch, SyntheticAnomaly

# Limit on the pixels, normal and forged, of repeated draws: sorting many more for a threshold takes gigabytes.
MAX_CALIBRATION_PIXELS = 2**24
# Name of the image score of a network that has only one.
ONLY_SCORE = "only"


@dataclass(frozen=True)
class CalibrationAnomalies:
    """The augmenters that forge anomalies for a calibration without real ones.

    Attributes:
        image: Forges those for the thresholds and ranges of image scores.
        map: Forges those for the pixel threshold and the range of maps. ``None`` if ``image`` serves for both.
        scores_count: Whether image scores of what ``map`` forges count for their threshold, too.
    """

    image: SyntheticAnomaly
    map: SyntheticAnomaly | None = None
    scores_count: bool = True


class Region(Protocol):
    """A region in which nothing counts."""

    def outside(self, anomaly: SyntheticAnomaly) -> SyntheticAnomaly:
        """Let a transform forge nothing in the region."""
        ...

    def mask_truth(self, mask: Tensor | None, label: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Take true defects in the region, ``(B, H, W)`` and ``(B,)``, for good."""
        ...


class Calibratable(ABC):
    """A model that declares on which anomalies it is calibrated, and where nothing counts.

    A base to inherit from, not a protocol: an error in a declaration must not pass for a model that declares nothing.
    """

    @property
    @abstractmethod
    def calibration_anomalies(self) -> CalibrationAnomalies:
        """The augmenters for the calibration."""

    @property
    @abstractmethod
    def region(self) -> Region:
        """The region in which nothing counts; it may be empty."""


class SeveralScores(ABC):
    """A network with more than one image score; a prediction holds the one in use. A base, as :class:`Calibratable`.

    Attributes:
        image_score: Name of the image score in use.
    """

    image_score: str

    @abstractmethod
    def other_scores(self, image: Tensor, anomaly_map: Tensor) -> Mapping[str, Tensor]:
        """Compute the image scores that are not in use, ``(B,)`` each.

        Args:
            image: ``(B, 3, H, W)``.
            anomaly_map: ``(B, 1, H, W)``, the maps predicted for them.
        """


class Prediction(NamedTuple):
    """What a model predicts for a batch.

    Attributes:
        scores: Image scores ``(B,)`` by name.
        anomaly_map: ``(B, H, W)``, if there are maps.
    """

    scores: Mapping[str, Tensor]
    anomaly_map: Tensor | None = None

    def select(self, chosen: Tensor) -> "Prediction":
        """Keep some images of the batch, bool ``(B,)``."""
        maps = None if self.anomaly_map is None else self.anomaly_map[chosen]
        return Prediction({name: score[chosen] for name, score in self.scores.items()}, maps)


class Labelled(NamedTuple):
    """What a model predicts for a batch, and the ground truth.

    Attributes:
        prediction: Scores and maps.
        label: Bool ``(B,)``, whether an image is anomalous; ``None`` where unknown.
        mask: Bool ``(B, H, W)``, whether a pixel is; likewise.
    """

    prediction: Prediction
    label: Tensor | None
    mask: Tensor | None = None


class ScoreRange(NamedTuple):
    """Threshold and range of a score.

    Attributes:
        threshold: Scalar, where F1 is best; ``None`` where there are no labels.
        low: Scalar, the lowest score.
        high: Scalar, the highest score.
    """

    threshold: Tensor | None
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Calibration:
    """Thresholds and ranges of a model.

    Attributes:
        images: Those of image scores, by name.
        maps: That of the values of maps; ``None`` if there are none.
    """

    images: Mapping[str, ScoreRange] = field(default_factory=dict)
    maps: ScoreRange | None = None


class Normalisation(NamedTuple):
    """What a pre-processor does to the colours of images in ``[0, 1]`` before a model sees them.

    Attributes:
        mean: Broadcasts with ``(C, H, W)``.
        std: Likewise.
    """

    mean: Tensor | float = 0.0
    std: Tensor | float = 1.0


AS_THEY_ARE = Normalisation()
Predict = Callable[[Tensor], Prediction]


def predict(network: Any, image: Tensor) -> Prediction:  # noqa: ANN401 - any network that anomalib can evaluate
    """Predict maps and all image scores of ``(B, C, H, W)`` images in one pass."""
    predicted = network(image)
    batch = ImageBatch(image=image, pred_score=predicted.pred_score, anomaly_map=predicted.anomaly_map)
    return with_all_scores(network, image, batch.pred_score, batch.anomaly_map)


def with_all_scores(network: object, image: Tensor, score: Tensor | None, maps: Tensor | None) -> Prediction:
    """Add the image scores that are not in use to what was predicted.

    Args:
        network: The network that predicted it.
        image: ``(B, C, H, W)``.
        score: ``(B,)``, the image score in use.
        maps: ``(B, H, W)``.
    """
    maps = None if maps is None else maps.as_subclass(Tensor)
    scores = {} if score is None else {name_of_score(network): score}
    if isinstance(network, SeveralScores) and maps is not None:
        scores |= network.other_scores(image.as_subclass(Tensor), maps.unsqueeze(1))
    return Prediction(scores, maps)


def name_of_score(network: object) -> str:
    """Name the image score that a network's predictions hold."""
    return network.image_score if isinstance(network, SeveralScores) else ONLY_SCORE


def calibrate(batches: Iterable[Labelled]) -> Calibration:
    """Find thresholds and ranges, as anomalib does; processes of a distributed training find them together.

    Those of scores among which one is NaN or infinite are NaN, as without a calibration, and a warning says so.

    Args:
        batches: Predictions with ground truth.

    Example:
        >>> scores, label = torch.tensor([1.0, 2.0, 7.0]), torch.tensor([False, False, True])
        >>> found = calibrate([Labelled(Prediction({"map": scores}), label)])
        >>> [value.item() for value in found.images["map"]], found.maps
        ([7.0, 1.0, 7.0], None)
    """
    batches = list(batches)
    names = dict.fromkeys(name for batch in batches for name in batch.prediction.scores)
    pairs = {name: [(batch.prediction.scores[name], batch.label) for batch in batches] for name in names}
    images = {name: _find_range(pairs[name], "image scores") for name in names}
    maps = _find_range([(batch.prediction.anomaly_map, batch.mask) for batch in batches], "anomaly maps")
    return Calibration({name: found for name, found in images.items() if found is not None}, maps)


def count_draws(wanted: int, images: int, size: Sequence[int]) -> int:
    """Compute how often to forge anomalies on each normal image.

    Args:
        wanted: Number of forged images in total.
        images: Number of normal images.
        size: Their height and width. On large ones anomalies are forged less often, to save memory.

    Returns:
        At least 1.

    Example:
        >>> count_draws(200, 64, (8, 8)), count_draws(200, 64, (1024, 1024))
        (4, 1)
    """
    pixels = 2 * images * math.prod(size)
    return max(1, min(math.ceil(wanted / images), MAX_CALIBRATION_PIXELS // pixels))


def forge_and_predict(
    predict: Predict,
    image: Tensor,
    normal: Prediction,
    anomalies: CalibrationAnomalies,
    seeds: Iterable[int],
    paths: Sequence[str] = (),
    normalisation: Normalisation = AS_THEY_ARE,
) -> Iterator[Labelled]:
    """Forge an anomaly on each image with each augmenter, predict, and prepend the normal images.

    An image that the augmenter for maps leaves unchanged is left out, and its normal image, as one more would move
    thresholds. If all are, the augmenter for images serves for maps, too.

    Args:
        predict: Predicts for ``(B, C, H, W)`` images.
        image: Normal ones, as ``predict`` takes them.
        normal: What it predicts for them.
        anomalies: The augmenters.
        seeds: Anomalies are forged once with each.
        paths: Files of the images, where they are known.
        normalisation: Undone before anomalies are forged, and applied again.

    Yields:
        Predictions for normal and forged images, equally many.
    """
    for seed in seeds:
        view = _forge(anomalies.image, image, seed, paths, normalisation)
        judged = _after_normal(normal, view, predict(view.image))
        if anomalies.map is not None:
            view = _forge(anomalies.map, image, seed, paths, normalisation)
            is_visible = view.mask.flatten(1).any(1)
            if is_visible.any():
                yield Labelled(Prediction(judged.prediction.scores), judged.label)
                view = ForgedBatch(*(part[is_visible] for part in view))
                faint = _after_normal(normal.select(is_visible), view, predict(view.image))
                judged = faint if anomalies.scores_count else faint._replace(label=None)
        yield judged


def _forge(
    augmenter: SyntheticAnomaly, image: Tensor, seed: int, paths: Sequence[str], normalisation: Normalisation
) -> ForgedBatch:
    """Forge anomalies on images as the networks see them, normalised or not."""
    generator = torch.Generator(image.device).manual_seed(seed)
    mean, std = normalisation
    normal = (image * std + mean).clamp(0, 1)
    moved: Any = augmenter.to(image.device)
    forged, mask = moved.forge(normal, generator=generator, paths=paths or None)
    return ForgedBatch((forged - mean) / std, mask)


def _after_normal(normal: Prediction, view: ForgedBatch, forged: Prediction) -> Labelled:
    """Join the predictions for normal images and for images with anomalies, in this order."""
    mask = torch.cat((torch.zeros_like(view.mask), view.mask)).squeeze(1).bool()
    scores = {name: torch.cat((normal.scores[name], score)) for name, score in forged.scores.items()}
    maps = None
    if normal.anomaly_map is not None and forged.anomaly_map is not None:
        maps = torch.cat((normal.anomaly_map, forged.anomaly_map))
    return Labelled(Prediction(scores, maps), mask.flatten(1).any(1), mask)


def _find_range(batches: Sequence[tuple[Tensor | None, Tensor | None]], what: str) -> ScoreRange | None:
    """Find threshold and range from scores and ground truth, batch by batch; ``None`` without scores."""
    best = F1AdaptiveThreshold(fields=["scores", "truth"], strict=False)
    extremes = MinMax(fields=["scores"], strict=False)
    for scores, truth in batches:
        if scores is not None:
            batch: Any = SimpleNamespace(scores=scores, truth=truth)
            extremes.to(scores.device).update(batch)
            best.to(scores.device).update(batch)
    if not extremes.update_called:
        return None
    threshold, (low, high) = best.compute() if best.update_called else None, extremes.compute()
    if not (low.isfinite() and high.isfinite()):
        rank_zero_warn(f"Threshold and range of {what} are NaN, because some {what} of the validation are not finite.")
        return ScoreRange(*(low.new_full((3,), torch.nan)))
    return ScoreRange(threshold, low, high)
