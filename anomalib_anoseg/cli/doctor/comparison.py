"""Run one model in several runtimes and compare their predictions."""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.latency_worker import time_calls
from anomalib_anoseg.deploy.runtimes import Form, Runtime, RuntimeOutput, load_runtime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_anoseg.cli.doctor.output import Findings

__all__ = ["compare", "load_runtimes"]

TRUST = "TRUST_REMOTE_CODE"
HEADINGS = (
    "runtime",
    "stored in",
    "computes in",
    "score",
    "label",
    "score differs by",
    "map differs by",
    "ms",
)


class _Answer(NamedTuple):
    runtime: Runtime
    prediction: RuntimeOutput
    milliseconds: float


def load_runtimes(files: Mapping[Form, Path], threads: int, findings: Findings, *, trusted: bool) -> list[Runtime]:
    """Load all files that can be loaded, OpenVINO's in both of its precisions.

    Args:
        files: Paths of the files, by form.
        threads: Threads of each library.
        findings: Collects what cannot be loaded.
        trusted: Whether this package made the files; pickles of others are loaded only if the user allows it.
    """
    wanted = list(files.items())
    wanted += [(Form("openvino", "default"), path) for form, path in wanted if form.runtime == "openvino"]
    runtimes = []
    for form, path in wanted:
        if form.runtime == "torch" and not trusted and os.environ.get(TRUST, "0").lower() not in {"1", "true"}:
            findings.note(
                f"{path} is a pickle, which may run any code, and was not loaded. If you trust it, set {TRUST}=1."
            )
            continue
        try:
            runtimes.append(load_runtime(form, path, threads))
        except ModuleNotFoundError as error:
            findings.note(f"{form.name} is left out: {one_line(str(error))}.")
        except Exception as error:  # noqa: BLE001 - files may be broken in any way
            findings.problem(f"{path} does not load as {form.name}: {one_line(error)}.", "export the model again")
    return runtimes


def compare(
    runtimes: Sequence[Runtime], picture: NDArray[np.float32], tolerance: float, calls: int, findings: Findings
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Predict one picture with all runtimes; compare them with the first that works.

    Returns:
        tuple[tuple[str, ...], list[tuple[str, ...]]]: Headings and rows.
    """
    answers = [answer for answer in (_ask(runtime, picture, calls, findings) for runtime in runtimes) if answer]
    rows = []
    for answer in answers:
        score = _largest(answer.prediction.pred_score, answers[0].prediction.pred_score)
        pixels = _largest(answer.prediction.anomaly_map, answers[0].prediction.anomaly_map)
        if answer is not answers[0]:
            _judge(answers[0], answer, score, pixels, tolerance, findings)
        rows.append(_row(answer, score, pixels, is_first=answer is answers[0]))
    return HEADINGS, rows


def _ask(runtime: Runtime, picture: NDArray[np.float32], calls: int, findings: Findings) -> _Answer | None:
    try:
        prediction = runtime.predict(picture)
        times = time_calls(lambda: runtime.predict(picture), least=calls, most=calls)
    except Exception as error:  # noqa: BLE001 - the other runtimes must still be shown
        findings.problem(f"{runtime.name} fails on the picture: {one_line(error)}.", "export the model again")
        return None
    return _Answer(runtime, prediction, statistics.median(times))


def _largest(values: NDArray[np.float32] | None, others: NDArray[np.float32] | None) -> float | None:
    """Compute the largest difference; infinite if shapes differ, ``None`` if neither runtime has this output."""
    if values is None and others is None:
        return None
    if values is None or others is None or values.shape != others.shape:
        return float("inf")
    return float(np.abs(values - others).max())


def _judge(
    first: _Answer, answer: _Answer, score: float | None, pixels: float | None, tolerance: float, findings: Findings
) -> None:
    """Apply the tolerance to runtimes that store and compute in float32."""
    name, other = answer.runtime.name, first.runtime.name
    same_label = np.array_equal(answer.prediction.pred_label, first.prediction.pred_label)  # type: ignore[arg-type]
    if answer.runtime.form.precision not in {"float32", "FP32"} or answer.runtime.stored != "FP32":
        if not same_label:
            findings.note(f"{name} gives the picture another label than {other}; it is less precise than float32.")
        return
    remedy = "export all files anew from one checkpoint, with the versions installed here"
    if first.runtime.form.runtime == "test":
        remedy = "export it anew; if that does not help, give it pictures that are resized as in the training"
    for what, difference in {"score": score, "anomaly map": pixels}.items():
        if difference is not None and not difference <= tolerance:  # also if it is nan
            findings.problem(
                f"The {what} of {name} differs from that of {other} by {difference:.2g}, more than {tolerance:g}.",
                remedy,
            )
    close = np.abs(first.prediction.pred_score - 0.5).min() <= tolerance
    if not same_label and not close:
        findings.problem(f"{name} and {other} give the picture different labels.", remedy)


def _row(answer: _Answer, score: float | None, pixels: float | None, *, is_first: bool) -> tuple[str, ...]:
    runtime, prediction = answer.runtime, answer.prediction
    label = "" if prediction.pred_label is None else "anomalous" if prediction.pred_label[0] else "normal"
    differences = ("", "") if is_first else tuple("" if value is None else f"{value:.1e}" for value in (score, pixels))
    return (
        runtime.name,
        runtime.stored,
        runtime.in_use,
        f"{prediction.pred_score[0]:.4f}",
        label,
        *differences,
        f"{answer.milliseconds:.1f}",
    )
