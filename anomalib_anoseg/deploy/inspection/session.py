"""An exported file that judges pictures: score, label and map at the size of the picture."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.record import from_json
from anomalib_anoseg.deploy.runtimes import Form, Runtime, load_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_anoseg.deploy.record import Record

__all__ = ["Decision", "Judgement", "Session"]

# The runtime of a file, by its ending. OpenVINO computes in float32, in which the decisions were tested.
FORMS = {".onnx": Form("onnxruntime", "float32"), ".xml": Form("openvino", "FP32")}
HALF = 0.5  # the threshold of anomalib's normalised scores


class Decision(NamedTuple):
    """What a file calls anomalous: scores above these thresholds, on the scale of its outputs.

    Attributes:
        image: Threshold of the image score.
        pixel: Threshold of the anomaly map.
        note: What the user should know of them; empty if there is nothing.
    """

    image: float
    pixel: float
    note: str = ""


class Judgement(NamedTuple):
    """What a file says of a picture.

    Attributes:
        score: Image score.
        is_anomalous: Whether it exceeds the threshold.
        full_map: ``(H, W)`` float32, the map at the size of the picture; ``None`` from a model without maps.
        mask: ``(H, W)`` bool, where that exceeds the threshold of pixels; likewise.
    """

    score: float
    is_anomalous: bool
    full_map: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None


class Session:
    """Loads an exported file.

    Args:
        path (Path): ``.onnx`` for ONNX Runtime, or ``.xml`` for OpenVINO.
        rate (float | None): False alarm rate, one of those in the file's record; ``None`` for its own thresholds.

    Attributes:
        decision: The thresholds in use.
        digest: ``sha256:`` and the digest of the file with the weights beside it.
        appearance: Of the good pictures that were held out; ``None`` if the file does not say.

    Raises:
        ValueError: If the file cannot be used, or has no such rate.
        FileNotFoundError: If there is none.
        ModuleNotFoundError: If its runtime is not installed.
    """

    def __init__(self, path: Path, rate: float | None = None) -> None:
        self.path, self._rate = path, rate
        self._runtime = _load(path)
        record = None if self._runtime.record is None else from_json(self._runtime.record, str(path))
        self.decision = _decide(record, self._runtime.thresholds, path, rate)
        self.appearance = None if record is None else record.appearance
        self.digest = _digest(path)

    def judge(self, picture: Image.Image) -> Judgement:
        """Judge an RGB picture.

        Raises:
            ValueError: If the file takes no picture of this size, or returns a score that is not a number.
        """
        expected = self._runtime.input_size
        if expected is not None and expected != picture.size[::-1]:
            raise ValueError(
                f"has {picture.width} x {picture.height} pixels, and the file takes {expected[1]} x {expected[0]} "
                "alone. Export it without --input_size for pictures of any size."
            )
        pixels = np.array(np.asarray(picture).transpose(2, 0, 1)[None], np.float32, order="C")
        pixels /= 255
        prediction = self._runtime.predict(pixels)
        score = float(prediction.pred_score[0])  # exactly this float32, as thresholds of records are
        if math.isnan(score):
            raise ValueError("got a score that is not a number. Check the file with `anomalib-anoseg doctor`.")
        is_anomalous = score > self.decision.image
        if self._rate is None and prediction.pred_label is not None:
            is_anomalous = bool(prediction.pred_label[0])  # what the file decides by itself
        if prediction.anomaly_map is None:
            return Judgement(score, is_anomalous, None, None)
        full_map = enlarge(prediction.anomaly_map[0, 0], picture.size)
        return Judgement(score, is_anomalous, full_map, full_map > np.float32(self.decision.pixel))


def enlarge(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a map to the width and height of a picture: bilinear, and antialiased if the picture is smaller.

    Example:
        >>> enlarge(np.array([[0.0, 1.0]], np.float32), (4, 1))
        array([[0.  , 0.25, 0.75, 1.  ]], dtype=float32)
    """
    return np.asarray(Image.fromarray(anomaly_map).resize(size, Image.Resampling.BILINEAR))


def _load(path: Path) -> Runtime:
    if path.is_dir() or path.suffix not in FORMS:
        what = "a folder" if path.is_dir() else "of another kind"
        raise ValueError(
            "MODEL must be a .onnx or .xml, which `anomalib export` writes with `--export_type onnx` or `openvino`, "
            f"and {path} is {what}."
        )
    form = FORMS[path.suffix]
    try:
        return load_runtime(form, path)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{form.runtime} is not installed, which runs {path.name}; `pip install {form.runtime}` brings it",
            name=form.runtime,
        ) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}. Export the model, or name another file.") from None
    except Exception as error:  # noqa: BLE001 - each runtime fails in its own way
        raise ValueError(
            f"{path} cannot be loaded ({one_line(error)}). Keep the weights beside it (.bin or .onnx.data), or export "
            "it again."
        ) from None


def _decide(record: Record | None, thresholds: dict[str, str], path: Path, rate: float | None) -> Decision:
    """Choose the thresholds.

    Raises:
        ValueError: If the file has no such rate.
    """
    if rate is not None:
        if record is None or not record.operating_points:
            raise ValueError(
                f"--rate needs a file with operating points, and {path} has none. Leave --rate out, or export the "
                "checkpoint again."
            )
        try:
            point = record.at(rate)
        except ValueError:
            known = ", ".join(f"{point.false_alarm_rate:g}" for point in record.operating_points)
            raise ValueError(f"--rate {rate:g} is no operating point of {path}. It has {known}.") from None
        note = (
            f"{path.name} does not say how the held-out good pictures look: a change of light or focus, with which no "
            "rate holds, will not be noticed. Train and export again, so that it is."
        )
        return Decision(point.image_score, point.pixel_score, "" if record.appearance else note)
    raw = f"{path.name} was never calibrated, so its scores are raw. Train with validation images, and export again."
    if record is not None:
        decided = record.thresholds
        note = raw if math.isnan(decided.image.raw) or math.isnan(decided.pixel.raw) else ""
        return Decision(decided.image.score, decided.pixel.score, note)
    # anomalib decides at one minus the sensitivity.
    image, pixel = (round(1 - float(thresholds.get(f"{level}_sensitivity", HALF)), 6) for level in ("image", "pixel"))
    note = f"{path.name} has no record of operating points: it decides at its own threshold, {image:g}."
    if thresholds.get("image_threshold") == "nan":
        note += f" {raw}"
    return Decision(image, pixel, note)


def _digest(path: Path) -> str:
    """Digest a file together with its weights."""
    digest = hashlib.sha256()
    for part in (path, path.with_suffix(".bin"), path.with_name(f"{path.name}.data")):
        if part.is_file():
            digest.update(part.read_bytes())
    return f"sha256:{digest.hexdigest()}"
