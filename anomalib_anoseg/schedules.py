"""Learning rates that fall towards the end of a training, whatever bounds it: epochs, steps or time."""

from collections.abc import Callable

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

__all__ = ["LinearDecay", "timed"]


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


def timed(decay: LinearDecay, trainer: Trainer) -> LinearDecay | Callable[[int], float]:
    """Let a decay follow the trainer's timer as well, if it has one: whichever is farther counts.

    Args:
        decay: The decay by steps.
        trainer: The trainer; ``max_time`` gives it a timer.

    Returns:
        LinearDecay | Callable[[int], float]: What :class:`torch.optim.lr_scheduler.LambdaLR` takes; without a timer the
        decay itself.
    """
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    bounding = [timer for timer in timers if timer.time_remaining() is not None]
    if not bounding:
        return decay

    # A function, because of an object the scheduler would write its attributes, and so the timer, into checkpoints.
    def follow(step: int) -> float:
        return decay.at(max(step / decay.total, *map(_progress, bounding)))

    return follow


def _progress(timer: Timer) -> float:
    elapsed = timer.time_elapsed()
    return elapsed / max(elapsed + (timer.time_remaining() or 0.0), 1e-9)
