"""Checkpoints from which an interrupted training continues."""

import time
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from anomalib_anoseg.common.files import written_whole
from anomalib_anoseg.training.budget import Stopwatch

__all__ = ["ResumePoint", "SafeCheckpoints", "write_checkpoints_whole"]


def write_checkpoints_whole(trainer: Trainer) -> None:
    """Let a trainer of anomalib's engine write each checkpoint completely or not at all.

    Lightning writes to the folder of temporary files, and copies from there if that is another file system, over the
    checkpoint before. The user's own ``CheckpointIO``, and a path that is an address, are left alone.
    """
    from anomalib.engine.plugins import AnomalibCheckpointIO  # noqa: PLC0415 - imports all models

    class WholeCheckpointIO(AnomalibCheckpointIO):
        """anomalib's, but for the way of writing."""

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ANN401
            if storage_options is not None or "://" in str(path):
                super().save_checkpoint(checkpoint, path, storage_options)
                return
            # With a path, torch would hide the reason why it cannot write.
            with written_whole(Path(path)) as place, place.open("wb") as file:
                torch.save(checkpoint, file)

    present = trainer.strategy.checkpoint_io
    if type(present) is AnomalibCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO(present.extra_safe_globals)


class SafeCheckpoints(Callback):
    """Writes checkpoints completely or not at all, and one more where Ctrl-C stops a training.

    That one lies beside the others. It has the weights of that moment, perhaps in the middle of a step, and the
    thresholds of the last validation: it is for going on, not for predicting. With several processes there is none,
    because one may wait for another that has stopped.
    """

    file = "interrupted.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace the way of writing."""
        del pl_module, stage
        write_checkpoints_whole(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write a checkpoint and say where, if this is Ctrl-C during a training."""
        del pl_module
        kept = trainer.checkpoint_callback
        folder = None if isinstance(kept, ResumePoint) else getattr(kept, "dirpath", None)
        is_training = trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0
        if folder and is_training and trainer.world_size == 1 and isinstance(exception, KeyboardInterrupt):
            path = Path(folder) / self.file
            trainer.save_checkpoint(path)
            rank_zero_info(
                f"Stopped in epoch {trainer.current_epoch}. Wrote {path}: to go on from there, run `anomalib fit` with "
                f"the same options and --ckpt_path {path}."
            )


class ResumePoint(ModelCheckpoint):
    """Saves the latest state of a training after an epoch, at most once in ``every_seconds``.

    Writing a large model can take longer than an epoch. A new file is complete before the last one is deleted.

    Args:
        folder: Folder of the checkpoint.
        every_seconds: Shortest time between two checkpoints.
        stopwatch: Paused meanwhile, because the size of a model must not shorten its training.
    """

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
