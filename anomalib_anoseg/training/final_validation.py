"""Every training ends with a validation, and so with thresholds and a checkpoint."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

# A `check_val_every_n_epoch` for no validation at all, for callers that validate themselves.
NEVER = 10**9


class FinalValidation(Callback):
    """Validate when the training ends, wherever in an epoch that is.

    anomalib writes a checkpoint after each validation. Lightning skips the last validation where ``max_steps`` ends an
    epoch early, or ``check_val_every_n_epoch`` does not divide the number of epochs: the training since the validation
    before would be lost, or all of it. An interval of :data:`NEVER` is respected.
    """

    def __init__(self) -> None:
        self._interval: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how often the user wants to validate."""
        del pl_module
        self._interval = trainer.check_val_every_n_epoch

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Ask for a validation after the last batch: Lightning validates where a callback stops the training."""
        del args, kwargs
        if trainer.check_val_every_n_epoch != NEVER and _is_at_end(trainer):
            trainer.should_stop = True
            if trainer.check_val_every_n_epoch is not None:
                trainer.check_val_every_n_epoch = 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was, for another fit."""
        del pl_module
        trainer.check_val_every_n_epoch = self._interval


def _is_at_end(trainer: Trainer) -> bool:
    has_all_steps = 0 < trainer.max_steps <= trainer.global_step
    has_all_epochs = trainer.is_last_batch and 0 < (trainer.max_epochs or 0) <= trainer.current_epoch + 1
    return has_all_steps or has_all_epochs or trainer.should_stop
