"""Learning rates that fall towards the end of a training, whatever bounds it: epochs, steps or time."""

from collections.abc import Callable, Sequence
from typing import Protocol

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

__all__ = ["LinearDecay", "StepDecay", "time_progress", "timed"]


class Decay(Protocol):
    """Factor on the learning rate, by the fraction of the training that is done.

    Attributes:
        total: Number of steps; may be infinite.
    """

    total: float

    def __call__(self, step: int) -> float:
        """Compute the factor for a step, counted from 0."""

    def at(self, progress: float) -> float:
        """Compute the factor for a fraction of the training."""


class LinearDecay:
    """Factor on the learning rate: 1 up to ``start`` of ``total`` steps, then linearly to 0.

    Args:
        start: Fraction of the training, in ``[0, 1]``.
        total: Number of steps; may be infinite, for a constant factor.

    Example:
        >>> decay = LinearDecay(0.5, 100)
        >>> [decay(step) for step in (0, 50, 75, 100)]
        [1.0, 1.0, 0.5, 0.0]
    """

    def __init__(self, start: float, total: float) -> None:
        self.start, self.total = start, total

    def __call__(self, step: int) -> float:
        """Compute the factor for a step, counted from 0."""
        return self.at(step / self.total)

    def at(self, progress: float) -> float:
        """Compute the factor for a fraction of the training.

        Example:
            >>> LinearDecay(0.5, 100).at(0.75)
            0.5
        """
        progress = min(progress, 1.0)
        return 1.0 if progress <= self.start else (1 - progress) / (1 - self.start)


class StepDecay:
    """Factor on the learning rate that falls at fractions of the training.

    Args:
        milestones: Fractions, in ``[0, 1]``.
        factor: Factor by which it falls at each.
        total: Number of steps; may be infinite, for a constant factor of 1.

    Example:
        >>> decay = StepDecay((0.5, 0.75), 0.1, 100)
        >>> [round(decay(step), 3) for step in (0, 49, 50, 75)]
        [1.0, 1.0, 0.1, 0.01]
    """

    def __init__(self, milestones: Sequence[float], factor: float, total: float) -> None:
        self.milestones, self.factor, self.total = tuple(milestones), factor, total

    def __call__(self, step: int) -> float:
        """Compute the factor for a step, counted from 0."""
        return self.at(step / self.total)

    def at(self, progress: float) -> float:
        """Compute the factor for a fraction of the training.

        Example:
            >>> round(StepDecay((0.5, 0.75), 0.1, 100).at(0.8), 3)
            0.01
        """
        return self.factor ** sum(progress >= milestone for milestone in self.milestones)


def timed(decay: Decay, trainer: Trainer, window: tuple[float, float] = (0.0, 1.0)) -> Callable[[int], float]:
    """Let a decay follow the trainer's timer as well, if it has one: whichever is farther counts.

    Args:
        decay: The decay by steps.
        trainer: The trainer; ``max_time`` gives it a timer.
        window: Fractions of the time at which the decay starts and ends, for a part of a training.

    Returns:
        Callable[[int], float]: What :class:`torch.optim.lr_scheduler.LambdaLR` takes. A function, because the
        attributes of an object go into checkpoints: a training that goes on for longer would get back its former
        length, and learn nothing more.
    """
    start, end = window

    def follow(step: int) -> float:
        elapsed = time_progress(trainer)
        if elapsed is None:
            return decay(step)
        return decay.at(max(step / decay.total, (elapsed - start) / (end - start)))

    return follow


def time_progress(trainer: Trainer) -> float | None:
    """Tell which fraction of its time a training has used up; ``None`` if no timer bounds it.

    Example:
        >>> time_progress(Trainer(accelerator="cpu", logger=False)) is None
        True
        >>> time_progress(Trainer(accelerator="cpu", logger=False, max_time="00:00:01:00"))
        0.0
    """
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return max((_progress(timer) for timer in timers if timer.time_remaining() is not None), default=None)


def _progress(timer: Timer) -> float:
    elapsed = timer.time_elapsed()
    return elapsed / max(elapsed + (timer.time_remaining() or 0.0), 1e-9)
