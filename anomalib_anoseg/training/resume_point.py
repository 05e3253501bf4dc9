"""Checkpoints from which an interrupted training goes on."""

import time
from pathlib import Path
from zipfile import is_zipfile

from anomalib.callbacks.checkpoint import ModelCheckpoint
from lightning.pytorch import LightningModule, Trainer

from anomalib_anoseg.training.budget import Stopwatch

__all__ = ["ResumePoint"]


class ResumePoint(ModelCheckpoint):
    """Keeps the latest state of a training, after an epoch and not more often than every so many seconds.

    Writing a large model after each epoch can take longer than the epoch. A new file is complete before the last one
    is deleted.

    Args:
        folder: Where the file goes.
        every_seconds: Least time between two of them.
        stopwatch: Stands still meanwhile, because the size of a model must not shorten its training.
    """

    def __init__(self, folder: Path, every_seconds: float, stopwatch: Stopwatch) -> None:
        super().__init__(folder, filename="{epoch}", save_top_k=1, save_on_train_epoch_end=True)
        self.every_seconds, self.stopwatch = every_seconds, stopwatch
        self._last = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if it is time for one."""
        if time.perf_counter() - self._last >= self.every_seconds:
            with self.stopwatch.paused():
                super().on_train_epoch_end(trainer, pl_module)
            self._last = time.perf_counter()

    @staticmethod
    def latest(folder: Path) -> Path | None:
        """Find the latest checkpoint of a folder that is whole."""
        whole = filter(is_zipfile, folder.glob("*.ckpt"))
        return max(whole, key=lambda path: path.stat().st_mtime, default=None)
