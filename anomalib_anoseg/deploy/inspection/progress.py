"""A line on the terminal that says how far an inspection is."""

import sys
import time

from anomalib_anoseg.deploy.inspection.journal import Tally

__all__ = ["Progress"]

PERIOD = 0.2  # seconds between updates
WIDTH = 24  # of the bar in characters


class Progress:
    """Shows a bar, the counts and the speed on stderr if that is a terminal.

    Args:
        tally (Tally): The counts.
        total (int | None): Number of pictures; ``None`` if unknown.
    """

    def __init__(self, tally: Tally, total: int | None) -> None:
        self._tally, self._total = tally, total
        self._is_shown = sys.stderr is not None and sys.stderr.isatty()  # a service may have none
        self._begin, self._last, self.done = time.monotonic(), 0.0, 0

    def advance(self, *, judged: bool = True) -> None:
        """Count a picture: one that was judged now, or one that had been."""
        self.done += judged
        if self._total is not None and not judged:
            self._total -= 1
        now = time.monotonic()
        if self._is_shown and now - self._last >= PERIOD:
            self._last = now
            self._show(self.done / max(now - self._begin, 1e-9))

    def close(self) -> None:
        """Leave the line."""
        if self._is_shown and self._last:
            print(file=sys.stderr)  # noqa: T201

    def _show(self, speed: float) -> None:
        bar = f"{self.done}"
        if self._total:
            filled = WIDTH * self.done // self._total
            bar = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {self.done}/{self._total}"
        print(f"\r{bar}  {self._tally}  {speed:.1f} pictures/s ", end="", file=sys.stderr, flush=True)  # noqa: T201
