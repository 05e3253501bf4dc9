"""Checkpoints from which an interrupted training continues."""

import time
from pathlib import Path
from zipfile import is_zipfile

from anomalib.callbacks.checkpoint import ModelCheckpoint
from lightning.pytorch import LightningModule, Trainer

from anomalib_anoseg.training.budget import Stopwatch
from anomalib_anoseg.training.safe_checkpoints import write_checkpoints_whole

__all__ = ["ResumePoint"]


class ResumePoint(ModelCheckpoint):
    """Saves the latest state of a training after an epoch, at most once in ``every_seconds``.

    Writing a large model can take longer than an epoch. A new file is complete before the last one is deleted.

    Args:
        folder: Folder of the checkpoint.
        every_seconds: Shortest time between two checkpoints.
        stopwatch: Paused meanwhile, because the size of a model must not shorten its training.

    Attributes:
        is_resumed_alone: Whether boards resume from the latest one by themselves, so that Ctrl-C writes no other.
    """

    is_resumed_alone = True

    def __init__(self, folder: Path, every_seconds: float, stopwatch: Stopwatch) -> None:
        super().__init__(folder, filename="{epoch}", save_top_k=1, save_on_train_epoch_end=True)
        self.every_seconds, self.stopwatch = every_seconds, stopwatch
        self._last = time.perf_counter()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let all models, not only this package's, be written completely or not at all."""
        super().setup(trainer, pl_module, stage)
        write_checkpoints_whole(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if it is time for one."""
        if time.perf_counter() - self._last >= self.every_seconds:
            with self.stopwatch.paused():
                super().on_train_epoch_end(trainer, pl_module)
            self._last = time.perf_counter()

    @staticmethod
    def latest(folder: Path) -> Path | None:
        """Find the latest complete checkpoint of a folder."""
        whole = filter(is_zipfile, folder.glob("*.ckpt"))
        return max(whole, key=lambda path: path.stat().st_mtime, default=None)
