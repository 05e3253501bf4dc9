"""The record of an exported file: what it is, what goes in and out, and on what its thresholds rest.

One JSON object, the same inside a file and in ``metadata.json`` beside it. This module needs the standard library
alone, so that a file can be read where torch is not installed.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from anomalib_anoseg.common.files import without_nan
from anomalib_anoseg.common.typed_json import MisfitError, read_object, shown

__all__ = [
    "FORMAT",
    "KEY",
    "Appearance",
    "Model",
    "OperatingPoint",
    "Record",
    "Threshold",
    "Thresholds",
    "Training",
    "from_json",
]

# Of the records that this version writes, and the newest that it reads.
FORMAT = 1
# Name of the record among the entries of a file's metadata.
KEY = "anomalib_anoseg.record"
UNKNOWN = math.nan


@dataclass(frozen=True)
class Model:
    """What was exported.

    Args:
        name: Of its class, such as ``"AnoSeg"``.
        preset: The one whose settings of the model it has; ``None`` if there is none.
        parameters: Number of parameters that prediction needs.
        digest: ``sha256:`` and the digest of the weights that prediction needs.
    """

    name: str
    preset: str | None
    parameters: int
    digest: str


@dataclass(frozen=True)
class Training:
    """What the model learned from.

    Args:
        images: Number of training pictures; ``None`` if it is not known.
        held_out: Number of good pictures that were held out, on which thresholds rest; likewise.
        epochs: Number of epochs; likewise.
        seed: Of the model; ``None`` if it had none.
    """

    images: int | None = None
    held_out: int | None = None
    epochs: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Threshold:
    """A threshold, and how raw scores become outputs in ``[0, 1]``. NaN is what was not calibrated.

    Args:
        raw: Threshold of the raw score, which becomes 0.5.
        low: Lowest raw score of the calibration.
        high: Highest one.
        score: Threshold of the output: what is larger is anomalous.
    """

    raw: float = UNKNOWN
    low: float = UNKNOWN
    high: float = UNKNOWN
    score: float = 0.5


@dataclass(frozen=True)
class Thresholds:
    """The thresholds that a file applies by itself.

    Args:
        image: Of ``pred_score``, for ``pred_label``.
        pixel: Of ``anomaly_map``, for ``pred_mask``.
        calibrated_on: What they rest on, such as ``"forged on held-out images"``.
        false_alarm_rate: At which they were set; ``None`` if they were set where F1 is best.
    """

    image: Threshold
    pixel: Threshold
    calibrated_on: str
    false_alarm_rate: float | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds for a false alarm rate, on the scale of the outputs.

    ``pred_score > image_score`` is the label, ``anomaly_map > pixel_score`` is the mask.

    Args:
        false_alarm_rate: Share of new good pictures that exceed a threshold, on average over sets of held-out pictures.
        image_score: Threshold of ``pred_score``.
        pixel_score: Threshold of ``anomaly_map``, which at most that share of good pictures exceeds in any pixel.
        good_images: Number of held-out good pictures that both rest on.
        interval: Exact 95 % interval of the rate at ``image_score`` for these pictures.
        forged_found: Share of forged defects whose picture is called anomalous; NaN if none were forged.
        real_found: Likewise of real defects among the validation pictures; NaN if there were none.
    """

    false_alarm_rate: float
    image_score: float
    pixel_score: float
    good_images: int
    interval: tuple[float, float]
    forged_found: float = UNKNOWN
    real_found: float = UNKNOWN


@dataclass(frozen=True)
class Appearance:
    """How the good pictures look that were held out: of each property a lower end, the median and an upper end.

    Args:
        size: Height and width in pixels to which a picture is resized before it is measured.
        good_images: Number of pictures.
        outside: How many of them lie at a lower end or below it, and how many at an upper end or above it.
        grey: Mean of a picture's grey levels, 0 to 255.
        contrast: Their standard deviation.
        sharpness: Mean difference of neighbouring pixels, in parts of the contrast.
    """

    size: tuple[int, int]
    good_images: int
    outside: int
    grey: tuple[float, float, float]
    contrast: tuple[float, float, float]
    sharpness: tuple[float, float, float]


