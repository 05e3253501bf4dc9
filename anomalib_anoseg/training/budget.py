"""Time that a training takes, by two clocks, and the budget that ends it.

On a busy machine a training gets less work done in the same wall time. CPU time, summed over the threads of the
training process, counts only work done, and so gives models equal work even then. Two threads use two CPU seconds per
second of wall time.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import RunningStage

from anomalib_anoseg.common.files import write_json
from anomalib_anoseg.common.machine import load_average

__all__ = ["BudgetTimer", "Stopwatch", "TrainingMeter"]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Stopwatch:
    """Wall and CPU seconds of a training.

    Example:
        >>> stopwatch = Stopwatch()
        >>> stopwatch.start()
        >>> stopwatch.stop()
        >>> sorted(stopwatch.seconds)
        ['cpu', 'wall']
    """

    def __init__(self) -> None:
        self._earlier = dict.fromkeys(CLOCKS, 0.0)
        self._start: dict[str, float] | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by clock so far."""
        if self._start is None:
            return dict(self._earlier)
        return {name: self._earlier[name] + clock() - self._start[name] for name, clock in CLOCKS.items()}

    @property
    def is_running(self) -> bool:
        """Whether it is running."""
        return self._start is not None

    def start(self) -> None:
        """Start, or resume."""
        self._start = {name: clock() for name, clock in CLOCKS.items()}

    def stop(self) -> None:
        """Pause."""
        self._earlier, self._start = self.seconds, None

    def set(self, seconds: dict[str, float]) -> None:
        """Continue from the seconds of an earlier attempt."""
        self._earlier, self._start = dict(seconds), None

    @contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Pause in a ``with`` block."""
        was_running = self.is_running
        self.stop()
        try:
            yield
        finally:
            if was_running:
                self.start()


class BudgetTimer(Timer):
    """Lightning's timer by either clock: it ends a training, and schedules can ask for its progress.

    Args:
        seconds: The budget.
        clock: ``"wall"`` or ``"cpu"``.
        stopwatch: The stopwatch to read; its owner starts it and saves its state.
    """

    def __init__(self, seconds: float, clock: str, stopwatch: Stopwatch) -> None:
        super().__init__(timedelta(seconds=seconds), verbose=False)
        self.clock, self.stopwatch = clock, stopwatch

    def time_elapsed(self, stage: str = RunningStage.TRAINING) -> float:
        """Return the seconds of training so far; other stages do not use the budget."""
        return self.stopwatch.seconds[self.clock] if RunningStage(stage) == RunningStage.TRAINING else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Save nothing: the stopwatch's seconds are saved elsewhere."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load nothing."""


class TrainingMeter(Callback):
    """Counts a training's seconds, images and steps, across interruptions, and ends it after a number of images.

    Seconds run from the first batch to the last, without validations and checkpoints: a model's size and the number of
    validations must not shorten its training. The progress is written to a file after each epoch.

    Args:
        progress: The file.
        max_images: Number of images after which training ends; ``None`` leaves the end to the trainer.
    """

    def __init__(self, progress: Path, max_images: float | None = None) -> None:
        self.progress, self.max_images = progress, max_images
        self.stopwatch = Stopwatch()
        self.images = self.steps = self.epochs_begun = 0
        self.set_size: int | None = None
        self.load: dict[str, float | None] = {}
        self._was_running = False

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """Start the clocks."""
        self.set_size = len(trainer.train_dataloader.dataset)  # type: ignore[union-attr]
        self.load.setdefault("load_begin", load_average())
        self.stopwatch.start()
        self._report(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, _module: LightningModule, _outputs: object, batch: ImageBatch, _index: int
    ) -> None:
        """Count a batch."""
        self.images += len(batch.image)  # type: ignore[arg-type]
        self.steps += 1
        if self.max_images is not None and self.images >= self.max_images:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """Count an epoch, whole or cut short."""
        self.epochs_begun += 1
        self._report(trainer)

    def on_validation_start(self, _trainer: Trainer, _module: LightningModule) -> None:
        """Pause the clocks."""
        self._was_running = self.stopwatch.is_running
        self.stopwatch.stop()

    def on_validation_end(self, _trainer: Trainer, _module: LightningModule) -> None:
        """Resume the clocks, if they ran before."""
        if self._was_running:
            self.stopwatch.start()

    def on_train_end(self, _trainer: Trainer, _module: LightningModule) -> None:
        """Stop the clocks."""
        self.stopwatch.stop()
        self.load["load_end"] = load_average()

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        counts = {"images": self.images, "steps": self.steps, "epochs_begun": self.epochs_begun}
        return {"seconds": self.stopwatch.seconds, "load": dict(self.load), **counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.stopwatch.set(state_dict["seconds"])
        self.load = dict(state_dict["load"])
        self.images, self.steps, self.epochs_begun = (state_dict[name] for name in ("images", "steps", "epochs_begun"))

    def figures(self) -> dict[str, float | None]:
        """Return the figures for a row."""
        seconds = self.stopwatch.seconds
        return {
            "seconds": seconds["wall"],
            "cpu_seconds": seconds["cpu"],
            "images": self.images,
            "steps": self.steps,
            "epochs": self.images / self.set_size if self.set_size else None,
            "seconds_per_image": seconds["wall"] / self.images if self.images else None,
            **self.load,
        }

    def _report(self, trainer: Trainer) -> None:
        with self.stopwatch.paused():
            write_json(self.progress, {"epoch": self.epochs_begun, "max_epochs": trainer.max_epochs})
