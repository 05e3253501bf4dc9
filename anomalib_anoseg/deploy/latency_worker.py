"""The process that holds one model in one form: reads requests, one JSON object per line, and answers likewise.

:mod:`~anomalib_anoseg.deploy.latency` starts it. It imports the library under measurement and no other.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalib_anoseg.common.memory import peak_memory
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.runtimes import Form, load_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_CALLS, MAX_CALLS = 3, 100


class Server:
    """Loads a model for the first request, and times it for the others."""

    def __init__(self, form: list[str], path: str, pictures: str, threads: int) -> None:
        self.model = load_runtime(Form(*form), Path(path), threads)
        self.pictures = np.load(pictures, mmap_mode="r")
        self.model.predict(self._batch(1))

    def describe(self) -> dict[str, Any]:
        """Report the precision in use, and the memory that loading and one prediction took."""
        return {"in_use": self.model.in_use, "threads": self.model.threads, "peak_memory_mb": peak_memory()}

    def time_calls(self, batch: int, seconds: float) -> dict[str, list[float]]:
        """Predict repeatedly; return the milliseconds of each call."""
        images = self._batch(batch)
        return {"ms": time_calls(lambda: self.model.predict(images), seconds)}

    def _batch(self, count: int) -> Any:  # noqa: ANN401
        return np.array(self.pictures[:count])


def time_calls(
    call: Callable[[], object], seconds: float = 0.0, least: int = MIN_CALLS, most: int = MAX_CALLS
) -> list[float]:
    """Call once to warm up, then repeatedly for some seconds; return the milliseconds of each call.

    Args:
        call: What to time.
        seconds: How long.
        least: Fewest calls, even if they take longer.
        most: Most calls, even if they take less.

    Example:
        >>> len(time_calls(lambda: None))
        3
    """
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (len(times) < most and time.perf_counter() < end):
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def main() -> None:
    """Answer until there are no more requests; what the libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server: Server | None = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if server is None:
                server = Server(**question)
                result = server.describe()
            else:
                result = server.time_calls(**question)
        except Exception as error:  # noqa: BLE001 - reported to the caller
            result = {"error": one_line(error)}
        print(json.dumps(result), file=answers, flush=True)
