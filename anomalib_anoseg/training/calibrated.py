"""anomalib's post-processor with a calibration of several scores, operating points, and scores that never tie."""

from typing import Any, Literal

import torch
from anomalib.post_processing import PostProcessor
from torch import Tensor

from anomalib_anoseg.training.calibration import ONLY_SCORE, ScoreRange
from anomalib_anoseg.training.operating_points import IMAGE, PIXEL, RatedThresholds, find_row, read_row
from anomalib_anoseg.training.operating_tables import OperatingTables

CalibrationSource = Literal["anomalous images", "forged on held-out images", "forged on training images", "none"]
# Scores up to this distance from the threshold, relative to the range of the calibration's scores, are linear ...
LINEAR = 0.4
# ... and the rest, up to 0 and 1, is for all scores beyond.
TAIL = 0.5 - LINEAR
# Prefix of the buffers with threshold and range of each image score, if a model has several.
BUFFER_PREFIX = "image_score_"


class CalibratedPostProcessor(PostProcessor):
    """anomalib's post-processor, which keeps the calibration of all image scores and their operating points.

    :class:`~anomalib_anoseg.training.post_processor.SelfCalibratingPostProcessor` finds them.

    Args:
        **kwargs: Arguments of :class:`anomalib.post_processing.PostProcessor`.

    Attributes:
        calibrated_on: Where thresholds and range came from.
        image_score: Name of the image score in use, of a model with several.
        false_alarm_rate: Rate for which thresholds are set; ``None`` sets them where F1 is best.
        threshold_rate: Rate for which the present thresholds were set; likewise.
        trained_on: Number of training images, of good ones that were held out, and of epochs, of which the last may not
            be whole; empty before a training.
        appearance: How the good pictures look that were held out, as
            :func:`~anomalib_anoseg.common.appearance.summarize` describes it; empty before a validation.
        operating: Tables of operating points.

    Example:
        >>> CalibratedPostProcessor().operating_points
        []
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.calibrated_on: CalibrationSource = "none"
        self.image_score: str | None = None
        self.false_alarm_rate: float | None = None
        self.threshold_rate: float | None = None
        self.trained_on: dict[str, int] = {}
        self.appearance: dict[str, Any] = {}
        self.operating = OperatingTables()

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "calibrated_on", "threshold_rate", "trained_on", "appearance")

    def choose(self, image_score: str) -> None:
        """Use the threshold and range of one of a model's image scores; nothing changes if it has only one."""
        self.image_score = image_score
        stored = self._buffers.get(BUFFER_PREFIX + image_score)
        if stored is not None:
            self._use("image", ScoreRange(*stored))

    @property
    def operating_points(self) -> list[RatedThresholds]:
        """Thresholds for several false alarm rates, which rise; none without good pictures that were held out."""
        points = []
        for row in self.operating.tables.get(self.image_score or ONLY_SCORE, ()):
            image, pixel = row[IMAGE], row[PIXEL]
            if self.enable_normalization:
                image = self._normalize(image, self.image_min, self.image_max, self.image_threshold)
                pixel = self._normalize(pixel, self.pixel_min, self.pixel_max, self.pixel_threshold)
            points.append(read_row(row, float(image), float(pixel)))
        return points

    def move_thresholds(self) -> None:
        """Set the thresholds of a loaded model for ``false_alarm_rate``, if they were set otherwise.

        Raises:
            ValueError: If the model has no such operating point; the message names those that there are.
        """
        rate = self.false_alarm_rate
        if rate is None or rate == self.threshold_rate or self.calibrated_on == "none":
            return
        rows = {name: find_row(table, rate) for name, table in self.operating.tables.items()}
        row = rows.get(self.image_score or ONLY_SCORE)
        if row is None:
            known = ", ".join(f"{point.false_alarm_rate:g}" for point in self.operating_points) or "none"
            raise ValueError(
                f"calibration.false_alarm_rate {rate:g} is none of the rates of the checkpoint, which has {known}. "
                "Give one of these, or train with more good pictures held out."
            )
        for name, other in rows.items():
            if other is not None and (stored := self._buffers.get(BUFFER_PREFIX + name)) is not None:
                stored[0] = other[IMAGE]
        self._use("image", ScoreRange(row[IMAGE], self.image_min, self.image_max))
        self._use("pixel", ScoreRange(row[PIXEL], self.pixel_min, self.pixel_max))
        self.threshold_rate = rate

    @staticmethod
    def _normalize(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
        """Map scores to ``(0, 1)``, strictly rising, the threshold to 0.5; unchanged without a calibration."""
        if preds is None:
            return None
        threshold = torch.where(torch.isnan(threshold), (norm_min + norm_max) / 2, threshold)
        span = norm_max - norm_min
        distance = (preds - threshold) / torch.where(span > 0, span, torch.ones_like(span))
        beyond = distance.sign() * (0.5 - TAIL**2 / (distance.abs() - LINEAR + TAIL).clamp(min=TAIL))
        normalized = 0.5 + torch.where(distance.abs() <= LINEAR, distance, beyond)
        return torch.where(torch.isnan(span), preds, normalized)

    def _use(self, level: str, found: ScoreRange) -> None:
        """Put a threshold and a range into anomalib's buffers of images or pixels."""
        values: dict[str, Tensor | None] = {}
        if self.enable_thresholding:
            values[f"_{level}_threshold"] = found.threshold
        if self.enable_normalization:
            values |= {f"{level}_min": found.low, f"{level}_max": found.high}
        for name, value in values.items():
            if value is not None:
                getattr(self, name).copy_(value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Load the saved calibrations of all image scores, and apply that of the score in use."""
        start = prefix + BUFFER_PREFIX
        saved = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(start)}
        for name in [name for name in self._buffers if name.startswith(BUFFER_PREFIX)]:
            delattr(self, name)
        for name, value in saved.items():
            self.register_buffer(name, torch.empty_like(value, device=self.image_min.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.image_score is not None:
            self.choose(self.image_score)


def set_false_alarm_rate(post_processor: Any, rate: float | None) -> None:  # noqa: ANN401
    """Let a post-processor set thresholds for a false alarm rate; ``None`` leaves it as it is.

    Raises:
        ValueError: If it cannot.
    """
    if rate is None:
        return
    if not isinstance(post_processor, CalibratedPostProcessor):
        name = type(post_processor).__name__
        raise ValueError(f"calibration.false_alarm_rate needs the default post_processor, got {name}.")  # noqa: TRY004
    post_processor.false_alarm_rate = rate
