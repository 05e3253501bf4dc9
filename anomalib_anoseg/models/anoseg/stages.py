"""Two stages in one training: AnoSeg's networks first, then its detector with AnoSeg frozen.

Each stage has its own optimisers, learning rate and share of the training, which epochs, steps or time may bound. The
current stage follows from the number of optimiser steps taken. Checkpoints hold it, so that a resumed training
continues in its stage. GANs need Lightning's manual optimisation; this module does it.
"""

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anomalib_anoseg.common.one_or_many import as_list
from anomalib_anoseg.models.anoseg.settings import OptimizerSettings
from anomalib_anoseg.training.schedules import LinearDecay, time_progress, timed

Stage = Literal["segmentation", "detector"]


class Section(NamedTuple):
    """The part of a training that a stage takes.

    Attributes:
        stage: Name of the stage.
        steps: Number of steps of each of its optimisers; may be infinite.
        window: Fractions of the training at which it starts and ends.
        optimizers: Its slice of the trainer's optimisers and schedules.
    """

    stage: Stage
    steps: float
    window: tuple[float, float]
    optimizers: slice


class Stages:
    """Manual optimisation of a model in one or two stages.

    Args:
        model: The model to train; its trainer sets the length.
        settings: Settings of the optimisers.
        shares: Fraction of the training's batches that each stage takes, in their order; they sum up to 1.
        parameters: Lists the parameters of each optimiser of a stage.

    Attributes:
        current: The current stage, or the last one.
        shares: As given.
    """

    def __init__(
        self,
        model: LightningModule,
        settings: OptimizerSettings,
        shares: Mapping[Stage, float],
        parameters: Callable[[Stage], list[list[nn.Parameter]]],
    ) -> None:
        self.model, self.settings, self.shares, self.parameters = model, settings, shares, parameters
        self.current: Stage = "segmentation"
        self._sections: list[Section] = []
        self._section: Section

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Configure Adam for each network of each stage, and a learning rate that falls over its stage."""
        settings, groups = self.settings, {stage: self.parameters(stage) for stage in self.shares}
        self._sections = self._divide({stage: len(group) for stage, group in groups.items()})
        optimizers: list[Optimizer] = []
        schedulers: list[LambdaLR] = []
        for section in self._sections:
            own: list[Optimizer] = [Adam(group, settings.lr, settings.betas) for group in groups[section.stage]]
            decay = timed(LinearDecay(settings.lr_decay_start, section.steps), self.model.trainer, section.window)
            optimizers += own
            schedulers += [LambdaLR(optimizer, decay) for optimizer in own]
        return optimizers, schedulers

    def _divide(self, optimizers: Mapping[Stage, int]) -> list[Section]:
        """Divide the training among stages, given the number of optimisers of each.

        Raises:
            ValueError: If there are two stages and the training has no end.
        """
        total = self._count_steps(sum(self.shares[stage] * count for stage, count in optimizers.items()))
        if len(self.shares) > 1 and total == float("inf") and time_progress(self.model.trainer) is None:
            raise ValueError(
                "detector.enabled=True divides the training into two stages, but this one has no end. Set the "
                "trainer's max_epochs, max_steps or max_time."
            )
        sections: list[Section] = []
        start, first = 0.0, 0
        for (stage, share), steps in zip(
            self.shares.items(), split_steps(total, list(self.shares.values())), strict=True
        ):
            last = first + optimizers[stage]
            sections.append(Section(stage, steps, (start, start + share), slice(first, last)))
            start, first = start + share, last
        return sections

    def _count_steps(self, optimizers: float) -> float:
        """Count the steps of each optimiser in this training; infinite if neither epochs nor steps bound it.

        Lightning's ``max_steps`` counts the steps of all optimisers; ``optimizers`` is how many of them step together,
        on average over the training. The last batch of an epoch always ends a step.
        """
        trainer, epochs = self.model.trainer, self.model.trainer.max_epochs
        by_steps = trainer.max_steps / optimizers if trainer.max_steps > 0 else math.inf
        if epochs is None or epochs == -1:
            return by_steps
        trainer.fit_loop.setup_data()  # which counts the batches
        batches = trainer.num_training_batches
        if math.isinf(batches):
            return by_steps
        return min(math.ceil(batches / self.settings.accumulate_grad_batches) * max(epochs, 1), by_steps)

    def advance(self, batch_idx: int) -> Stage:
        """Start the next stage if it is due; never between batches whose gradients are accumulated."""
        if batch_idx % self.settings.accumulate_grad_batches:
            return self.current
        # Found once per step: time passes during a step.
        self._section = self._find_section()
        if self._section.stage != self.current:
            self.current = self._section.stage
            rank_zero_info(f"AnoSeg now trains its {self.current}.")
        return self.current

    def _find_section(self) -> Section:
        current, *later = self._sections
        for following in later:
            # A training that was lengthened after its second stage had begun does not go back to the first.
            if self._count_done(following) or self._is_over(current):
                current = following
        return current

    def _is_over(self, section: Section) -> bool:
        elapsed = time_progress(self.model.trainer)
        if elapsed is None:
            return self._count_done(section) >= section.steps
        # Clocks differ, and all processes must be in the same stage.
        is_over = self._count_done(section) >= section.steps or elapsed >= section.window[1]
        return bool(self.model.trainer.strategy.broadcast(is_over))

    def _count_done(self, section: Section) -> int:
        """Count the steps that each optimiser of a stage has taken, in this training and before it was resumed."""
        return as_list(self.model.lr_schedulers())[section.optimizers.start].last_epoch

    def progress(self) -> float:
        """Compute the fraction of the current stage that is done, in ``[0, 1]``."""
        section = self._section
        start, end = section.window
        elapsed = time_progress(self.model.trainer)
        by_time = 0.0 if elapsed is None else (elapsed - start) / (end - start)
        return min(1.0, max(self._count_done(section) / section.steps, by_time))

    @property
    def optimizers(self) -> list[LightningOptimizer]:
        """The optimisers of the current stage, in the order of its parameters."""
        return as_list(self.model.optimizers())[self._section.optimizers]

    def is_step(self, batch_idx: int) -> bool:
        """Tell whether the optimisers step after this batch."""
        return (batch_idx + 1) % self.settings.accumulate_grad_batches == 0 or self.model.trainer.is_last_batch

    @contextmanager
    def learning(self, optimizer: LightningOptimizer, is_step: bool) -> Generator[None, None, None]:
        """Let the parameters of one optimiser alone get gradients, and all others again afterwards.

        Lightning leaves the others without gradients if a step fails: no later training of this model could go on.
        """
        try:
            with optimizer.toggle_model(sync_grad=is_step):
                yield
        finally:
            self.model.untoggle_optimizer(optimizer)

    def backward_and_step(self, loss: Tensor, optimizer: LightningOptimizer, is_step: bool) -> None:
        """Compute the gradients of a scalar loss and, if ``is_step``, let an optimiser take a step."""
        self.model.manual_backward(loss / self.settings.accumulate_grad_batches)
        if is_step:
            optimizer.step()
            optimizer.zero_grad()

    def step_schedules(self) -> None:
        """Step the learning rate schedules of the current stage, once per step of its optimisers."""
        for scheduler in as_list(self.model.lr_schedulers())[self._section.optimizers]:
            scheduler.step()

    def clip_gradients(self, optimizer: Optimizer) -> None:
        """Clip the gradients of an optimiser's networks, if ``gradient_clip_val`` is set."""
        if self.settings.gradient_clip_val is not None:
            self.model.clip_gradients(optimizer, self.settings.gradient_clip_val, "norm")


def split_steps(total: float, shares: list[float] | tuple[float, ...]) -> list[float]:
    """Split the steps of a training between its one or two stages, in whole steps and at least one each.

    Args:
        total: Number of steps; may be infinite.
        shares: Fraction of each stage.

    Example:
        >>> split_steps(10, (0.7, 0.3)), split_steps(2, (0.9, 0.1)), split_steps(5, (1.0,))
        ([7, 3], [1, 1], [5])
    """
    if len(shares) == 1 or total == float("inf"):
        return [total] * len(shares)
    first = max(1, min(round(total * shares[0]), total - 1))
    return [first, max(1, total - first)]
