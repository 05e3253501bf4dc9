"""The record of an exported file: what it is, what goes in and out, and on what its thresholds rest.

One JSON object, the same inside a file and in ``metadata.json`` beside it. This module needs the standard library
alone, so that a file can be read where torch is not installed.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from anomalib_anoseg.common.files import without_nan
from anomalib_anoseg.common.messages import one_line

__all__ = ["FORMAT", "KEY", "Model", "OperatingPoint", "Record", "Threshold", "Thresholds", "Training", "from_json"]

# Of the records that this version writes, and the newest that it reads.
FORMAT = 1
# Name of the record among the entries of a file's metadata.
KEY = "anomalib_anoseg.record"
UNKNOWN = math.nan
LARGEST = sys.float_info.max
# Types of JSON's plain values, and their names.
PLAIN: dict[type, tuple[Any, str]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
}

T = TypeVar("T")


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
        raise ValueError(f"{source}: the record must have a format, a whole number, got {_shown(version)}.")
    if version > FORMAT:
        raise ValueError(
            f"{source}: the record has format {version}, and this version reads {FORMAT}: update anomalib-anoseg."
        )
    try:
        return _read_object(Record, content, "")
    except _MisfitError as error:
        raise ValueError(f"{source}: the record{error}") from None


class _MisfitError(Exception):
    """An entry is missing or is not what it should be."""

    def __init__(self, place: str, expected: str | None = None, content: object = None) -> None:
        wrong = f"'s {place} must be {expected}, got {_shown(content)}." if expected else f" lacks {place}."
        super().__init__(wrong)


def _read_object(kind: type[T], content: Any, place: str) -> T:  # noqa: ANN401
    """Make a dataclass from an object of JSON.

    Raises:
        _MisfitError: If an entry is missing or is not what it should be.
    """
    if not isinstance(content, dict):
        raise _MisfitError(place, "an object", content)
    hints = get_type_hints(kind)
    values = {}
    for field in fields(kind):  # type: ignore[arg-type] # a dataclass
        inner = f"{place}.{field.name}".removeprefix(".")
        if field.name in content:
            values[field.name] = _read(hints[field.name], content[field.name], inner)
        elif field.default is field.default_factory:  # both are MISSING
            raise _MisfitError(inner)
    return kind(**values)


def _read(kind: Any, content: Any, place: str) -> Any:  # noqa: ANN401
    """Check a value of JSON against the type of a field, and make it one.

    Raises:
        _MisfitError: If it is not of the type.
    """
    arguments = get_args(kind)
    if get_origin(kind) in {UnionType, Union}:
        return None if content is None else _read(arguments[0], content, place)
    if get_origin(kind) is dict:
        if not isinstance(content, dict):
            raise _MisfitError(place, "an object", content)
        return {name: _read(arguments[1], value, f"{place}.{name}") for name, value in content.items()}
    if get_origin(kind) is tuple:
        length = None if arguments[-1] is ... else len(arguments)
        if not isinstance(content, list) or length not in {None, len(content)}:
            raise _MisfitError(place, "a list" if length is None else f"a list of {length}", content)
        return tuple(_read(arguments[0], value, f"{place}[{index}]") for index, value in enumerate(content))
    if kind is float and content is None:
        return UNKNOWN
    if kind not in PLAIN:
        return content if kind is Any else _read_object(kind, content, place)
    allowed, name = PLAIN[kind]
    is_too_large = isinstance(content, (int, float)) and abs(content) > LARGEST
    if not isinstance(content, allowed) or isinstance(content, bool) or is_too_large:
        raise _MisfitError(place, name, content)
    return kind(content)


def _shown(content: object) -> str:
    return one_line(json.dumps(content), 60)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
