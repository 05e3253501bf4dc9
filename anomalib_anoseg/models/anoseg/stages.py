"""Two stages in one training: AnoSeg's networks first, then its detector with AnoSeg frozen.

Each stage has optimisers and a learning rate of its own, and a share of the training, whatever bounds that: epochs,
steps or time. Which stage runs follows from how many steps the optimisers have taken, which checkpoints hold, so that a
resumed training goes on where it was. GANs need Lightning's manual optimisation; this module is where it is done.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anomalib_anoseg.training.schedules import LinearDecay, time_progress, timed

Stage = Literal["segmentation", "detector"]


class Section(NamedTuple):
    """The part of a training that a stage takes.

    Attributes:
        stage: Which one.
        steps: Steps of each of its optimisers; may be infinite.
        window: Fractions of the training between which it runs.
        optimizers: Which of the trainer's optimisers, and learning rates, are its own.
    """

    stage: Stage
    steps: float
    window: tuple[float, float]
    optimizers: slice


class StagedOptimization(LightningModule):
    """Manual optimisation in one or two stages.

    A mixin, to stand before :class:`anomalib.models.components.AnomalibModule`.

    Attributes:
        stage: The stage that runs, or ran last.
        lr: Adam's learning rate.
        betas: Adam's betas.
        lr_decay_start: Fraction of each stage after which its learning rate falls linearly to zero.
        accumulate_grad_batches: Batches a step.
        gradient_clip_val: Largest norm of the gradient of each optimiser; ``None`` for any.
    """

    stage: Stage = "segmentation"
    lr: float
    betas: tuple[float, float]
    lr_decay_start: float
    accumulate_grad_batches: int
    gradient_clip_val: float | None
    _sections: Sequence[Section] = ()
    _section: Section

    def stage_shares(self) -> Mapping[Stage, float]:
        """Tell which fraction of the training's batches each stage takes, in their order; they sum up to 1."""
        raise NotImplementedError

    def stage_parameters(self, stage: Stage) -> list[list[nn.Parameter]]:
        """List what each optimiser of a stage trains."""
        raise NotImplementedError

    def enter_stage(self, stage: Stage) -> None:
        """Prepare the networks for a stage that begins, or is gone on with."""
        raise NotImplementedError

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Configure Adam for each network of each stage, and a learning rate that falls over its stage."""
        groups = {stage: self.stage_parameters(stage) for stage in self.stage_shares()}
        self._sections = self._divide({stage: len(group) for stage, group in groups.items()})
        optimizers: list[Optimizer] = []
        schedulers: list[LambdaLR] = []
        for section in self._sections:
            own: list[Optimizer] = [Adam(group, self.lr, self.betas) for group in groups[section.stage]]
            decay = timed(LinearDecay(self.lr_decay_start, section.steps), self.trainer, section.window)
            optimizers += own
            schedulers += [LambdaLR(optimizer, decay) for optimizer in own]
        return optimizers, schedulers

    def _divide(self, optimizers: Mapping[Stage, int]) -> list[Section]:
        """Divide the training among stages with so many optimisers each.

        Raises:
            ValueError: If there are two, and no end to divide the way to.
        """
        shares = self.stage_shares()
        total = self._count_steps(sum(shares[stage] * count for stage, count in optimizers.items()))
        if len(shares) > 1 and total == float("inf") and time_progress(self.trainer) is None:
            raise ValueError(
                "detector.enabled=True divides the training into two stages, but this one has no end. Set the "
                "trainer's max_epochs, max_steps or max_time."
            )
        sections: list[Section] = []
        start, first = 0.0, 0
        for (stage, share), steps in zip(shares.items(), split_steps(total, list(shares.values())), strict=True):
            last = first + optimizers[stage]
            sections.append(Section(stage, steps, (start, start + share), slice(first, last)))
            start, first = start + share, last
        return sections

    def _count_steps(self, optimizers: float) -> float:
        """Count the steps of each optimiser in this training; infinite if neither epochs nor steps bound it.

        Lightning's ``max_steps`` counts the steps of all optimisers together, of which ``optimizers`` are taken at
        once, on average over the training.
        """
        steps = self.trainer.estimated_stepping_batches / self.accumulate_grad_batches
        return min(steps, self.trainer.max_steps / optimizers) if self.trainer.max_steps > 0 else steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Go over to the next stage if it is time to; never between batches whose gradients are added up."""
        del batch
        if batch_idx % self.accumulate_grad_batches:
            return
        # Found once a step: time goes on while a step is taken.
        self._section = self._find_section()
        if self._section.stage != self.stage:
            self.stage = self._section.stage
            rank_zero_info(f"AnoSeg trains its {self.stage} now.")
        self.enter_stage(self.stage)

    def _find_section(self) -> Section:
        current, *later = self._sections
        for following in later:
            # A training that was lengthened after its second stage had begun does not go back to the first.
            if self._count_done(following) or self._is_over(current):
                current = following
        return current

    def _is_over(self, section: Section) -> bool:
        elapsed = time_progress(self.trainer)
        if elapsed is None:
            return self._count_done(section) >= section.steps
        # Clocks differ, and all processes must be in the same stage.
        is_over = self._count_done(section) >= section.steps or elapsed >= section.window[1]
        return bool(self.trainer.strategy.broadcast(is_over))

    def _count_done(self, section: Section) -> int:
        """Count the steps that each optimiser of a stage has taken, in this training and before it was resumed."""
        return self._as_list(self.lr_schedulers())[section.optimizers.start].last_epoch

    def stage_progress(self) -> float:
        """Tell which fraction of its stage the training has done, in ``[0, 1]``."""
        section = self._section
        start, end = section.window
        elapsed = time_progress(self.trainer)
        by_time = 0.0 if elapsed is None else (elapsed - start) / (end - start)
        return min(1.0, max(self._count_done(section) / section.steps, by_time))

    @property
    def stage_optimizers(self) -> list[LightningOptimizer]:
        """The optimisers of the stage that runs, in the order of :meth:`stage_parameters`."""
        return self._as_list(self.optimizers())[self._section.optimizers]

    def learn(self, loss: Tensor, optimizer: LightningOptimizer, is_step: bool) -> None:
        """Let an optimiser's networks learn.

        Args:
            loss: A scalar.
            optimizer: One of :attr:`stage_optimizers`.
            is_step: Whether this batch is the last whose gradients are added up.
        """
        self.manual_backward(loss / self.accumulate_grad_batches)
        if is_step:
            optimizer.step()
            optimizer.zero_grad()

    def step_schedules(self) -> None:
        """Let the learning rates of the stage that runs fall, once for each step of its optimisers."""
        for scheduler in self._as_list(self.lr_schedulers())[self._section.optimizers]:
            scheduler.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient here, where mixed precision has already unscaled it."""
        if self.gradient_clip_val is not None:
            self.clip_gradients(optimizer, self.gradient_clip_val, "norm")

    @staticmethod
    def _as_list(found: Any) -> list[Any]:  # noqa: ANN401
        """Lightning gives a single optimiser, or schedule, without a list."""
        return found if isinstance(found, list) else [found]


def split_steps(total: float, shares: Sequence[float]) -> list[float]:
    """Split the steps of a training between its one or two stages, whole ones and at least one each.

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
