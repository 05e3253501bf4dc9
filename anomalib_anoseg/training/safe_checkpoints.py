"""Checkpoints that are written completely or not at all, and one more where Ctrl-C stops a training."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from anomalib_anoseg.common.files import written_whole

__all__ = ["SafeCheckpoints", "write_checkpoints_whole"]


def write_checkpoints_whole(trainer: Trainer) -> None:
    """Let a trainer of anomalib's engine write each checkpoint completely or not at all.

    Lightning writes to the folder of temporary files, and copies from there if that is another file system, over the
    checkpoint before. The user's own ``CheckpointIO``, and a path that is an address, are left alone.
    """
    from anomalib.engine.plugins import AnomalibCheckpointIO  # noqa: PLC0415 - imports all models

    class WholeCheckpointIO(AnomalibCheckpointIO):
        """anomalib's ``CheckpointIO``, but it writes completely or not at all."""

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
    thresholds of the last validation: it is for resuming, not for predicting. With several processes there is none,
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
        folder = None if getattr(kept, "is_resumed_alone", False) else getattr(kept, "dirpath", None)
        is_training = trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0
        if folder and is_training and trainer.world_size == 1 and isinstance(exception, KeyboardInterrupt):
            path = Path(folder) / self.file
            trainer.save_checkpoint(path)
            rank_zero_info(
                f"Stopped in epoch {trainer.current_epoch}. Wrote {path}: to go on from there, run `anomalib fit` with "
                f"the same options and --ckpt_path {path}."
            )