@dataclass(frozen=True)
class Record:
    """All that an exported file says about itself.

    Args:
        model: What was exported.
        versions: Of the packages that made it, by name.
        training: What the model learned from.
        input: Name, shape, type, range, colours and resize of the input.
        outputs: Shape, type and range of each output, by name.
        thresholds: Those that the file applies.
        operating_points: Others, by rising false alarm rate.
        appearance: Of pictures for which those rates hold; ``None`` if it is not known.
        ignore_mask: Digest of the mask of pixels that never count, and their share; ``None`` if there is none.
        weights_licence: Of the weights that training started from; ``None`` if it is not known.
        format: Version of this form.

    Example:
        >>> threshold = Threshold(raw=0.25, low=0.0, high=1.0)
        >>> record = Record(
        ...     model=Model("AnoSeg", None, 6_300_000, "sha256:0"),
        ...     versions={"torch": "2.10.0"},
        ...     training=Training(images=180, held_out=20),
        ...     input={"name": "input"},
        ...     outputs={"pred_score": {"shape": ["batch"]}},
        ...     thresholds=Thresholds(threshold, threshold, "forged on held-out images"),
        ... )
        >>> from_json(record.to_json()) == record
        True
    """

    model: Model
    versions: dict[str, str]
    training: Training
    input: dict[str, Any]
    outputs: dict[str, Any]
    thresholds: Thresholds
    operating_points: tuple[OperatingPoint, ...] = ()
    appearance: Appearance | None = None
    ignore_mask: dict[str, Any] | None = None
    weights_licence: str | None = None
    format: int = FORMAT

    def to_json(self) -> str:
        """Write as JSON, in one line; numbers that are not finite become null."""
        content = without_nan({"format": self.format, **asdict(self)})
        return json.dumps(content, allow_nan=False, ensure_ascii=False)

    def at(self, false_alarm_rate: float) -> OperatingPoint:
        """Find the operating point of a false alarm rate.

        Raises:
            ValueError: If there is none; the message names those that there are.

        Example:
            >>> point = OperatingPoint(0.05, 0.56, 0.61, 20, (0.0, 0.168))
            >>> record = Record(Model("AnoSeg", None, 0, ""), {}, Training(), {}, {}, None, (point,))
            >>> record.at(0.05).image_score
            0.56
            >>> record.at(0.01)
            Traceback (most recent call last):
            ValueError: There is no operating point for false_alarm_rate 0.01; there are: 0.05.
        """
        for point in self.operating_points:
            if math.isclose(point.false_alarm_rate, false_alarm_rate):
                return point
        known = ", ".join(f"{point.false_alarm_rate:g}" for point in self.operating_points) or "none"
        raise ValueError(f"There is no operating point for false_alarm_rate {false_alarm_rate}; there are: {known}.")


def from_json(text: str, source: str = "record") -> Record:
    """Read a record.

    Args:
        text: What :meth:`Record.to_json` wrote. Entries that are not known are ignored.
        source: Name of the file that it is from, for messages.

    Raises:
        ValueError: If it is none, or of a newer format; the message names the file, the entry and what is wrong.

    Example:
        >>> from_json('{"format": 1, "model": 7}', "model.onnx")
        Traceback (most recent call last):
        ValueError: model.onnx: the record's model must be an object, got 7.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{source}: the record is no JSON ({error}).") from None
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"{source}: the record must have a format, a whole number, got {shown(version)}.")
    if version > FORMAT:
        raise ValueError(
            f"{source}: the record has format {version}, and this version reads {FORMAT}: update anomalib-anoseg."
        )
    try:
        return read_object(Record, content, "")
    except MisfitError as error:
        raise ValueError(f"{source}: the record{error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
