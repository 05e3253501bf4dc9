"""Latency and memory of models, each form in a process of its own, in turns.

Libraries in one process disturb one another (their thread pools, their allocators), and a machine that slows down for
a minute would favour whatever is not measured then. So every form has a worker process, and a coordinator lets them
take turns, round after round; only one of them computes at a time. Times are wall times.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess  # noqa: S404 - our own module is started
import sys
import tempfile
import threading
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalib_anoseg.common.isolation import isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import TypeVar

    from typing_extensions import Self

    from anomalib_anoseg.deploy.runtimes import Form

    Key = TypeVar("Key", bound=Hashable)

__all__ = ["Worker", "WorkerError", "measure_in_turns", "summarise"]

NOISY_SPREAD = 0.25
LAST_CHARACTERS = 400  # of the output of a process that died


class WorkerError(RuntimeError):
    """A worker process failed; the message says why, in one line."""


class Worker:
    """A process that holds one model in one form.

    Args:
        form (Form): Runtime and precision.
        path (Path): The exported file.
        pictures (Path): ``.npy`` of float32 pictures ``(B, 3, H, W)`` in ``[0, 1]``, as many as the largest batch.
        threads (int): Threads per prediction. Defaults to ``1``.
        timeout (float): Seconds to wait for an answer; then the process is ended. Defaults to ``600``.

    Attributes:
        in_use: Precision in which the runtime computes.
        peak_memory_mb: Largest resident memory of the process in MiB, libraries included, after it has loaded the model
            and predicted one picture.

    Raises:
        WorkerError: If the model cannot be loaded or fails on one picture.
    """

    def __init__(self, form: Form, path: Path, pictures: Path, threads: int = 1, timeout: float = 600.0) -> None:
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        # Some libraries read their number of threads only when they are loaded.
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", isolated("anomalib_anoseg.deploy.latency_worker")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        try:
            ready = self._ask({"form": form, "path": str(path), "pictures": str(pictures), "threads": threads})
        except WorkerError:
            self.close()
            raise
        self.in_use: str = ready["in_use"]
        self.threads: int = ready["threads"]
        self.peak_memory_mb: float | None = ready["peak_memory_mb"]

    def time_calls(self, batch: int, seconds: float) -> list[float]:
        """Predict a batch repeatedly for some seconds, after a warm-up; return the milliseconds of each call.

        Raises a :class:`WorkerError` if a prediction fails or takes longer than the timeout.
        """
        times: list[float] = self._ask({"batch": batch, "seconds": seconds})["ms"]
        return times

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Self:
        """Return the worker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        watchdog = threading.Timer(self._timeout, end)
        watchdog.start()
        answer = ""
        try:
            self._process.stdin.write(f"{json.dumps(question)}\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
            answer = self._process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass
        finally:
            watchdog.cancel()
        if not answer:
            raise WorkerError(f"no answer within {self._timeout:g} s" if late.is_set() else self._why_it_ended())
        result: dict[str, Any] = json.loads(answer)
        if "error" in result:
            raise WorkerError(result["error"])
        return result

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = " ".join(self._errors.read().decode("utf-8", "replace").split())[-LAST_CHARACTERS:]
        return f"its process ended with exit status {code}: {said or 'it said nothing'}"


def measure_in_turns(
    workers: Mapping[Key, Worker],
    batches: Sequence[int] = (1, 16),
    rounds: int = 4,
    seconds: float = 0.5,
    advance: Callable[[], object] = lambda: None,
) -> tuple[dict[tuple[Key, int], list[list[float]]], dict[tuple[Key, int], str]]:
    """Let all workers take turns: each in every round, for each batch size.

    Args:
        workers (Mapping[Key, Worker]): Workers by any key.
        batches (Sequence[int]): Images per call.
        rounds (int): Turns of each worker per batch size.
        seconds (float): Length of a turn; it has three calls at least.
        advance (Callable[[], object]): Called after each turn, ``len(workers) * len(batches) * rounds`` times.

    Returns:
        tuple[dict[tuple[Key, int], list[list[float]]], dict[tuple[Key, int], str]]: Milliseconds of each call by round,
        by worker and batch, and a reason in one line for those that failed.
    """
    samples: dict[tuple[Key, int], list[list[float]]] = {}
    failed: dict[tuple[Key, int], str] = {}
    for batch, _, key in product(batches, range(rounds), workers):
        if (key, batch) not in failed:
            try:
                samples.setdefault((key, batch), []).append(workers[key].time_calls(batch, seconds))
            except WorkerError as error:
                failed[key, batch] = str(error)
                samples.pop((key, batch), None)
        advance()
    return samples, failed


def summarise(samples: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Summarise the milliseconds of calls by round.

    Returns:
        dict[str, Any]: Median and 95th percentile of all calls, the medians of the rounds, their spread (largest minus
        smallest, over the median), and whether that is more than a quarter: the figure is then unreliable.

    Example:
        >>> summarise([[10.0, 11.0, 12.0], [10.0, 13.0, 20.0]])["noisy"]
        False
        >>> summarise([[10.0], [14.0]])["spread"]
        0.333
    """
    calls = [call for turn in samples for call in turn]
    middles = [statistics.median(turn) for turn in samples]
    median = statistics.median(calls)
    spread = (max(middles) - min(middles)) / median
    return {
        "median_ms": round(median, 3),
        "p95_ms": round(float(np.percentile(calls, 95)), 3),
        "rounds": len(samples),
        "calls": len(calls),
        "round_medians_ms": [round(middle, 3) for middle in middles],
        "spread": round(spread, 3),
        "noisy": spread > NOISY_SPREAD,
    }
