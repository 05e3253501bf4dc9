"""Every training ends with a validation, and so with thresholds and a checkpoint."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

# A `check_val_every_n_epoch` for no validation at all, for callers that validate themselves.
NEVER = 10**9


class FinalValidation(Callback):
    """Validate when the training ends, wherever in an epoch that is.

    anomalib writes a checkpoint after each validation. Lightning skips the last validation where ``max_steps`` ends an
    epoch early, or ``check_val_every_n_epoch`` does not divide the number of epochs: the training since the validation
    before would be lost, or all of it. An interval of :data:`NEVER` is respected, and so is a datamodule without
    validation images, whom anomalib asks for them nevertheless.
    """

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the trainer's options, and validate on nothing where nothing is held out."""
        del pl_module
        if stage != "fit":
            return
        self._options = {name: getattr(trainer, name) for name in ("check_val_every_n_epoch", "limit_val_batches")}
        datamodule = getattr(trainer, "datamodule", None)
        if getattr(datamodule, "val_data", None) is None and getattr(datamodule, "val_split_mode", None) == "none":
            trainer.limit_val_batches = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Ask for a validation after the last batch: Lightning validates where a callback stops the training."""
        del args, kwargs
        if trainer.check_val_every_n_epoch != NEVER and _is_at_end(trainer):
            trainer.should_stop = True
            if trainer.check_val_every_n_epoch is not None:
                trainer.check_val_every_n_epoch = 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the trainer as it was, for another verb."""
        del pl_module
        for name, value in self._options.items():
            setattr(trainer, name, value)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do so where a training fails, too."""
        del exception
        self.on_fit_end(trainer, pl_module)


def _is_at_end(trainer: Trainer) -> bool:
    has_all_steps = 0 < trainer.max_steps <= trainer.global_step
    has_all_epochs = trainer.is_last_batch and 0 < (trainer.max_epochs or 0) <= trainer.current_epoch + 1
    return has_all_steps or has_all_epochs or trainer.should_stop
