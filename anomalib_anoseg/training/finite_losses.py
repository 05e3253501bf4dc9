"""A training stops where its losses or weights are no longer finite, and leaves no checkpoint of such weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from anomalib_anoseg.training.checkpoints import find_not_finite

# Steps between two looks at the losses: each look makes the host wait for the device.
INTERVAL = 50


class FiniteLosses(Callback):
    """Stop a training whose loss becomes NaN or infinite, and name the step, the terms, and the last good checkpoint.

    The model's ``training_step`` returns its losses by name. They stay on their device and are read together, every
    :data:`INTERVAL` steps and before each validation and checkpoint, so that a step does not wait for the device.

    Raises:
        ValueError: If a loss is not finite, or a weight that is to be saved.
    """

    def __init__(self) -> None:
        self._unread: list[tuple[str, str, Tensor]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the losses of an earlier training."""
        del trainer, pl_module
        self._unread = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:  # noqa: ANN401
        """Note the losses of a step."""
        del pl_module
        if isinstance(outputs, Mapping):
            self._unread += [(_step_of(trainer), name, loss) for name, loss in outputs.items() if name != "loss"]
        if (trainer.fit_loop.total_batch_idx + 1) % INTERVAL == 0:
            self._read(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the losses before a validation."""
        del pl_module
        self._read(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last losses."""
        del pl_module
        self._read(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let no weights be saved that are not finite.

        Raises:
            ValueError: If one is not.
        """
        del pl_module
        self._read(trainer)
        weights = {name: weight for name, weight in checkpoint["state_dict"].items() if name.startswith("model.")}
        if names := find_not_finite(weights):
            raise ValueError(_explain(trainer, _step_of(trainer), f"the weights {names}"))

    def _read(self, trainer: Trainer) -> None:
        """Read the unread losses; all processes stop together, because one that stops alone leaves others waiting.

        Raises:
            ValueError: If one is not finite.
        """
        unread, self._unread = self._unread, []
        values = torch.stack([loss for *_, loss in unread]).tolist() if unread else []
        pairs = zip(unread, values, strict=True)
        bad = [(step, f"{name}={value}") for (step, name, _), value in pairs if not math.isfinite(value)]
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            step = bad[0][0] if bad else _step_of(trainer)
            terms = ", ".join(term for at, term in bad if at == step) or "losses of another process"
            raise ValueError(_explain(trainer, step, terms))


def _step_of(trainer: Trainer) -> str:
    return f"step {trainer.fit_loop.total_batch_idx + 1} (epoch {trainer.current_epoch + 1})"


def _explain(trainer: Trainer, step: str, what: str) -> str:
    """Say what is not finite, since when, which checkpoint is good, and what to do."""
    callbacks: Any = trainer.checkpoint_callbacks
    names = ("best_model_path", "last_model_path")  # not every callback that writes checkpoints has them
    saved = [Path(getattr(callback, name, "")) for callback in callbacks for name in names]
    good = max((path for path in saved if path.is_file()), key=lambda path: path.stat().st_mtime, default=None)
    kept = f"The last good checkpoint is {good}." if good else "No checkpoint was written before."
    half = " or --trainer.precision bf16-mixed" if trainer.precision == "16-mixed" else ""
    return (
        f"The training diverged: {what} at {step}. {kept} Train again with a lower learning rate "
        f"(--model.optimizer.lr){half}."
    )
